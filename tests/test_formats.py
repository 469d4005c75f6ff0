"""Every format on every core that takes it: the published policy compiled, and host and core give
the bits of its definition. And what `--format` says and refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgerl import cli
from edgerl.errors import ToolError
from edgerl.policies import Policy, load
from edgerl.stages import Silence
from edgerl.subject import Subject
from edgerl.targets.model import FORMATS, cores, target
from edgerl.toolchain.build import find
from edgerl.toolchain.certify.image import of_image
from edgerl.toolchain.checks.definition import computes_definition
from edgerl.toolchain.checks.parity import parity
from edgerl.toolchain.compiling import compile_policy, form_for
from edgerl.toolchain.emulators import count
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.conversion import quantise
from edgerl.toolchain.quantisation.fine_tuning import FineTuning
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.quantisation.serialisation import serialize
from edgerl.toolchain.quantisation.sources import calibration_for
from edgerl.toolchain.quantisation.trained import trained_integers
from edgerl.tuning import tune

INTEGERS = tuple(name for name in FORMATS if name != "f32")
CORES = tuple(
    name for name, core in cores().items() if core.architecture not in ("native", "avr", "xtensa")
)
STEPS = 320


@pytest.fixture(scope="module")
def quantised() -> Callable[[str], tuple[Policy, FixedProgram]]:
    policy = load("raptor")
    program = lower(policy, integers=True)
    calibration = calibration_for(policy, program, episodes=64)

    @cache
    def made(number_format: str) -> tuple[Policy, FixedProgram]:
        return policy, quantise(program, calibration, number_format, spec=policy.spec)

    return made


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("number_format", INTEGERS)
def test_every_format_on_every_core(
    quantised: Callable[[str], tuple[Policy, FixedProgram]],
    number_format: str,
    core: str,
    tmp_path: Path,
) -> None:
    policy, fixed = quantised(number_format)
    goal = target(core)
    compiler = find("zig", goal.core)
    form = form_for(goal, fixed, "auto", "auto")
    made = compile_policy(policy, fixed, goal, form, compiler, tmp_path / "artifact")
    subject = Subject(made.artifact, tmp_path / "bench", Silence(), cross_check=False)
    golden = replace(
        subject.golden, traces=tuple(trace.first(STEPS) for trace in subject.golden.traces)
    )
    try:
        emulated = subject.core
    except ToolError as error:
        pytest.skip(str(error))
    assert emulated is not None
    told = parity(golden, [subject.twin, emulated], spec=policy.spec)
    assert told.bit_exact, told.first_difference
    assert computes_definition(fixed, subject.twin, golden).value
    counted = count(emulated, golden.evaluate.observations[:24], "evaluate").spread
    # On a PC compilers turn masks back into branches; nothing is claimed of it.
    assert counted.min == counted.max or goal.core.architecture == "x86-64"
    assert subject.twin.self_test() == 0
    if not goal.core.fpu:
        certified = of_image(emulated.image, made.measured, no_float=True)
        assert certified["no_float"].value, certified["no_float"].method


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[source]\npolicy = "raptor"\n[target]\nname = "crazyflie21"\nformat = "w16a16"\n'
        f'output = "{(tmp_path / "out").as_posix()}"\n'
        "[check]\nepisodes = 256\nlimits = { instructions = 1950, flash_bytes = 7577 }\n"
    )
    assert cli.run(["compile", str(recipe), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "w16a16"
    assert report["parity"]["bit_exact"]
    proved = {n for n, c in report["certificates"].items() if c["kind"] == "proved" and c["value"]}
    assert {"no_overflow", "no_data_branch", "constant_instructions"} <= proved
    assert report["certificates"]["computes_definition"]["value"]
    paired = report["closed_loop"]["against_floats"]
    assert abs(paired["survival"]) <= 0.003
    assert {"program.json", "policy.onnx", "golden.bin"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_bad_calibrations_leave_nothing(
    small_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    bad = good.copy()
    bad[7, 1] = np.nan
    cases = {
        "nan.npy": (bad, "leave out what is not finite"),
        "narrow.npy": (good[:, :2], "its shape is"),
        "few.npy": (good[:9], "too few"),
    }
    output = tmp_path / "out"
    for name, (values, words) in cases.items():
        np.save(tmp_path / name, values)
        line = refused(
            ["compile", str(small_policy), "-t", "cortex-m4f", "-f", "w16a16",
             "--calibration", str(tmp_path / name), "-o", str(output)],
            capsys,
        )  # fmt: skip
        assert words in line, line
        assert not output.exists()


def test_auto_needs_something_to_weigh(
    small_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["compile", str(small_policy), "-t", "host", "-f", "auto"], capsys)
    assert "--format auto weighs flash and instructions" in line


def test_auto_takes_the_smallest_that_works(
    small_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["compile", str(small_policy), "-t", "cortex-m4f", "-f", "auto"]
    assert cli.run([*arguments, "-o", str(output), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    candidates = report["candidates"]
    (chosen,) = [c for c in candidates if c["chosen"]]
    assert chosen["flash_bytes"] == min(c["flash_bytes"] for c in candidates if c["holds"])
    assert chosen["flash_bytes"] == report["measured"]["flash_bytes"]
    assert {c["name"] for c in candidates} >= {"f32", "w16a16", "w8a16"}
    assert "Formats weighed" in (output / "report.html").read_text(encoding="utf-8")


def test_auto_says_why_nothing_holds(
    small_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(
        ["compile", str(small_policy), "-t", "cortex-m4f", "-f", "auto",
         "--limit", "flash_bytes=100"],
        capsys,
    )  # fmt: skip
    assert "no format holds gate and budget on cortex-m4f" in line
    assert "flash_bytes" in line


def test_a_tuned_policy_compiles_to_the_integers_it_was_trained_for(
    small_policy: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned.onnx"
    brief = FineTuning(rounds=1, passes=1, segment=16, sequences=16)
    made = tune(str(small_policy), "w4a16", tuned, settings=brief)
    assert made.steps > 0
    output = tmp_path / "out"
    assert cli.run(["compile", str(tuned), "-t", "cortex-m4f", "-o", str(output)]) == 0
    trained = trained_integers(load(tuned))
    assert trained is not None
    assert (output / "program.json").read_bytes() == serialize(trained)


def test_tuning_refuses_in_one_line(small_policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["tune", str(small_policy), "-f", "w4a16", "-o", "tuned.txt"], capsys)
    assert "tuned.txt: a policy's file ends in .onnx" in line
