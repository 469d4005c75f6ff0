"""Files that are no saved models of Stable-Baselines3, or not quite: one line each."""

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from checkpoint import Checkpoint
from checkpoints_sb3 import by_key, cart_pole, pendulum, trained
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation
from picture import Image
from saved_models import SMALL, altered, keyed, small
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from edgerl import policies
from edgerl.errors import UserError

__all__ = ["keyed", "small"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a saved model."""
    with zipfile.ZipFile(path) as archive:
        return dict(torch.load(io.BytesIO(archive.read("policy.pth"))))


def stored(state: Any) -> bytes:
    """What torch writes of an object."""
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


class Bomb:
    """Unpickles as a call of `eval`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("print('BOOM')",)


class OwnPolicy(ActorCriticPolicy):
    """A policy class of the user's own."""


def test_policies_over_images(tmp_path: Path) -> None:
    model, _ = trained(
        stable_baselines3.PPO, lambda: Image(36), 0, policy="CnnPolicy", n_steps=8, batch_size=8,
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 4}},
    )  # fmt: skip
    model.save(tmp_path / "model.zip")
    with pytest.raises(UserError, match=r"model\.zip: .*over images; convolutions are not supp"):
        policies.load(tmp_path / "model.zip")
    # The same network, by a policy that takes any extractor.
    path = altered(tmp_path / "model.zip", tmp_path, {"policy_class": ActorCriticPolicy})
    with pytest.raises(UserError, match=r"cnn\.0\.weight' is a convolution's"):
        policies.load(path)


def test_unknown_policies(small: Checkpoint, tmp_path: Path) -> None:
    model = sb3_contrib.QRDQN("MlpPolicy", cart_pole(), policy_kwargs=SMALL)
    model.save(tmp_path / "qrdqn.zip")
    with pytest.raises(UserError, match=r"QRDQNPolicy' is not read.*PPO, A2C.*export_sb3"):
        policies.load(tmp_path / "qrdqn.zip")
    for own in (OwnPolicy, type("Nameless", (ActorCriticPolicy,), {})):
        path = altered(small.path, tmp_path, {"policy_class": own})
        with pytest.raises(UserError, match=r"policy_class is no class of Stable-Base.*export_sb3"):
            policies.load(path)


def test_unknown_activation(tmp_path: Path) -> None:
    options = {"activation_fn": lambda: nn.LeakyReLU(0.3)}
    model, _ = trained(stable_baselines3.PPO, pendulum, 0, policy_kwargs=options)
    model.save(tmp_path / "model.zip")
    with pytest.raises(UserError, match=r"activation_fn '<function .*lambda.*is not known"):
        policies.load(tmp_path / "model.zip")


def test_weights_that_do_not_fit(small: Checkpoint, tmp_path: Path) -> None:
    state = weights(small.path)
    nan = {**state, "action_net.bias": torch.tensor([float("nan")])}
    cases: dict[str, tuple[dict[str, Any], dict[str, bytes | None]]] = {
        r"policy_net\.0\.weight' has sizes \[8, 3\], \[any, 4\] are needed: 4 values reach it": (
            {"observation_space": spaces.Box(-1, 1, (4,))}, {},
        ),
        r"its network gives 1 values, its action space takes 2": (
            {"action_space": spaces.Box(-1, 1, (2,))}, {},
        ),
        r"no limits, or no room": ({"action_space": spaces.Box(-1, np.inf, (1,))}, {}),
        r"space 'Tuple' is not supported; Box, Discrete": (
            {"observation_space": spaces.Tuple([spaces.Discrete(2)])}, {},
        ),
        r"a Dict inside a Dict": (
            {"observation_space": spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)))}, {},
        ),
        r"1000000000000 values; 1 to 65536": ({"observation_space": spaces.Discrete(10**12)}, {}),
        r"weights in float16; save the model in float32": (
            {}, {"policy.pth": stored({k: v.half() for k, v in state.items()})},
        ),
        r"weights in bfloat16": (
            {}, {"policy.pth": stored({k: v.bfloat16() for k, v in state.items()})},
        ),
        r"action_net\.bias' holds values that are not finite": ({}, {"policy.pth": stored(nan)}),
        r"'more\.weight' belongs to no layer": (
            {}, {"policy.pth": stored({**state, "more.weight": torch.ones(2, 2)})},
        ),
        r"'action_net\.weight' is not in the file": (
            {},
            {"policy.pth": stored({k: v for k, v in state.items() if "action_net.w" not in k})},
        ),
        r"the places of layers in mlp_extractor\.policy_net are \[0, 1\]": (
            {},
            {
                "policy.pth": stored(
                    {**state, "mlp_extractor.policy_net.1.weight": torch.ones(8)}
                )
            },
        ),
        r"no weights by name": ({}, {"policy.pth": stored([1, 2])}),
        r"no zip archive": ({}, {"policy.pth": b"\x80\x02."}),
        r"has no member 'policy\.pth'": ({}, {"policy.pth": None}),
        r"has no member 'data'": ({}, {"data": None}),
        r"data is not JSON": ({}, {"data": b"{"}),
        r"data is no JSON object": ({}, {"data": b"[]"}),
        r"no observation_space; not a whole saved model": ({}, {"data": json.dumps({
            "policy_class": {
                ":serialized:": base64.b64encode(cloudpickle.dumps(ActorCriticPolicy)).decode()
            }
        }).encode()}),
    }  # fmt: skip
    for message, (fields, members) in cases.items():
        path = altered(small.path, tmp_path, fields, members)
        with pytest.raises(UserError, match=message) as refused:
            policies.load(path)
        assert "\n" not in str(refused.value)
        assert str(refused.value).startswith("changed.zip")


