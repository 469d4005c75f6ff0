"""Every activation at every float32: the emitted code and onnxruntime against the stated errors.

    python -m benchmarks.activations [NAME ...] [--threads N]

All 2^32 bit patterns go through the compiled code, fused and unfused, and through onnxruntime;
float64 is the reference, whose own error is far below the last digit stated. The result is
`benchmarks/results/activations.json`: for each activation and evaluator the largest error as a
fraction of the stated one (`edgerl/toolchain/bounds/accuracy.py`), where it is, and the range of
the results. A figure above 1 ends the run with exit code 1. An hour on one core.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain import interpreter, ir
from edgerl.toolchain.bounds import accuracy
from edgerl.toolchain.bounds.enclosure import LARGEST
from edgerl.toolchain.build import build_host
from edgerl.toolchain.emit import emit
from edgerl.toolchain.emit.tables import Curve, table

RESULTS = Path(__file__).parent / "results" / "activations.json"
WIDTH = 4096
UNITS = 64
BLOCK = 1 << 16
PATTERNS = 1 << 32

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Evaluate = Callable[[Singles], Singles]

# The operators that onnxruntime computes each activation with.
OPERATORS: dict[ir.Activation, tuple[str, ...]] = {
    "tanh": ("Tanh",),
    "sigmoid": ("Sigmoid",),
    "elu": ("Elu",),
    "selu": ("Selu",),
    "silu": ("Sigmoid", "Mul"),
    "gelu": ("Gelu",),
    "mish": ("Mish",),
    "softplus": ("Softplus",),
    "exp": ("Exp",),
    "softsign": ("Softsign",),
    "hard_sigmoid": ("HardSigmoid",),
    "hard_swish": ("HardSwish",),
}
ALPHA: dict[ir.Activation, float] = {"hard_sigmoid": 1.0 / 6.0}
# Arguments beyond which a result is said to saturate instead.
HIGHEST: dict[ir.Activation, float] = {"exp": accuracy.EXPONENTIAL_LIMIT}


@dataclass(frozen=True)
class Finding:
    """What a sweep found of one evaluator.

    `of_stated` is the largest error as a fraction of the stated bound, met at argument `at`
    with error `error`; `low` and `high` are the range of all results that were compared;
    `keeps_nan` says that every NaN gave NaN.
    """

    of_stated: float = 0.0
    at: float = 0.0
    error: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    at_minus_infinity: str = ""
    at_infinity: str = ""
    keeps_nan: bool = True


def graph(activation: ir.Activation) -> onnx.ModelProto:
    """The activation as an ONNX graph of WIDTH elements."""
    names = OPERATORS[activation]
    nodes = [helper.make_node(names[0], ["x"], ["gate" if names[1:] else "y"])]
    if activation in ALPHA:
        nodes[0].attribute.append(helper.make_attribute("alpha", ALPHA[activation]))
    if names[1:]:
        nodes.append(helper.make_node("Mul", ["x", "gate"], ["y"]))
    return model_of(nodes, [])


def cell(activation: ir.Activation) -> onnx.ModelProto:
    """A GRU whose next state is the activation of its input, for UNITS inputs at a time: a closed
    update gate passes the new value, which is a tanh; an open input of that gate passes, with a
    state of one and a new value of zero, the gate itself."""
    of_tanh = activation == "tanh"
    same, none = np.eye(UNITS), np.zeros((UNITS, UNITS))
    closed = np.full(UNITS, -1000.0 if of_tanh else 0.0)
    rows = WIDTH // UNITS
    constants = {
        "w": np.concatenate([none, none, same] if of_tanh else [same, none, none])[np.newaxis],
        "r": np.zeros((1, 3 * UNITS, UNITS)),
        "b": np.concatenate([closed, np.zeros(5 * UNITS)])[np.newaxis],
        "h": np.full((1, rows, UNITS), 0.0 if of_tanh else 1.0),
    }
    shapes = {"before": [1, rows, UNITS], "after": [1, WIDTH]}
    nodes = [
        helper.make_node("Reshape", ["x", "before"], ["sequence"]),
        helper.make_node(
            "GRU", ["sequence", "w", "r", "b", "", "h"], ["", "last"],
            hidden_size=UNITS, linear_before_reset=1,
        ),
        helper.make_node("Reshape", ["last", "after"], ["y"]),
    ]  # fmt: skip
    tensors = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()]
    tensors += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in shapes.items()]
    return model_of(nodes, tensors)


def model_of(nodes: list[onnx.NodeProto], constants: list[TensorProto]) -> onnx.ModelProto:
    """Nodes from x [1, WIDTH] to y [1, WIDTH] as a model."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, WIDTH]) for n in "xy"]
    return helper.make_model(
        helper.make_graph(nodes, "activation", ends[:1], ends[1:], constants),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )


def library(model: onnx.ModelProto) -> Evaluate:
    """onnxruntime as a function of any number of WIDTH elements."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def evaluate(x: Singles) -> Singles:
        rows = x.reshape(-1, 1, WIDTH)
        return np.concatenate([session.run(None, {"x": row})[0] for row in rows]).reshape(-1)

    return evaluate


def compiled(
    activation: ir.Activation, model: onnx.ModelProto, folder: Path, fused: bool
) -> tuple[Evaluate, str]:
    """The emitted code as a function of any number of WIDTH elements, and its compiler."""
    name = f"{activation}_{'fma' if fused else 'mul'}"
    spec = PolicySpec(
        name=name,
        observation=(Signal(name="x", size=WIDTH, range=(-1e30, 1e30)),),
        action=(Signal(name="y", size=WIDTH, range=(-1e30, 1e30)),),
        non_finite="fallback",
    )
    operation = ir.Activate(activation, "x", "y", ALPHA.get(activation, 1.0))
    tensors = {"x": ir.Tensor(WIDTH), "y": ir.Tensor(WIDTH)}
    program = ir.Program(name, "x", "y", (), (operation,), tensors)
    package = emit(Policy(model, spec), program, fused=fused)
    source = folder / name
    source.mkdir()
    for file, text in package.files.items():
        (source / file).write_text(text, newline="\n")
    twin = build_host(source, name, folder)

    def evaluate(x: Singles) -> Singles:
        rows = x.reshape(-1, WIDTH)
        return twin.many(twin.reset_states(len(rows)), rows, "evaluate").actions.reshape(-1)

    return evaluate, twin.compiler


def exactly(activation: ir.Activation, x: Doubles) -> Doubles:
    """The activation in float64. NumPy has no error function, and one call of math.erf for each
    float would take longer than everything else."""
    if activation != "gelu":
        return interpreter.activate(activation, x)
    import torch

    return x * (0.5 + 0.5 * torch.erf(torch.from_numpy(x * math.sqrt(0.5))).numpy())


def measured(
    before: Finding, x: Singles, y: Singles, exact: Doubles, stated: Doubles, compared: Flags
) -> Finding:
    """`before` with one more block: arguments, results, exact results, stated errors, and
    which of them are compared."""
    with np.errstate(invalid="ignore"):
        error = np.where(compared, np.abs(y - exact), 0.0)
        # A result that is no number where one was due is as wrong as can be.
        error = np.where(np.isnan(error), np.inf, error)
        share = np.where(compared, error / stated, 0.0)
    worst = int(share.argmax())
    found = before
    if share[worst] > before.of_stated:
        found = replace(
            found, of_stated=float(share[worst]), at=float(x[worst]), error=float(error[worst])
        )
    values = y[compared]
    ends = (y[np.isneginf(x)], y[np.isposinf(x)])
    return replace(
        found,
        low=min(found.low, float(values.min(initial=np.inf))),
        high=max(found.high, float(values.max(initial=-np.inf))),
        at_minus_infinity=found.at_minus_infinity + "".join(map(str, ends[0])),
        at_infinity=found.at_infinity + "".join(map(str, ends[1])),
        keeps_nan=found.keeps_nan and bool(np.isnan(y[np.isnan(x)]).all()),
    )


def stated(activation: ir.Activation) -> dict[str, accuracy.Accuracy]:
    """The stated accuracy of each evaluator of an activation."""
    ours = accuracy.emitted(activation)
    result = {"fma": ours, "mul": ours, "onnxruntime": accuracy.onnxruntime(activation)}
    if activation in ("tanh", "sigmoid"):
        result["onnxruntime GRU"] = accuracy.onnxruntime_cell(activation)
    return result


def digest(curve: Curve) -> str:
    """What identifies a table's coefficients."""
    return hashlib.sha256(table(curve).coefficients.tobytes()).hexdigest()


