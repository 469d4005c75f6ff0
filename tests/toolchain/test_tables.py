"""Activations as compiled, against their stated accuracy; all float32 are swept elsewhere."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from compiled import step, twin_of

from edgerl.toolchain import interpreter, ir
from edgerl.toolchain.bounds import accuracy
from edgerl.toolchain.bounds.enclosure import LARGEST
from edgerl.toolchain.build import HostTwin
from edgerl.toolchain.emit.plan import VECTOR_ACTIVATIONS
from edgerl.toolchain.emit.tables import Curve, table

SWEEP = Path(__file__).parents[2] / "benchmarks" / "results" / "activations.json"
CURVES = get_args(Curve)
ACTIVATIONS = sorted(VECTOR_ACTIVATIONS)
READS_TABLE = ("tanh", "sigmoid", "silu", "gelu", "mish", "elu", "selu", "softplus")
ALPHA = 0.7
WIDTH = 64


@dataclass(frozen=True)
class Compiled:
    program: ir.Program
    twin: HostTwin
    fused: bool


@pytest.fixture(scope="module", params=[True, False], ids=["fma", "mul"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Every activation of WIDTH arguments, one after the other."""
    tensors = {name: ir.Tensor(WIDTH) for name in ["x", *ACTIVATIONS]}
    operations: list[ir.Operation] = [ir.Activate(a, "x", a, ALPHA) for a in ACTIVATIONS]
    picks = tuple((k, i) for k in range(len(ACTIVATIONS)) for i in range(WIDTH))
    operations.append(ir.Gather(tuple(ACTIVATIONS), picks, "all"))
    tensors["all"] = ir.Tensor(len(picks))
    program = ir.Program("activations", "x", "all", (), tuple(operations), tensors)
    folder = tmp_path_factory.mktemp("activations")
    return Compiled(program, twin_of(program, folder, fused=request.param), request.param)


