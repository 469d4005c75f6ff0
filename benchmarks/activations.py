"""Every activation at every float32: the emitted code and onnxruntime against the stated errors.

    python -m benchmarks.activations [NAME ...] [--threads N]

All 2^32 bit patterns go through the compiled code, fused and unfused, and through onnxruntime;
float64 is the reference, whose own error is far below the last digit stated. The result is
`benchmarks/results/activations.json`: for each activation and evaluator the largest error as a
fraction of the stated one (`edgerl/toolchain/bounds/accuracy.py`), where it is, and the range of
the results. A figure above 1 ends the run with exit code 1. An hour on one core.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain import interpreter, ir
from edgerl.toolchain.bounds import accuracy
from edgerl.toolchain.bounds.enclosure import LARGEST
from edgerl.toolchain.build import build_host
from edgerl.toolchain.emit import emit

RESULTS = Path(__file__).parent / "results" / "activations.json"
WIDTH = 4096
BLOCK = 1 << 21
PATTERNS = 1 << 32

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
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
ALPHA = {"hard_sigmoid": 1.0 / 6.0}
# Arguments beyond which a result is said to saturate instead.
HIGHEST = {"exp": accuracy.EXPONENTIAL_LIMIT}


@dataclass(frozen=True)
class Finding:
    """What a sweep found of one evaluator.

    `of_stated` is the largest error as a fraction of the stated bound, met at argument `at`
    with error `error`; `low` and `high` are the range of all results for finite arguments;
    `at_infinity` are the results at -inf and +inf; `keeps_nan` says that every NaN gave NaN.
    """

    of_stated: float = 0.0
    at: float = 0.0
    error: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    at_infinity: tuple[str, str] = ("", "")
    keeps_nan: bool = True


def graph(activation: ir.Activation) -> onnx.ModelProto:
    """The activation as an ONNX graph of WIDTH elements."""
    names = OPERATORS[activation]
    attributes = {"alpha": ALPHA[activation]} if activation in ALPHA else {}
    nodes = [helper.make_node(names[0], ["x"], ["gate" if names[1:] else "y"], **attributes)]
    if names[1:]:
        nodes.append(helper.make_node("Mul", ["x", "gate"], ["y"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, WIDTH]) for n in "xy"]
    return helper.make_model(
        helper.make_graph(nodes, activation, ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )


def library(model: onnx.ModelProto) -> Evaluate:
    """onnxruntime as a function of any number of WIDTH elements."""
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
    twin = build_host(source, name, folder, flags=("-Wno-unused-function",))

    def evaluate(x: Singles) -> Singles:
        rows = x.reshape(-1, WIDTH)
        return twin.many(twin.reset_states(len(rows)), rows, "evaluate").actions.reshape(-1)

    return evaluate, twin.compiler


def measured(
    x: Singles,
    exact: Doubles,
    y: Singles,
    stated: Doubles,
    compared: npt.NDArray[np.bool_],
    before: Finding,
) -> Finding:
    """`before` with one more block of arguments."""
    with np.errstate(invalid="ignore"):
        error = np.where(compared, np.abs(y - exact), 0.0)
    # A result that is no number where one was due is as wrong as can be.
    error = np.where(np.isnan(error), np.inf, error)
    share = error / stated
    worst = int(share.argmax())
    values = y[compared]
    found = before
    if share[worst] > before.of_stated:
        found = Finding(
            float(share[worst]), float(x[worst]), float(error[worst]), before.low, before.high,
            before.at_infinity, before.keeps_nan,
        )  # fmt: skip
    ends = [str(v) for v in y[np.isneginf(x)]], [str(v) for v in y[np.isposinf(x)]]
    return Finding(
        found.of_stated,
        found.at,
        found.error,
        min(found.low, float(values.min(initial=np.inf))),
        max(found.high, float(values.max(initial=-np.inf))),
        ("".join(ends[0]) or found.at_infinity[0], "".join(ends[1]) or found.at_infinity[1]),
        found.keeps_nan and bool(np.isnan(y[np.isnan(x)]).all()),
    )


def sweep(activation: ir.Activation, threads: int, folder: Path) -> tuple[dict[str, Finding], str]:
    """All float32 arguments through every evaluator of one activation."""
    model = graph(activation)
    evaluators: dict[str, Evaluate] = {}
    for fused in (True, False):
        numerics = "fma" if fused else "mul"
        evaluators[numerics], compiler = compiled(activation, model, folder, fused)
    evaluators["onnxruntime"] = library(model)
    ours = accuracy.emitted(activation)
    stated = {"fma": ours, "mul": ours, "onnxruntime": accuracy.onnxruntime(activation)}

    def part(first: int, last: int) -> dict[str, Finding]:
        found = {name: Finding() for name in evaluators}
        for start in range(first, last, BLOCK):
            x = np.arange(start, start + BLOCK, dtype=np.uint32).view(np.float32)
            argument = x.astype(np.float64)
            with np.errstate(all="ignore"):
                exact = interpreter.activate(activation, argument)
            compared = np.abs(argument) <= LARGEST
            compared &= argument <= HIGHEST.get(activation, np.inf)
            for name, evaluate in evaluators.items():
                # The smallest float stands for results that are subnormal.
                with np.errstate(invalid="ignore"):
                    limit = stated[name].at(argument, exact) + 2.0**-149
                found[name] = measured(x, exact, evaluate(x), limit, compared, found[name])
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
        ("".join(p.at_infinity[0] for p in parts), "".join(p.at_infinity[1] for p in parts)),
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
        findings[activation] = {name: asdict(finding) for name, finding in found.items()}
        report = {
            "schema": 1,
            "arguments": PATTERNS,
            "versions": {
                "edgerl": version("edgerl"),
                "numpy": np.__version__,
                "onnxruntime": onnxruntime.__version__,
                "compiler": compiler,
                "machine": platform.machine(),
            },
            "activations": findings,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        for name, finding in found.items():
            fine &= finding.of_stated <= 1.0
            print(
                f"{activation:13} {name:12} {finding.of_stated:7.3f} of stated at {finding.at:g}"
                f" ({time.monotonic() - started:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
