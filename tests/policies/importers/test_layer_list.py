"""Layer lists: what each layer computes, the first guess at one, and what is wrong with one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints_weights
import numpy as np
import pytest
import torch
from parity import session
from safetensors.numpy import load_file

from edgerl.errors import UserError
from edgerl.policies.assembly import assemble
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.importers.layers.file import KINDS, Dense, load_layers
from edgerl.policies.importers.layers.network import Chain, NeedsLayers, append, network, template
from edgerl.policies.importers.layers.weights import Weights
from edgerl.policies.policy import Policy

Arrays = dict[str, np.ndarray]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def listed(folder: Path, text: str) -> Path:
    path = folder / "layers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def layer(kind: str, **keys: Any) -> str:
    def shown(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value)

    lines = [f"{key} = {shown(value)}" for key, value in {"kind": kind, **keys}.items()]
    return "\n".join(["[[layer]]", *lines, ""])


def policy(folder: Path, text: str, tensors: Arrays) -> Policy:
    return assemble(network(tensors, listed(folder, text), "net.pt"), "net", "net.pt")


def run(made: Policy, x: np.ndarray) -> np.ndarray:
    zeros = {s.name: np.zeros((1, s.size), np.float32) for s in made.spec.state}
    result: np.ndarray = session(made).run(["action"], {"observation": x[np.newaxis], **zeros})[0]
    return result[0]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


W, B, MEAN = floats(4, 3), floats(4), floats(1, 3)
STD = np.abs(floats(3, seed=1)) + 0.5
TENSORS = {"w": W, "b": B, "wt": np.ascontiguousarray(W.T), "mean": MEAN, "std": STD}
ONE: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "dense": (layer("dense", weight="w", bias="b"), lambda x: W @ x + B),
    "no bias": (layer("dense", weight="w"), lambda x: W @ x),
    "transposed": (layer("dense", weight="wt", transposed=True), lambda x: W @ x),
    "activation within": (
        layer("dense", weight="w", activation="sigmoid"), lambda x: sigmoid(W @ x),
    ),
    "activation": (
        "observation = 3\n" + layer("activation", activation="silu"), lambda x: x * sigmoid(x),
    ),
    "deviation": (
        layer("normalize", mean="mean", std="std", epsilon=0.01),
        lambda x: (x - MEAN[0]) / (STD + 0.01),
    ),
    "variance": (
        layer("normalize", mean="mean", var="std", epsilon=0.01),
        lambda x: (x - MEAN[0]) / np.sqrt(STD + 0.01),
    ),
    "norm": (
        layer("dense", weight="w") + layer("layer_norm", bias="b", epsilon=1e-5),
        lambda x: (W @ x - np.mean(W @ x)) / np.sqrt(np.var(W @ x) + 1e-5) + B,
    ),
    "norm first": (
        layer("layer_norm", weight="std", epsilon=1e-5, activation="relu"),
        lambda x: np.maximum(0, (x - np.mean(x)) / np.sqrt(np.var(x) + 1e-5) * STD),
    ),
    "scale": (
        layer("scale", scale=[1, 2.5, -3], offset=1), lambda x: x * [1, 2.5, -3] + 1,
    ),
    "clip": (layer("clip", low=[-1, -0.1, 0], high=0.3), lambda x: np.clip(x, [-1, -0.1, 0], 0.3)),
    "cut": (layer("dense", weight="w") + layer("cut", start=1, stop=3), lambda x: (W @ x)[1:3]),
    "argmax": (layer("dense", weight="w") + layer("argmax"), lambda x: np.argmax(W @ x)[None]),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_layers(name: str, tmp_path: Path) -> None:
    text, expected = ONE[name]
    made = policy(tmp_path, text, TENSORS)
    for k in range(10):
        x = floats(3, seed=k)
        np.testing.assert_allclose(run(made, x), expected(x.astype(np.float64)), atol=2e-6)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (layer("activation", activation="tanh"), (-1.0, 1.0)),
        (layer("activation", activation="sigmoid") + layer("scale", scale=-4, offset=1), (-3, 1)),
        (layer("activation", activation="tanh") + layer("cut", stop=2), (-1.0, 1.0)),
        (layer("clip", low=[-1, -3, 0, 0], high=[1, 2, 3, 5]), (-3.0, 5.0)),
        (layer("argmax"), (0.0, 3.0)),
    ],
)
def test_range_of_the_action(last: str, expected: tuple[float, float], tmp_path: Path) -> None:
    made = policy(tmp_path, layer("dense", weight="w") + last, TENSORS)
    assert made.spec.action[0].range == expected
    assert not any(line.startswith("action") for line in made.assumed)


def test_unbounded_action_is_said(tmp_path: Path) -> None:
    made = policy(tmp_path, layer("dense", weight="w"), TENSORS)
    assert any(
        line.startswith("WARNING: action: one signal of 4 values, saturated to [-1, 1]")
        for line in made.assumed
    )
    assert "layers: 1, as layers.toml lists them" in made.assumed
    assert "not used of net.pt: 'b', 'wt', 'mean', 'std'" in made.assumed


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("bias", [True, False])
def test_torch_cells(kind: str, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    cell = {"gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}[kind](3, 5, bias=bias)
    tensors = {f"m.{k}": v.detach().numpy() for k, v in cell.state_dict().items()}
    made = policy(tmp_path, layer(kind, prefix="m."), tensors)
    x = floats(3)
    with torch.no_grad():
        after = cell(torch.from_numpy(x[np.newaxis]))
    expected = after if kind == "gru" else after[0]
    np.testing.assert_allclose(run(made, x), expected.numpy()[0], atol=1e-6)
    assert len(made.spec.state) == (1 if kind == "gru" else 2)


def test_appended_to_a_graph_that_exists() -> None:
    """As another importer does: layers between its own, tensors found used afterwards."""
    graph, weights = GraphBuilder(), Weights(TENSORS, "net")
    x = graph.affine(graph.input("observation", 3), 2.0, 1.0)
    end = append(graph, Chain(x, 3), [Dense(kind="dense", weight="w", bias="b")], weights)
    assert (end.size, end.states, end.range) == (4, (), None)
    assert weights.used == {"w", "b"} and weights.unused == ["wt", "mean", "std"]


SQUARE = {"w1": floats(4, 3), "w2": floats(2, 5), "v": floats(3), "conv": floats(4, 3, 3, 3)}
GRU = {"g.weight_ih_l0": floats(12, 3), "g.weight_hh_l0": floats(12, 4)}
FLAX = {f"c/{s}{g}/kernel": floats(3 if s == "i" else 4, 4) for s in "ih" for g in "rzn"}
WRONG: dict[str, tuple[str, Arrays, str]] = {
    "shapes": (
        layer("dense", weight="w1") + layer("dense", weight="w2"), SQUARE,
        "net.pt: layer 2 (dense): tensor 'w2' has sizes [2, 5], [any, 4] are needed: "
        "4 values reach it",
    ),
    "turned": (
        layer("dense", weight="w1") + layer("dense", weight="w"), {**SQUARE, "w": floats(4, 2)},
        "[any, 4] are needed: 4 values reach it; transposed = true would fit",
    ),
    "bias": (layer("dense", weight="w1", bias="v"), SQUARE, "[3], [4] are needed: 'w1' gives 4"),
    "convolution": (layer("dense", weight="conv"), SQUARE, "has sizes [4, 3, 3, 3], [any, any]"),
    "near name": (
        layer("dense", weight="actor.weigth"), {"actor.weight": W},
        "tensor 'actor.weigth' is not in the file; did you mean 'actor.weight'?",
    ),
    "far name": (layer("dense", weight="zzz"), SQUARE, "it has 'conv', 'v', 'w1', 'w2'"),
    "observation": (
        layer("activation", activation="tanh"), {}, "add a line at the top: observation = SIZE",
    ),
    "given observation": (
        "observation = 7\n" + layer("dense", weight="w1"), SQUARE, "[any, 7] are needed",
    ),
    "gates": (
        layer("lstm", prefix="g."), {**GRU, "g.weight_ih_l0": floats(15, 3)},
        "has 15 rows, which are not 4 gates; is it a gru?",
    ),
    "hidden": (
        layer("lstm", prefix="g."), GRU,
        "tensor 'g.weight_hh_l0' has sizes [12, 4], [12, 3] are needed: 4 gates of 3 values",
    ),
    "prefix": (layer("gru", prefix="h."), GRU, "did you mean 'g.weight_ih_l0'?"),
    "directions": (
        layer("gru", prefix="g."), {**GRU, "g.weight_ih_l0_reverse": floats(12, 3)},
        "has two directions",
    ),
    "projection": (
        layer("lstm", prefix="g."), {**GRU, "g.weight_hr_l0": floats(2, 4)}, "has a proj_size",
    ),
    "flax gate": (
        layer("gru", prefix="c/", framework="flax"), {**FLAX, "c/hz/kernel": floats(4, 5)},
        "the kernels of gate 'z' below 'c/' give 5 values, those of gate 'r' 4",
    ),
    "flax prefix": (
        layer("gru", prefix="c", framework="flax"), FLAX, "did you mean 'c/ir/kernel'?",
    ),
    "nnx gates": (
        layer("gru", prefix="", framework="flax"), {"dense_i/kernel": floats(3, 16)},
        "gives 16 values, which are not 3 gates; is it an lstm?",
    ),
    "numbers": (
        layer("dense", weight="w1") + layer("clip", low=[0, 0], high=1), SQUARE,
        "layer 2 (clip): low has 2 numbers, the layer above gives 4 values",
    ),
    "limits": (
        layer("clip", low=[0, 1], high=[1, 1]), {}, "layer 1 (clip): low is not below high",
    ),
    "cut": (layer("dense", weight="w1") + layer("cut", stop=9), SQUARE, "values 0 to 9 of the 4"),
    "argmax": (
        layer("dense", weight="one") + layer("argmax"), {"one": floats(1, 3)}, "one value only",
    ),
    "deviation": (
        layer("normalize", mean="v", std="zero"), {**SQUARE, "zero": np.zeros(3, np.float32)},
        "leaves nothing positive to divide by",
    ),
    "too much": (
        layer("dense", weight="w") * 25, {"w": np.ones((1000, 1000), np.float32)},
        "20000000 are possible",
    ),
    "half": (
        layer("dense", weight="w"), {"w": np.zeros((2, 2), np.float16)}, "is in float16; save",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit(name: str, tmp_path: Path) -> None:
    text, tensors, words = WRONG[name]
    with pytest.raises(UserError) as caught:
        network(tensors, listed(tmp_path, text), "net.pt")
    assert words in str(caught.value) and "\n" not in str(caught.value)


NO_LIST = {
    "left open": (layer("dense", weight="w", activation="?"), "layer 1: 'activation' is still"),
    "open number": (layer("layer_norm", weight="w", epsilon="?"), "'epsilon' is still"),
    "open kind": ('[[layer]]\nkind = "?"\n', "one of dense, gru, lstm, layer_norm"),
    "kind": (layer("conv2d"), "layer 1: unknown kind 'conv2d'; one of dense, gru"),
    "no kind": ("[[layer]]\nweight = 'w'\n", "layer 1: has no kind; one of dense"),
    "missing": (
        layer("dense", weight="w") + layer("dense"),
        "layer 2: weight: missing; give the weight's",
    ),
    "unknown key": (layer("dense", wieght="w"), "layer 1: wieght: unknown key; did you mean 'wei"),
    "activation": (
        layer("dense", weight="w", activation="rellu"),
        "activation 'rellu'; did you mean 'relu'?",
    ),
    "spreads": (layer("normalize", mean="m"), "layers.toml: layer 1: give either std or var"),
    "text for a number": (layer("cut", stop="3"), "layer 1: stop: must be a whole number"),
    "empty": ("", "layer: missing; give the layers, from"),
    "no layers": ("layer = []", "must have at least 1 entries"),
    "no tables": ("layer = [1]", "layer"),
    "other keys": ("layers = 3", "layers: unknown key; did you mean 'layer'?"),
    "no TOML": ("[[layer]", "not TOML"),
    "infinite": (layer("scale", scale=1) + "offset = inf\n", "must be a finite number"),
}


@pytest.mark.parametrize("name", NO_LIST)
def test_files_that_are_no_layer_list(name: str, tmp_path: Path) -> None:
    text, words = NO_LIST[name]
    with pytest.raises(UserError) as caught:
        load_layers(listed(tmp_path, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_template_filled_in_is_the_network(tmp_path: Path) -> None:
    checkpoint = checkpoints_weights.torch_mlp(tmp_path)
    assert checkpoint.layers is not None
    tensors = load_file(checkpoint.path)
    given = network(tensors, checkpoint.layers, "net").graph
    text = template(tensors, checkpoint.path.name)
    with pytest.raises(UserError, match=r'is still "\?"'):
        network(tensors, listed(tmp_path, text), "net")
    for value in ("1e-8", '"linear"', '"elu"', '"tanh"'):
        text = text.replace('"?"', value, 1)
    # What no tensor tells of is the user's to add.
    clip = layer("clip", low=-10, high=10)
    second = text.index("[[layer]]", text.index("[[layer]]") + 1)
    text = text[:second] + clip + text[second:] + layer("scale", scale=2)
    assert network(tensors, listed(tmp_path, text), "net").graph == given


def test_template_chooses_the_actor() -> None:
    tensors = {
        "critic.0.weight": floats(8, 6), "critic.0.bias": floats(8),
        "actor.10.weight": floats(2, 8), "actor.10.bias": floats(2),
        "actor.2.weight": floats(8, 8), "actor.2.bias": floats(8),
        "actor.0.weight": floats(8, 6), "actor.0.bias": floats(8),
        "actor_obs_normalizer._mean": floats(1, 6), "actor_obs_normalizer._var": floats(1, 6),
        "critic_obs_normalizer._mean": floats(1, 6), "critic_obs_normalizer._var": floats(1, 6),
        "std": floats(2), "steps": np.zeros((), np.int64),
    }  # fmt: skip
    text = template(tensors, "model.pt")
    order = ["actor_obs_normalizer._mean", "actor.0.weight", "actor.2.weight", "actor.10.weight"]
    places = [text.index(f'"{name}"') for name in order]
    assert places == sorted(places)
    unused = text.split("# Not used:")[1]
    for name in ("critic.0.weight", "critic_obs_normalizer._mean", "std", "steps"):
        assert f'# "{name}"' in unused
    assert text.count('activation = "?"') == 3 and text.count('epsilon = "?"') == 1


def test_template_finds_an_order_by_size() -> None:
    """Flax numbers layers by kind: the memory stands between two dense layers."""
    tensors = {
        "Dense_0/kernel": floats(4, 8), "Dense_1/kernel": floats(6, 2),
        **{f"GRUCell_0/i{g}/kernel": floats(8, 6) for g in "rzn"},
        **{f"GRUCell_0/h{g}/kernel": floats(6, 6) for g in "rzn"},
    }  # fmt: skip
    text = template(tensors, "params.safetensors")
    places = [text.index(part) for part in ("Dense_0", "GRUCell_0", "Dense_1")]
    assert places == sorted(places) and "Not used" not in text


def test_template_of_strange_names_is_toml(tmp_path: Path) -> None:
    names = ['a"b.weight', "a\\b.weight", "line\nbreak.weight", "\x7f\ud800é.weight"]
    text = template({name: floats(3, 3) for name in names}, "x")
    with pytest.raises(UserError, match="is still"):
        load_layers(listed(tmp_path, text))
    filled = load_layers(listed(tmp_path, text.replace('"?"', '"relu"')))
    weights = {one.weight for one in filled.layer if isinstance(one, Dense)}
    assert weights == {*names[:3], "\x7f?é.weight"}


def test_template_of_much_is_quick_and_of_nothing_is_one() -> None:
    many = {f"a.{k}.weight": floats(8, 8) for k in range(3000)}
    assert template(many, "x").count("[[layer]]") >= 100
    # A name on which a search that backtracks would take hours.
    endless = "_target" * 100_000
    assert endless not in template({f"{endless}.weight": floats(2, 2)}, "x")
    assert 'kind = "?"' in template({}, "x")
    assert 'kind = "?"' in template({"x": floats(2, 2, 2)}, "x")


def test_needs_layers_carries_the_template() -> None:
    with pytest.raises(NeedsLayers, match=r"net\.pt: holds weights.*--layers") as caught:
        network({"w.weight": floats(2, 3)}, None, "net.pt")
    assert 'weight = "w.weight"' in caught.value.template


def test_documentation_names_every_key_and_its_example_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "layers.md").read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    assert len(load_layers(listed(tmp_path, example)).layer) == 3
    for kind, model in KINDS.items():
        assert f"`{kind}`" in text
        for key in model.model_fields:
            assert f"`{key}`" in text or key == "kind"