def evaluated(compiled: Compiled, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every activation at x."""
    rows = np.resize(x, (-(-len(x) // WIDTH), WIDTH))
    actions, _ = step(compiled.program, compiled.twin, rows, [])
    columns = actions.reshape(len(rows), len(ACTIVATIONS), WIDTH).swapaxes(0, 1)
    results = columns.reshape(len(ACTIVATIONS), -1)[:, : len(x)]
    return dict(zip(ACTIVATIONS, results, strict=True))


def arguments() -> np.ndarray:
    """Middles and edges of all cells of all tables with their neighbours, powers of two, all
    sorts of floats and many ordinary ones."""
    rng = np.random.default_rng(11)
    special: list[np.ndarray] = [np.array([0.0, -0.0, LARGEST, -LARGEST])]
    for curve in CURVES:
        t = table(curve)
        # The sigmoids read the tanh table at half their argument.
        for scale in (t.scale, 0.5 * t.scale):
            special.append(np.arange(2 * t.first - 4, 2 * t.last + 5) / (2.0 * scale))
    points = np.concatenate(special).astype(np.float32)
    points = np.concatenate([points, *(np.exp2(np.arange(-149, 124)) * s for s in (1, -1))])
    points = points.astype(np.float32)
    steps = [points]
    for direction in (-np.inf, np.inf):
        beside = points
        for _ in range(3):
            beside = np.nextafter(beside, np.float32(direction))
            steps.append(beside)
    bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32)
    any_float = bits.view(np.float32)
    ordinary = rng.uniform(-20.0, 20.0, 100_000).astype(np.float32)
    x = np.concatenate([*steps, any_float[np.isfinite(any_float)], ordinary])
    return x[np.abs(x) <= LARGEST]


def test_accuracy_is_as_stated(compiled: Compiled) -> None:
    x = arguments()
    argument = x.astype(np.float64)
    for activation, y in evaluated(compiled, x).items():
        here = argument <= (accuracy.EXPONENTIAL_LIMIT if activation == "exp" else np.inf)
        if activation in ("square", "reciprocal"):  # no overflow
            here &= (np.abs(argument) < 1e18) & (np.abs(argument) > 1e-18)
        with np.errstate(all="ignore"):
            exact = interpreter.activate(activation, argument, ALPHA)
            stated = accuracy.emitted(activation, ALPHA).at(argument, exact) + 2.0**-149
            share = np.abs(y - exact)[here] / stated[here]
        worst = share.argmax()
        assert share[worst] <= 1.0, (activation, x[here][worst], y[here][worst])
        # The statement is not so wide that nothing could break it.
        assert share[worst] > 0.3 or activation in ("relu", "abs"), (activation, share[worst])


def test_stated_errors_of_tables_are_met_and_not_far_from_it() -> None:
    for curve in CURVES:
        t = table(curve)
        v = np.linspace(t.first - 1.0, t.last + 1.0 if t.last else 0.0, 400_001).astype(np.float32)
        error = np.abs(_cubic(t.coefficients, t.first, v, fused=False) - _exact(curve, v / t.scale))
        assert 0.6 * t.error < error.max() <= t.error, curve


def test_code_reads_the_nearest_cell(compiled: Compiled) -> None:
    """Ties go to the even cell, arguments beyond the ends to the outermost."""
    x = arguments()
    t = table("tanh")
    y = evaluated(compiled, x)["tanh"]
    expected = _cubic(t.coefficients, t.first, x * np.float32(t.scale), compiled.fused)
    same = y.view(np.uint32) == expected.view(np.uint32)
    # A fused product and sum is imitated in float64, which rarely rounds twice.
    assert same.mean() > 0.9999 if compiled.fused else same.all()


def test_tanh_and_sigmoid_stay_in_range(compiled: Compiled) -> None:
    results = evaluated(compiled, arguments())
    assert np.abs(results["tanh"]).max() == 1.0
    assert results["sigmoid"].min() == 0.0
    assert results["sigmoid"].max() == 1.0


def test_zero_stays_zero(compiled: Compiled) -> None:
    results = evaluated(compiled, np.zeros(WIDTH, np.float32))
    for activation in ("tanh", "elu", "selu", "silu", "gelu", "mish", "softsign", "hard_swish"):
        assert not results[activation].any(), activation


def test_nan_stays_nan(compiled: Compiled) -> None:
    nans = np.array([0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF], np.uint32)
    results = evaluated(compiled, np.resize(nans, WIDTH).view(np.float32))
    for activation in (*READS_TABLE, "softsign", "hard_swish", "leaky_relu", "square"):
        assert np.isnan(results[activation]).all(), activation


def test_infinity_gives_its_limit_or_nan(compiled: Compiled) -> None:
    x = np.resize(np.array([-np.inf, np.inf], np.float32), WIDTH)
    for activation, y in evaluated(compiled, x).items():
        if activation == "exp":  # saturates on both sides
            assert np.isfinite(y).all()
            continue
        with np.errstate(all="ignore"):
            limits = interpreter.activate(activation, x.astype(np.float64), ALPHA)
        finite = np.isfinite(y)
        np.testing.assert_allclose(y[finite], limits[finite], rtol=1e-6, err_msg=activation)
        assert (np.isnan(y) | (y == limits))[~finite].all(), activation


def test_every_float_was_swept_with_these_tables() -> None:
    report = json.loads(SWEEP.read_text())
    assert report["arguments"] == 1 << 32
    assert report["tables"] == {
        curve: hashlib.sha256(table(curve).coefficients.tobytes()).hexdigest() for curve in CURVES
    }
    swept = report["activations"]
    assert set(swept) >= {*READS_TABLE, "exp", "softsign", "hard_sigmoid", "hard_swish"}
    for activation, found in swept.items():
        stated = {
            "fma": accuracy.emitted(activation),
            "mul": accuracy.emitted(activation),
            "onnxruntime": accuracy.onnxruntime(activation),
        }
        if activation in ("tanh", "sigmoid"):
            stated["onnxruntime GRU"] = accuracy.onnxruntime_cell(activation)
        assert found.keys() == stated.keys()
        for name, finding in found.items():
            assert finding["stated"] == asdict(stated[name]), (activation, name)
            assert finding["of_stated"] <= 1.0, (activation, name)
    for numerics in ("fma", "mul"):
        assert (swept["tanh"][numerics]["low"], swept["tanh"][numerics]["high"]) == (-1.0, 1.0)


def _cubic(coefficients: np.ndarray, first: int, v: np.ndarray, fused: bool) -> np.ndarray:
    """The table at v, each product and sum rounded together or by itself."""
    cell = np.clip(np.rint(np.clip(v, -1e6, 1e6)), first, first + len(coefficients) - 1)
    c0, c1, c2, result = coefficients[cell.astype(int) - first].T
    for c in (c2, c1, c0):
        product = result.astype(np.float64) * v if fused else result * v
        result = (product + c).astype(np.float32)
    return result


def _exact(curve: str, x: np.ndarray) -> np.ndarray:
    """The function that a table holds."""
    argument = x.astype(np.float64)
    match curve:
        case "phi":
            return interpreter.activate("gelu", argument) / np.where(argument, argument, np.nan)
        case "mish":
            return np.tanh(np.logaddexp(0.0, argument))
        case "softplus" | "tanh" | "elu":
            return interpreter.activate(curve, argument)
    raise AssertionError(curve)
