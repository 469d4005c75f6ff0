"""Weights in safetensors files, of torch and Flax, against the frameworks' own actions."""

import builtins
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints_weights
import flax.linen as nn
import numpy as np
import pytest
import torch
from checkpoint import Checkpoint
from checkpoints_weights import flax_lstm, nnx_recurrent, replayed
from parity import difference, session
from safetensors.numpy import save as packed
from safetensors.torch import save_file as save_torch

from edgerl.errors import ToolError, UserError
from edgerl.policies import load
from edgerl.policies.importers.layers.network import NeedsLayers
from edgerl.toolchain.lowering import lower

DENSE = '[[layer]]\nkind = "dense"\nweight = "w"\nbias = "b"\n'
MADE: dict[str, Callable[[Path], Checkpoint]] = {
    **checkpoints_weights.MAKERS,
    "flax-plain-lstm": lambda folder: flax_lstm(folder, nn.LSTMCell),
    "nnx-gru": lambda folder: nnx_recurrent(folder, "gru"),
    "nnx-lstm": lambda folder: nnx_recurrent(folder, "lstm"),
}


@pytest.mark.parametrize("name", MADE)
def test_actions_are_the_frameworks_own(name: str, tmp_path: Path) -> None:
    checkpoint = MADE[name](tmp_path)
    assert len(checkpoint.observations) >= 1000 and checkpoint.resets.sum() > 1
    policy = load(checkpoint.path, layers=checkpoint.layers)
    actions = replayed(policy, checkpoint)
    assert len(np.unique(checkpoint.actions)) > 1
    scale = 1.0 + np.abs(checkpoint.actions)
    assert np.max(np.abs(actions - checkpoint.actions) / scale) < 1e-5
    assert difference(policy, lower(policy)) < 1e-5


def test_what_was_assumed(tmp_path: Path) -> None:
    checkpoint = checkpoints_weights.torch_mlp(tmp_path)
    policy = load(checkpoint.path, layers=checkpoint.layers)
    assert "not used of net.safetensors: 'critic.bias', 'critic.weight'" in policy.assumed
    assert policy.spec.action[0].range == (-2.0, 2.0)
    assert policy.provenance["source"] == "safetensors"
    recurrent = checkpoints_weights.torch_gru(tmp_path)
    policy = load(recurrent.path, layers=recurrent.layers)
    assert [(s.name, s.size) for s in policy.spec.state] == [("hidden", 12), ("hidden_2", 12)]
    assert any("zeros after a reset" in line for line in policy.assumed)


def test_without_a_layer_list(tmp_path: Path) -> None:
    checkpoint = checkpoints_weights.torch_mlp(tmp_path)
    with pytest.raises(NeedsLayers, match="--layers") as caught:
        load(checkpoint.path)
    assert "\n" not in str(caught.value)
    assert 'weight = "actor.0.weight"' in caught.value.template


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HOSTILE = {
    "empty": (b"", "no safetensors file"),
    "text": (b"<html>not found</html>", "no safetensors file"),
    "header beyond the end": (struct.pack("<Q", 1 << 60) + b"{}", "no safetensors file"),
    "header too long": (struct.pack("<Q", 2 << 20) + b" " * (2 << 20), "1,048,576 are possible"),
    "header not JSON": (struct.pack("<Q", 4) + b"{{{{", "no safetensors file"),
    "nested": (struct.pack("<Q", 100_000) + b"[" * 100_000, "no safetensors file"),
    "overlap": (
        header(w=entry("F32", [2], 0, 8), b=entry("F32", [2], 4, 12)) + bytes(12),
        "no safetensors file",
    ),
    "hole": (
        header(w=entry("F32", [2], 0, 8), b=entry("F32", [2], 12, 20)) + bytes(20),
        "no safetensors file",
    ),
    "beyond the end": (header(w=entry("F32", [2], 0, 8)), "no safetensors file"),
    "shape and size": (header(w=entry("F32", [3], 0, 8)) + bytes(8), "no safetensors file"),
    "overflow": (
        header(w=entry("F32", [1 << 62, 1 << 62], 0, 8)) + bytes(8),
        "no safetensors file",
    ),
    "negative": (header(w=entry("F32", [-1], 0, 8)) + bytes(8), "no safetensors file"),
    "unknown type": (header(w=entry("F99", [2], 0, 8)) + bytes(8), "no safetensors file"),
    "float8": (header(w=entry("F8_E5M2", [8], 0, 8)) + bytes(8), "'F8_E5M2'; save the model in"),
    "half": (packed({"w": np.zeros((2, 2), np.float16)}), "'w' is in float16; save the model in"),
    "axes": (packed({"w": np.zeros((1,) * 12, np.float32)}), "12 axes"),
    "integers": (
        packed({"w": np.zeros((2, 2), np.int64), "b": np.zeros(2, np.float32)}),
        "layer 1 (dense): tensor 'w' is of type int64",
    ),
    "nan": (
        packed({"w": np.full((2, 2), np.nan, np.float32), "b": np.zeros(2, np.float32)}),
        "tensor 'w' holds values that are not finite",
    ),
    "no tensors": (packed({}), "tensor 'w' is not in the file; it has none"),
    "no values": (
        packed({"w": np.zeros((0, 2), np.float32), "b": np.zeros(2, np.float32)}),
        "[0, 2]",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    content, words = HOSTILE[name]
    path, layers = tmp_path / "net.safetensors", tmp_path / "layers.toml"
    path.write_bytes(content)
    layers.write_text(DENSE, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load(path, layers=layers)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("net.safetensors")


def test_bfloat16(tmp_path: Path) -> None:
    save_torch({"w": torch.zeros(2, 2, dtype=torch.bfloat16)}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="'w' is in bfloat16; save the model in float32"):
        load(tmp_path / "net.safetensors")


def test_file_too_large(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with path.open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(UserError, match="larger than 256 MiB"):
        load(path)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none.safetensors")


def test_float64_is_rounded_and_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, 3)), rng.normal(size=2)
    path, layers = tmp_path / "net.safetensors", tmp_path / "layers.toml"
    path.write_bytes(packed({"w": weight, "b": bias}))
    layers.write_text(DENSE, encoding="utf-8")
    policy = load(path, layers=layers)
    assert "weights: rounded from float64 to float32" in policy.assumed
    x = rng.normal(size=(1, 3)).astype(np.float32)
    (action,) = session(policy).run(None, {"observation": x})
    np.testing.assert_allclose(action, x @ weight.T + bias, rtol=1e-5)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(packed({"w": np.zeros((2, 2), np.float32)}))
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "safetensors":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ToolError, match=r"pip install 'edgerl\[import\]'"):
        load(path)


def test_damaged_files_are_policies_or_refused(tmp_path: Path) -> None:
    checkpoint = checkpoints_weights.MAKERS["torch-mlp-safetensors"](tmp_path)
    whole, rng = checkpoint.path.read_bytes(), np.random.default_rng(5)
    refused = 0
    for case in range(300):
        content = bytearray(whole)
        if case % 3 == 0:
            del content[int(rng.integers(len(content))) :]
        else:
            # Mostly in the header, where it tells.
            reach = 900 if case % 3 == 1 else len(content)
            for _ in range(int(rng.integers(1, 6))):
                content[int(rng.integers(reach))] ^= 1 << int(rng.integers(8))
        checkpoint.path.write_bytes(content)
        try:
            assert load(checkpoint.path, layers=checkpoint.layers).spec.action_size == 1
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 100 < refused < 300