def sweep(activation: ir.Activation, threads: int, folder: Path) -> tuple[dict[str, Finding], str]:
    """All float32 arguments through every evaluator of one activation."""
    model, limits = graph(activation), stated(activation)
    evaluators: dict[str, Evaluate] = {}
    for fused in (True, False):
        numerics = "fma" if fused else "mul"
        evaluators[numerics], compiler = compiled(activation, model, folder, fused)
    evaluators["onnxruntime"] = library(model)
    if "onnxruntime GRU" in limits:
        evaluators["onnxruntime GRU"] = library(cell(activation))

    def part(first: int, last: int) -> dict[str, Finding]:
        found = {name: Finding() for name in evaluators}
        for start in range(first, last, BLOCK):
            x = np.arange(start, start + BLOCK, dtype=np.uint32).view(np.float32)
            with np.errstate(all="ignore"):  # signalling NaNs among the patterns
                argument = x.astype(np.float64)
                exact = exactly(activation, argument)
            compared = np.abs(argument) <= LARGEST
            compared &= argument <= HIGHEST.get(activation, np.inf)
            for name, evaluate in evaluators.items():
                with np.errstate(invalid="ignore"):
                    # The smallest float stands for the rounding of subnormal results.
                    limit = limits[name].at(argument, exact) + 2.0**-149
                found[name] = measured(found[name], x, evaluate(x), exact, limit, compared)
        return found

    share = PATTERNS // threads
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda k: part(k * share, (k + 1) * share), range(threads)))
    return {name: merged([p[name] for p in parts]) for name in evaluators}, compiler


def merged(parts: list[Finding]) -> Finding:
    """What several parts of the float32 numbers found together."""
    worst = max(parts, key=lambda p: p.of_stated)
    return Finding(
        worst.of_stated,
        worst.at,
        worst.error,
        min(p.low for p in parts),
        max(p.high for p in parts),
        "".join(p.at_minus_infinity for p in parts),
        "".join(p.at_infinity for p in parts),
        all(p.keeps_nan for p in parts),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(OPERATORS)}; all by default")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(OPERATORS):
        parser.error(f"no activation {', '.join(sorted(unknown))}")
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    findings = report.get("activations", {})
    fine = True
    for activation in chosen.names or OPERATORS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found, compiler = sweep(activation, chosen.threads, Path(folder))
        findings[activation] = {
            name: {**asdict(finding), "stated": asdict(stated(activation)[name])}
            for name, finding in found.items()
        }
        report = {
            "schema": 1,
            "arguments": PATTERNS,
            "versions": {
                "edgerl": version("edgerl"),
                "numpy": np.__version__,
                "onnxruntime": version("onnxruntime"),
                "compiler": compiler,
                "machine": platform.machine(),
            },
            "tables": {curve: digest(curve) for curve in get_args(Curve)},
            "activations": findings,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        for name, finding in found.items():
            fine &= finding.of_stated <= 1.0
            print(
                f"{activation:13} {name:16} {finding.of_stated:7.3f} of stated at {finding.at:g}"
                f" ({time.monotonic() - started:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
