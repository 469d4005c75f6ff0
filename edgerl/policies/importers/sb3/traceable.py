"""The network of a live Stable-Baselines3 policy as a torch module that can be traced."""

from dataclasses import dataclass
from typing import Any

from edgerl.errors import ToolError, UserError
from edgerl.policies.importers.sb3.spaces import Box, Named, Space


@dataclass(frozen=True)
class Traceable:
    """A module from features [1, n] and states to outputs [1, m] and next states, an `example`
    of what it takes, and whether its outputs are in [-1, 1] and span the action space."""

    module: Any
    example: tuple[Any, ...]
    squashed: bool


@dataclass(frozen=True)
class _Parts:
    """What acts in a policy: features extractor, LSTM or None, the modules after them."""

    extractor: Any
    stages: tuple[Any, ...]
    squashed: bool
    lstm: Any = None
    quantiles: int = 1


def traceable(policy: Any, observed: Space) -> Traceable:
    """The network of a policy whose observations are of the space `observed`.

    Its features are those that `boundary.features` makes of an observation: keys one after
    another, integers spread. Raises UserError for policies of no known make, ToolError without
    torch.
    """
    try:
        import torch
    except ImportError as error:
        raise ToolError("a model of Stable-Baselines3 needs torch; pip install torch") from error
    parts = _parts(policy)
    named = observed.spaces if isinstance(observed, Named) else (("", observed),)
    keys, sizes = [key for key, _ in named], [part.features for _, part in named]
    shapes = [part.shape if isinstance(part, Box) else (part.features,) for _, part in named]
    by_key, layers = isinstance(observed, Named), getattr(parts.lstm, "num_layers", 0)

    class Network(torch.nn.Module):
        """From features and states, h and c of each layer in turn, to outputs and next states."""

        def __init__(self) -> None:
            super().__init__()
            self.extractor, self.lstm = parts.extractor, parts.lstm
            self.stages = torch.nn.ModuleList(parts.stages)

        def forward(self, features: Any, *states: Any) -> Any:
            """One step."""
            cut = torch.split(features, sizes, dim=1)
            shaped = [part.reshape(1, *shape) for part, shape in zip(cut, shapes, strict=True)]
            x = self.extractor(dict(zip(keys, shaped, strict=True)) if by_key else shaped[0])
            after: list[Any] = []
            if layers:
                before = torch.stack(states[0::2]), torch.stack(states[1::2])
                x, (hidden, memory) = self.lstm(x.unsqueeze(0), before)
                x = x.squeeze(0)
                after = [each for k in range(layers) for each in (hidden[k], memory[k])]
            stages: Any = self.stages
            for stage in stages:
                x = stage.forward_actor(x) if hasattr(stage, "forward_actor") else stage(x)
            if parts.quantiles > 1:
                x = x.reshape(1, parts.quantiles, -1).mean(dim=1)
            return (x, *after) if after else x

    states = [torch.zeros(1, parts.lstm.hidden_size) for _ in range(2 * layers)]
    return Traceable(Network(), (torch.zeros(1, sum(sizes)), *states), parts.squashed)


def _parts(policy: Any) -> _Parts:
    """The acting parts of a policy by what it is made of, whatever its class is called."""
    from torch import nn

    if hasattr(policy, "mlp_extractor") and hasattr(policy, "action_net"):
        squashed = bool(policy.squash_output)
        stages = [policy.mlp_extractor, policy.action_net, *([nn.Tanh()] if squashed else [])]
        lstm = getattr(policy, "lstm_actor", None)
        return _Parts(policy.pi_features_extractor, tuple(stages), squashed, lstm)
    actor: Any = getattr(policy, "actor", None)
    if hasattr(actor, "mu"):
        gaussian = hasattr(actor, "latent_pi")
        stages = [actor.latent_pi, actor.mu, nn.Tanh()] if gaussian else [actor.mu]
        return _Parts(actor.features_extractor, tuple(stages), squashed=True)
    if hasattr(policy, "q_net"):
        net = policy.q_net
        return _Parts(net.features_extractor, (net.q_net,), squashed=False)
    if hasattr(policy, "quantile_net"):
        net = policy.quantile_net
        quantiles = int(net.n_quantiles)
        stages = [net.quantile_net]
        return _Parts(net.features_extractor, tuple(stages), squashed=False, quantiles=quantiles)
    raise UserError(
        f"policy {type(policy).__name__} is of no known make; trace its actor yourself: "
        "edgerl.load(module, example=torch.zeros(1, n))"
    )