def test_nothing_is_executed(
    small: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bomb = pickle.dumps(Bomb())
    with zipfile.ZipFile(small.path) as archive:
        inner = archive.read("policy.pth")
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(inner)) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            new.writestr(name, bomb if name.endswith("data.pkl") else old.read(name))
    cases: list[tuple[dict[str, Any], dict[str, bytes | None]]] = [
        ({"observation_space": bomb}, {}),
        ({"policy_class": bomb}, {}),
        ({}, {"policy.pth": content.getvalue()}),
    ]
    for fields, members in cases:
        with pytest.raises(UserError):
            policies.load(altered(small.path, tmp_path, fields, members))
    statistics = tmp_path / "bomb.pkl"
    statistics.write_bytes(bomb)
    with pytest.raises(UserError, match=r"bomb\.pkl: names 'builtins\.eval'"):
        policies.load(small.path, vecnormalize=statistics)
    # Where nothing has to be read, nothing is.
    path = altered(small.path, tmp_path, {"lr_schedule": bomb, "policy_kwargs": bomb})
    assert policies.load(path, vecnormalize=small.vecnormalize).spec.action_size == 1
    assert "BOOM" not in capfd.readouterr().out


def test_archives_out_of_bounds(small: Checkpoint, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b"{}")
        archive.writestr("policy.pth", bytes(257 << 20))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"bomb\.zip: unpacks to 257 MiB"):
        policies.load(bomb)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("data", b"{}")
    with pytest.raises(UserError, match=r"'data' is packed by a method other than deflate"):
        policies.load(packed)
    with pytest.raises(UserError, match=r"'\.\./data' leaves the archive"):
        policies.load(altered(small.path, tmp_path, members={"../data": b""}))
    with pytest.raises(UserError, match=r"larger than 32 MiB"):
        policies.load(altered(small.path, tmp_path, members={"data": b" " * (33 << 20)}))
    nested: Any = ()
    for _ in range(60):
        nested = (nested, nested)
    with pytest.raises(UserError, match=r"space 'tuple' is not supported"):
        policies.load(altered(small.path, tmp_path, {"observation_space": pickle.dumps(nested)}))


def shared(opening: bytes, pair: bytes) -> bytes:
    """A stream that makes an object and puts it in a pair with itself, 60 times over."""
    return opening + b"".join(b"q%c0" % k + pair.replace(b"$", b"h%c" % k) for k in range(60))


