"""The networks of Stable-Baselines3's policies, as layer lists over their weights' names.

What a policy does between features and action is fixed by its class; how many layers there are
stands in the names of the weights, and which activation follows them in the policy's options.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgerl.errors import UserError
from edgerl.policies.importers.layers.file import (
    MOST_LAYERS,
    Activation,
    Clip,
    Dense,
    Layer,
    Recurrent,
)
from edgerl.policies.importers.sb3.saved_model import OwnCode, SavedModel
from edgerl.policies.names import shown

Layers = tuple[Layer, ...]


@dataclass(frozen=True)
class Actor:
    """What acts in a policy: its layers from the features to the action.

    `squashed` is true where the last layer gives values in [-1, 1] that span the action space.
    `extractor` is what the names of the features extractor's weights begin with, `others` what
    the names of weights do that never act.
    """

    layers: Layers
    squashed: bool
    extractor: str
    others: tuple[str, ...]


def actor(model: SavedModel) -> Actor:
    """The actor of a saved model.

    Raises UserError, in one line, for policies over images and classes that are not known, and
    for activations and layers that are not.
    """
    name = model.policy_class
    if "Cnn" in name.rpartition(".")[2]:
        raise UserError(f"{model.where}: {shown(name)} is a policy over images; {NO_IMAGES}")
    find = _ACTORS.get(name)
    if find is None:
        raise OwnCode(
            f"{model.where}: policy {shown(name)} is not read from a file; those of PPO, A2C, "
            "TRPO, SAC, TQC, TD3, DDPG, DQN and RecurrentPPO are"
        )
    return find(model)


NO_IMAGES = (
    "convolutions are not supported, only networks of dense and recurrent layers over vectors are"
)


def _actor_critic(model: SavedModel) -> Actor:
    """PPO, A2C, TRPO: the mean of a Gaussian, or logits. Only gSDE may squash its mean."""
    squashed = model.options.get("squash_output") is True
    return Actor(
        layers=(
            *_hidden(model, "mlp_extractor.policy_net", _after(model, "Tanh")),
            _dense(model, "action_net"),
            *(_TANH if squashed else ()),
        ),
        squashed=squashed,
        extractor="pi_features_extractor.",
        others=(
            "features_extractor.", "vf_features_extractor.", "mlp_extractor.value_net.",
            "value_net.", "log_std",
        ),
    )  # fmt: skip


def _recurrent(model: SavedModel) -> Actor:
    """RecurrentPPO: an LSTM between features and the layers of PPO."""
    plain = _actor_critic(model)
    lstm = Recurrent(kind="lstm", prefix="lstm_actor.", framework="torch")
    return Actor(
        layers=(lstm, *plain.layers),
        squashed=plain.squashed,
        extractor=plain.extractor,
        others=(*plain.others, "lstm_critic.", "critic."),
    )


def _sac(model: SavedModel) -> Actor:
    """SAC, TQC: the squashed mean of a Gaussian, which gSDE limits before it is squashed."""
    limited = "actor.mu.0.weight" in model.weights
    mean: Layers = (_dense(model, "actor.mu.0" if limited else "actor.mu"),)
    if limited:
        limit = model.options.get("clip_mean", 2.0)
        if not isinstance(limit, int | float) or not 0.0 < limit < 1e30:
            raise UserError(f"{model.where}: clip_mean of its policy is no positive number")
        mean = (*mean, Clip(kind="clip", low=-float(limit), high=float(limit)))
    return Actor(
        layers=(*_hidden(model, "actor.latent_pi", _after(model, "ReLU")), *mean, *_TANH),
        squashed=True,
        extractor="actor.features_extractor.",
        others=("critic.", "critic_target.", "actor.log_std"),
    )


def _td3(model: SavedModel) -> Actor:
    """TD3, DDPG: a squashed action."""
    return Actor(
        layers=(*_hidden(model, "actor.mu", _after(model, "ReLU"), last=()), *_TANH),
        squashed=True,
        extractor="actor.features_extractor.",
        others=("actor_target.", "critic.", "critic_target."),
    )


def _dqn(model: SavedModel) -> Actor:
    """DQN: the value of every action."""
    return Actor(
        layers=_hidden(model, "q_net.q_net", _after(model, "ReLU"), last=()),
        squashed=False,
        extractor="q_net.features_extractor.",
        others=("q_net_target.",),
    )


_SB3, _CONTRIB = "stable_baselines3", "sb3_contrib"
_ACTORS: Mapping[str, Callable[[SavedModel], Actor]] = {
    f"{_SB3}.common.policies.ActorCriticPolicy": _actor_critic,
    f"{_SB3}.common.policies.MultiInputActorCriticPolicy": _actor_critic,
    f"{_CONTRIB}.common.recurrent.policies.RecurrentActorCriticPolicy": _recurrent,
    f"{_CONTRIB}.common.recurrent.policies.RecurrentMultiInputActorCriticPolicy": _recurrent,
    f"{_SB3}.sac.policies.SACPolicy": _sac,
    f"{_SB3}.sac.policies.MultiInputPolicy": _sac,
    f"{_CONTRIB}.tqc.policies.TQCPolicy": _sac,
    f"{_CONTRIB}.tqc.policies.MultiInputPolicy": _sac,
    f"{_SB3}.td3.policies.TD3Policy": _td3,
    f"{_SB3}.td3.policies.MultiInputPolicy": _td3,
    f"{_SB3}.dqn.policies.DQNPolicy": _dqn,
    f"{_SB3}.dqn.policies.MultiInputPolicy": _dqn,
}


def _named(name: str) -> Layers:
    return (Activation(kind="activation", activation=name),)


_TANH = _named("tanh")
# torch's activation classes with their default arguments: SB3 calls the class with none.
_ACTIVATIONS: Mapping[str, Layers] = {
    "ReLU": _named("relu"),
    "Tanh": _TANH,
    "Sigmoid": _named("sigmoid"),
    "ELU": _named("elu"),
    "CELU": _named("elu"),
    "SELU": _named("selu"),
    "GELU": _named("gelu"),
    "SiLU": _named("silu"),
    "Mish": _named("mish"),
    "Softplus": _named("softplus"),
    "Softsign": _named("softsign"),
    "LeakyReLU": _named("leaky_relu"),
    "Hardsigmoid": _named("hard_sigmoid"),
    "Hardswish": _named("hard_swish"),
    "ReLU6": (Clip(kind="clip", low=0.0, high=6.0),),
    "Hardtanh": (Clip(kind="clip", low=-1.0, high=1.0),),
}
_CLASS = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>")


def _after(model: SavedModel, default: str) -> Layers:
    """What follows every hidden layer; `default` is the name of the class's own activation."""
    given = model.options.get("activation_fn")
    if given is None:
        return _ACTIVATIONS[default]
    found = _CLASS.fullmatch(given) if isinstance(given, str) else None
    layers = _ACTIVATIONS.get(found[1]) if found else None
    if layers is None:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise OwnCode(
            f"{model.where}: activation_fn {shown(str(given))} is not known; torch.nn's {known} are"
        )
    return layers


def _hidden(model: SavedModel, prefix: str, after: Layers, last: Layers | None = None) -> Layers:
    """The dense layers of a torch Sequential called `prefix`, `after` following each of them,
    and `last` the last one in its place if given."""
    inside = re.compile(re.escape(prefix) + r"\.(\d{1,6})\.weight")
    numbers = sorted(int(match[1]) for match in map(inside.fullmatch, model.weights) if match)
    # Every second place holds an activation, which has no weights.
    if numbers != list(range(0, 2 * len(numbers), 2)):
        raise OwnCode(
            f"{model.where}: the places of layers in {prefix} are {numbers[:10]}, not 0, 2, 4, …: "
            "no network that the library builds"
        )
    if len(numbers) > MOST_LAYERS:
        raise UserError(f"{model.where}: {len(numbers)} layers; {MOST_LAYERS} are possible")
    layers: Layers = ()
    for number in numbers:
        ending = after if last is None or number != numbers[-1] else last
        layers = (*layers, _dense(model, f"{prefix}.{number}"), *ending)
    return layers


def _dense(model: SavedModel, name: str) -> Dense:
    bias = f"{name}.bias" if f"{name}.bias" in model.weights else None
    return Dense(kind="dense", weight=f"{name}.weight", bias=bias)
