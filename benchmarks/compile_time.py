"""How long a compile takes: `python -m benchmarks.compile_time`, about five minutes.

Each network is compiled by the `edgerl` command in a process of its own, with `--fresh` and
without `--check`, so imports and every stage are in the figure. Results go to
`benchmarks/results`: compile_time.json (every run) and compile_time.md (to read).
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmarks.networks import perceptron, recurrent
from edgerl.errors import EdgerlError, ToolError
from edgerl.policies import load
from edgerl.toolchain.artifact import write_aside

RESULTS = Path(__file__).parent / "results"
TARGETS = ("cortex-m4f", "host")
RUNS = 3
SEED = 11
_PACKAGES = ("edgerl", "jinja2", "numpy", "onnx", "ziglang")


@dataclass(frozen=True)
class Subject:
    """A network to compile: `model` is None for a policy that edgerl knows by its name; `limit`
    is the most seconds that a compile may take."""

    name: str
    about: str
    limit: float
    model: Callable[[np.random.Generator], onnx.ModelProto] | None = None


SUBJECTS = (
    Subject("raptor", "RAPTOR, published weights", 3.0),
    Subject(
        "mlp_3x512", "MLP 48-512-512-512-12", 30.0, lambda g: perceptron((48, 512, 512, 512, 12), g)
    ),
    Subject("gru_256", "256 → GRU 256 → 8", 30.0, lambda g: recurrent("GRU", 256, 256, 8, g)),
    Subject("lstm_256", "256 → LSTM 256 → 8", 30.0, lambda g: recurrent("LSTM", 256, 256, 8, g)),
    Subject(
        "mlp_1m", "MLP 64-700-700-700-8", 30.0, lambda g: perceptron((64, 700, 700, 700, 8), g)
    ),
)


@dataclass(frozen=True)
class Timing:
    """Seconds of each compile of one network for one target, on the wall clock, and those of all
    processors, which a busy machine does not lengthen (0 on Windows)."""

    name: str
    about: str
    parameters: int
    target: str
    limit: float
    seconds: tuple[float, ...]
    processor_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return statistics.median(self.seconds)


def measure(subject: Subject, target: str, runs: int = RUNS) -> Timing:
    """Compile `subject` for `target` `runs` times. Raises ToolError when a compile fails."""
    with tempfile.TemporaryDirectory() as scratch:
        source = subject.name
        if subject.model is not None:
            source = str(Path(scratch) / f"{subject.name}.onnx")
            onnx.save(subject.model(np.random.default_rng(SEED)), source)
        spent = [_compiled(source, target, Path(scratch) / f"{k}") for k in range(runs)]
        parameters = load(source).parameters
    seconds, processor = zip(*spent, strict=True)
    return Timing(
        subject.name, subject.about, parameters, target, subject.limit, seconds, processor
    )


def _compiled(source: str, target: str, folder: Path) -> tuple[float, float]:
    """Seconds on the wall clock and of the processors, compilers included."""
    command = [sys.executable, "-m", "edgerl", "compile", source, "--target", target]
    start, used = time.perf_counter(), os.times()
    done = subprocess.run(
        [*command, "--fresh", "--quiet", "--output", str(folder)], capture_output=True, text=True
    )
    spent, after = time.perf_counter() - start, os.times()
    used_since = (
        after.children_user + after.children_system - used.children_user - used.children_system
    )
    if done.returncode != 0:
        raise ToolError(f"{Path(source).name} for {target}: {done.stderr.strip()[-200:]}")
    return round(spent, 2), round(used_since, 2)


def render(timings: Sequence[Timing]) -> dict[str, str]:
    """The files of the results folder, by name."""
    facts = {
        "schema": 1,
        "seed": SEED,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "versions": {name: version(name) for name in _PACKAGES},
    }
    environment = Environment(
        loader=PackageLoader("benchmarks"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    text = environment.get_template("compile_time.md.j2").render(timings=timings, **facts)
    data = json.dumps({**facts, "timings": [asdict(t) for t in timings]}, indent=1) + "\n"
    return {"compile_time.json": data, "compile_time.md": text}


def main(subjects: Sequence[Subject] = SUBJECTS, folder: Path = RESULTS) -> int:
    """Measure, print, write; the exit code, 1 where a compile took longer than it may."""
    timings = []
    try:
        for target in TARGETS:
            for subject in subjects:
                timings.append(measure(subject, target))
                t = timings[-1]
                print(f"{t.name:10} {t.target:12} {t.median:6.2f} s of {t.limit:g} s", flush=True)
        folder.mkdir(exist_ok=True)
        for name, text in render(timings).items():
            write_aside(folder / name, text)
    except EdgerlError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    return int(any(t.median > t.limit for t in timings))


if __name__ == "__main__":
    sys.exit(main())