TUPLES = shared(b")", b"$$" + pickle.TUPLE2)
LISTS = shared(b"]", b"]$a$a")
TEXT = pickle.BINUNICODE + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)
STREAMS = {
    "hashed": b"}" + TUPLES + b"Ns",
    "hashed, many at once": b"}(" + TUPLES + b"Nu",
    "hashed, in a new dictionary": b"(" + TUPLES + b"Nd",
    "hashed, in a set": b"(" + TUPLES + pickle.FROZENSET,
    "written out": b"cnumpy\ndtype\n" + LISTS + b"\x85R",
    "looked into": b"cgymnasium.spaces.multi_discrete\nMultiDiscrete\n)\x81}\x8c\x04nvec"
    + LISTS
    + b"sb",
    "the same bytes again and again": TEXT
    + b"q\x010c_codecs\nencode\nq\x020("
    + b"h\x02h\x01\x85R" * 5000
    + b"l",
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_without_end(name: str, small: Checkpoint, tmp_path: Path) -> None:
    stream = b"\x80\x04" + STREAMS[name] + b"."
    path = altered(small.path, tmp_path, {"observation_space": stream})
    with pytest.raises(UserError, match=r"changed\.zip: observation_space: "):
        policies.load(path)


def test_statistics_that_do_not_fit(small: Checkpoint, keyed: Checkpoint, tmp_path: Path) -> None:
    other = tmp_path / "other.pkl"
    VecNormalize(DummyVecEnv([cart_pole])).save(str(other))
    with pytest.raises(UserError, match=r"other\.pkl: its mean has shape \[4\].*model\.zip.*\[3\]"):
        policies.load(small.path, vecnormalize=other)
    with pytest.raises(UserError, match=r"normalises a dictionary.*model\.zip observes one vector"):
        policies.load(small.path, vecnormalize=keyed.vecnormalize)
    with pytest.raises(UserError, match=r"normalises one vector.*observes a dictionary"):
        policies.load(keyed.path, vecnormalize=other)
    VecNormalize(DummyVecEnv([lambda: FilterObservation(by_key(), ["velocity"])])).save(str(other))
    path = altered(keyed.path, tmp_path, {"observation_space": spaces.Dict(a=spaces.Discrete(2))})
    with pytest.raises(UserError, match=r"key 'velocity' is not both in its statistics"):
        policies.load(path, vecnormalize=other)
    other.write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match=r"other\.pkl: holds no VecNormalize"):
        policies.load(small.path, vecnormalize=other)
    with pytest.raises(UserError, match=r"missing\.pkl: cannot be read"):
        policies.load(small.path, vecnormalize=tmp_path / "missing.pkl")


def flipped(content: bytes, random: np.random.Generator) -> bytes:
    """The content with a few bytes changed, or cut short."""
    if random.integers(4) == 0:
        return content[: random.integers(len(content))]
    damaged = bytearray(content)
    for place in random.integers(len(content), size=random.integers(1, 4)):
        damaged[place] ^= int(random.integers(1, 256))
    return bytes(damaged)


def part(content: bytes, name: str) -> bytes:
    """A member of an archive, or a pickle in a field of its data."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if name in archive.namelist():
            return archive.read(name)
        data = json.loads(archive.read("data"))
        return base64.b64decode(data[name][":serialized:"])


@pytest.mark.parametrize(
    "where", ["zip", "data", "policy.pth", "data.pkl", "observation_space", "action_space",
              "policy_class", "statistics"],
)  # fmt: skip
def test_damaged_files_are_refused_or_read(
    where: str, small: Checkpoint, keyed: Checkpoint, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    # Without what is never read, so that damage hits.
    whole = altered(keyed.path, tmp_path, members={
        "policy.optimizer.pth": None, "pytorch_variables.pth": None, "system_info.txt": None,
    })  # fmt: skip
    base, statistics = tmp_path / "base.zip", tmp_path / "statistics.pkl"
    whole.rename(base)
    assert keyed.vecnormalize is not None
    refused = 0
    for _ in range(60):
        statistics.write_bytes(keyed.vecnormalize.read_bytes())
        path = base
        match where:
            case "zip":
                path = tmp_path / "damaged.zip"
                path.write_bytes(flipped(base.read_bytes(), random))
            case "statistics":
                statistics.write_bytes(flipped(statistics.read_bytes(), random))
            case "data.pkl":
                content = io.BytesIO()
                old = zipfile.ZipFile(io.BytesIO(part(base.read_bytes(), "policy.pth")))
                with zipfile.ZipFile(content, "w") as new:
                    for name in old.namelist():
                        inner = old.read(name)
                        damaged = flipped(inner, random) if name.endswith("data.pkl") else inner
                        new.writestr(name, damaged)
                path = altered(base, tmp_path, members={"policy.pth": content.getvalue()})
            case "data" | "policy.pth":
                damaged = flipped(part(base.read_bytes(), where), random)
                path = altered(base, tmp_path, members={where: damaged})
            case _:
                damaged = flipped(part(base.read_bytes(), where), random)
                path = altered(base, tmp_path, {where: damaged})
        try:
            policies.load(path, vecnormalize=statistics)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0
