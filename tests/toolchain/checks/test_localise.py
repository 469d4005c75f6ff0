"""A failed parity is traced to the tensor, or to the image, that is really wrong."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jinja2
import jsonschema
import numpy as np
import pytest

from edgerl import cli
from edgerl.checking import check
from edgerl.pipeline import run
from edgerl.policies import load
from edgerl.recipe import Check, Recipe, Source, TargetChoice
from edgerl.toolchain import golden as goldens
from edgerl.toolchain import interpreter
from edgerl.toolchain.artifact import read_artifact, write_manifest
from edgerl.toolchain.build import compiler, find
from edgerl.toolchain.checks.localise import localise
from edgerl.toolchain.checks.parity import parity
from edgerl.toolchain.checks.tap import grafted, tapped, taps
from edgerl.toolchain.compiling import rebuild
from edgerl.toolchain.emit import rendering
from edgerl.toolchain.emulators import QemuCore
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.manifest import read_manifest
from edgerl.toolchain.report.model import Localisation, Report

ALONE = Check(cross_check=False)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def artifact(recurrent_artifact: Path, tmp_path: Path) -> Path:
    """An artifact to spoil."""
    return shutil.copytree(recurrent_artifact, tmp_path / "artifact")


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Replaces a text in one of the templates that C packages are made from."""
    genuine = rendering._environment()

    def spoil(name: str, old: str, new: str) -> None:
        source, _, _ = genuine.loader.get_source(genuine, name)
        assert old in source
        spoiled = jinja2.DictLoader({name: source.replace(old, new)})
        loader = jinja2.ChoiceLoader([spoiled, genuine.loader])
        environment = genuine.overlay(loader=loader)
        monkeypatch.setattr(rendering, "_environment", lambda: environment)

    return spoil


def compiled(policy: Path, output: Path, **choice: str) -> Path:
    asked = TargetChoice(output=output, **{"name": "cortex-m4f", "fma": "on", **choice})
    return run(Recipe(source=Source(policy=str(policy)), target=asked)).artifact.folder


def edited(path: Path, old: str, new: str) -> int:
    """Replace the only `old` in a file; the line it stands on."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def checked(folder: Path) -> Report:
    """A report on a folder whose manifest lists what now lies there."""
    write_manifest(folder, read_manifest(folder))
    return check(read_artifact(folder), ALONE)


def place(report: Report) -> Localisation:
    assert report.parity.first_difference is not None and not report.ok
    assert report.parity.localisation is not None
    return report.parity.localisation


def built_again(folder: Path) -> None:
    """Ship what the sources in `folder` now make."""
    artifact = read_artifact_as_is(folder)
    core = artifact.manifest.target.core
    image = rebuild(artifact, artifact.manifest.target, find("zig", core), folder.parent / "image")
    for made in (image.elf, image.bin):
        shutil.copyfile(made, folder / made.name)


def read_artifact_as_is(folder: Path):
    write_manifest(folder, read_manifest(folder))
    return read_artifact(folder)


def test_a_kernel_that_is_wrong_on_one_side_is_named_by_its_layer(artifact):
    kernels = artifact / "src" / "recurrent_cortex_m_fpu.S"
    head, tail = kernels.read_text().split(".Lmac2_4:")
    spoiled = tail.replace("vfma.f32 s7, s15, s31", "vfms.f32 s7, s15, s31", 1)
    kernels.write_text(f"{head}.Lmac2_4:{spoiled}")
    line = head.count("\n") + 1 + tail[: tail.index("vfma.f32 s7, s15, s31")].count("\n")
    built_again(artifact)

    report = checked(artifact)
    first = report.parity.first_difference
    assert first.between == ("golden.bin", "zig/unicorn")
    assert (first.element, first.mode) == ("action[1]", "evaluate")
    found = place(report)
    assert found.verdict == "tensor"
    assert found.difference.tensor == "action" and found.difference.element == "action[1]"
    assert found.operation == "operation 2 of 2, dense 4 -> 2"
    assert found.difference.between == ("host", "zig/unicorn (src/)")
    assert found.sources == f"src/{kernels.name}:{line}"
    # The wrong layer is the last: what differs inside is what came out.
    assert (found.difference.step, found.difference.values) == (first.step, first.values)
    assert found.difference.bits == first.bits
    for value, bits in zip(first.values, first.bits, strict=True):
        assert np.float32(value).view(np.uint32) == int(bits, 16)


def test_a_runner_whose_states_are_out_of_sight_is_looked_into_as_well(artifact, tmp_path):
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    kernels = artifact / "src" / "recurrent_cortex_m_fpu.S"
    kernels.write_text(kernels.read_text().replace("vmov.f32 s0, #0.5", "vmov.f32 s0, #0.25"))
    built_again(artifact)
    opened = read_artifact_as_is(artifact)
    file = goldens.parse((artifact / "golden.bin").read_bytes(), "golden.bin")
    goal = opened.manifest.target
    image = rebuild(opened, goal, find("zig", goal.core), tmp_path / "image")
    machine, policy = QemuCore(image, goal), load(artifact / "policy.onnx")
    first = parity(file, [machine], spec=policy.spec).first_difference
    found = localise(first, opened, policy, file, machine, tmp_path / "scratch")
    assert (found.verdict, found.difference.element) == ("tensor", "s0[0]")
    assert found.difference.between == ("host", "zig/qemu (src/)")


def test_a_defect_of_the_emitter_is_named_by_its_layer(template, recurrent_policy, tmp_path):
    # The assembly alone halves a GRU's result once more.
    template("cortex_m_fpu_tiles.j2", "vmov.f32 s0, #0.5", "vmov.f32 s0, #0.25")
    folder = compiled(recurrent_policy, tmp_path / "a")
    report = checked(folder)
    assert report.parity.first_difference.element == "action[0]"
    found = place(report)
    assert (found.verdict, found.sources) == ("tensor", "")
    assert found.operation == "operation 1 of 2, gru 3 + 4 -> 4"
    assert found.difference.element == "s0[0]"
    assert found.difference.between == ("host", "zig/unicorn")
    believed, wrong = found.difference.values
    assert wrong == pytest.approx(believed / 2, rel=1e-6)


def test_a_miscompilation_is_named_by_its_layer(template, small_policy, tmp_path, monkeypatch):
    # Without the pragmas that forbid it, a compiler may fuse products and sums.
    template("conditions.c.j2", "#pragma clang fp contract(off) reassociate(off)", "")
    folder = compiled(small_policy, tmp_path / "a", name="cortex-m7", fma="off", kernels="portable")
    loose = tuple(flag.replace("contract=off", "contract=fast") for flag in compiler.LANGUAGE)
    honest = compiler.find

    def careless(name, core):
        found = honest(name, core)
        return found if core.name == "native" else replace(found, flags=(*found.flags, *loose))

    monkeypatch.setattr("edgerl.subject.find", careless)
    monkeypatch.setattr("edgerl.toolchain.checks.localise.find", careless)
    artifact = read_artifact(folder)
    core = artifact.manifest.target.core
    image = rebuild(artifact, artifact.manifest.target, careless("zig", core), tmp_path / "image")
    for made in (image.elf, image.bin):
        shutil.copyfile(made, folder / made.name)

    found = place(checked(folder))
    assert found.verdict == "tensor" and found.sources == ""
    assert found.operation == "operation 1 of 2, dense 3 -> 4, tanh"
    assert found.difference.between == ("host", "zig/unicorn")


def test_a_flipped_weight_is_named_by_layer_and_line(artifact, capfd):
    source = artifact / "src" / "recurrent.c"
    weight = re.search(r"recurrent_weights\[\d+\][^=]*= \{\s*(\S+?)f?,", source.read_text())
    text = source.read_text()
    spoiled = f"{float(weight[1]) + 0.5:.9g}"
    source.write_text(text[: weight.start(1)] + spoiled + text[weight.end(1) :])
    line = text[: weight.start(1)].count("\n") + 1
    write_manifest(artifact, read_manifest(artifact))
    assert cli.run(["check", str(artifact), "--fresh"]) == 1
    out = capfd.readouterr().out
    assert "arises the first tensor to differ is s0_next (operation 1 of 2, gru 3 + 4 -> 4)" in out
    assert "on host (src/)" in out
    assert f"src/recurrent.c:{line} is not what policy.onnx makes" in out
    data = json.loads((artifact / "report.json").read_text())
    schema = json.loads((ROOT / "report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(data)
    page = (artifact / "report.html").read_text()
    for words in ("Where it arises", "First tensor that differs", "s0_next[0]", "src/recurrent.c:"):
        assert words in page
    assert data["parity"]["localisation"]["difference"]["bits"][0] in page


def test_a_flipped_bit_of_the_image_is_not_reproduced(artifact, capfd):
    elf = artifact / "firmware.elf"
    content = bytearray(elf.read_bytes())
    text = (artifact / "src" / "recurrent.c").read_text()
    weights = re.search(r"recurrent_weights\[\d+\][^=]*= \{\s*(\S+?)f?,", text)
    content[content.index(np.float32(weights[1]).tobytes()) + 2] ^= 0x40
    elf.write_bytes(content)
    write_manifest(artifact, read_manifest(artifact))
    assert cli.run(["check", str(artifact), "--fresh"]) == 1
    out = capfd.readouterr().out
    assert "not reproduced: built again from src/, zig/unicorn gives the golden bits" in out
    assert "the shipped firmware is not what its sources make" in out
    found = json.loads((artifact / "report.json").read_text())["parity"]["localisation"]
    assert found["verdict"] == "not_reproduced"
    assert (found["difference"], found["sources"]) == (None, "")
    assert "the shipped firmware is not what" in (artifact / "report.html").read_text()


def test_a_guard_that_is_wrong_is_named_by_the_signal_it_spoils(artifact):
    guard = artifact / "src" / "recurrent_cortex_m_fpu.S"
    text = guard.read_text()
    spoiled = re.sub(r"bfi r5, r3, #0, #31", "bfi r5, r3, #1, #30", text, count=1)
    assert spoiled != text
    guard.write_text(spoiled)
    built_again(artifact)
    found = place(checked(artifact))
    assert found.verdict == "tensor" and found.operation == "what the network is given"
    assert found.difference.mode == "step"
    assert (found.difference.tensor, found.difference.element) == ("observation", "observation[1]")


def test_what_is_wrong_around_the_network_is_told_from_it(template, recurrent_policy, tmp_path):
    alien = "#ifdef __arm__\n    return status | 8u;\n#endif\n    return status;"
    template("api.c.j2", "    return status;", alien)
    report = checked(compiled(recurrent_policy, tmp_path / "a"))
    first = report.parity.first_difference
    assert (first.element, first.mode) == ("status", "step")
    assert int(first.bits[1], 16) == int(first.bits[0], 16) | 8
    found = place(report)
    assert found.verdict == "outside" and found.difference is None
    assert "saturation" in found.text


def test_a_golden_trace_that_nothing_gives_is_said_to_be_wrong(artifact):
    path = artifact / "golden.bin"
    file = goldens.parse(path.read_bytes(), "golden.bin")
    trace = file.evaluate
    actions = trace.expected.actions.copy()
    actions.view(np.uint32)[7, 1] ^= 1
    spoiled = replace(trace, expected=replace(trace.expected, actions=actions))
    others = tuple(spoiled if t is trace else t for t in file.traces)
    path.write_bytes(goldens.serialize(replace(file, traces=others)))
    report = checked(artifact)
    assert report.parity.first_difference.step == 7
    assert place(report).verdict == "golden"


def test_the_rest_of_a_report_survives_what_cannot_be_localised(artifact, monkeypatch):
    from edgerl.errors import ToolError
    from edgerl.toolchain.checks import localise

    def broken(*_args: object, **_more: object) -> None:
        raise ToolError("no compiler today")

    monkeypatch.setattr(localise, "build_host", broken)
    path = artifact / "golden.bin"
    file = goldens.parse(path.read_bytes(), "golden.bin")
    status = file.traces[1].expected.status.copy()
    status[0] ^= 1
    spoiled = replace(file.traces[1], expected=replace(file.traces[1].expected, status=status))
    path.write_bytes(goldens.serialize(replace(file, traces=(file.traces[0], spoiled))))
    found = place(checked(artifact))
    assert found.verdict == "unknown" and found.text.endswith("no compiler today")


def test_a_tapped_program_gives_every_tensor(recurrent_policy):
    policy = load(recurrent_policy)
    program = lower(policy)
    listed = taps(program, policy.spec)
    assert [tap.tensor for tap in listed] == ["observation", "s0", "s0_next", "action"]
    rng = np.random.default_rng(1)
    observation, state = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    every, after = interpreter.run(tapped(program), observation, [state])
    action, same = interpreter.run(program, observation, [state])
    np.testing.assert_array_equal(after[0], same[0])
    np.testing.assert_array_equal(every, np.hstack([observation, state, after[0], action]))
    assert [tap.first for tap in listed] == [0, 3, 7, 11]


def test_changes_are_carried_over_or_refused():
    base = "".join(f"line {k}\n" for k in range(12))
    onto = base.replace("line 4\n", "line four\nand more\n")
    changed = base.replace("line 8\n", "LINE 8\n").replace("line 10\n", "")
    wanted = onto.replace("line 8\n", "LINE 8\n").replace("line 10\n", "")
    assert grafted(base, changed, onto) == wanted
    assert grafted(base, base, onto) == onto
    assert grafted(base, "first\n" + base, onto) == "first\n" + onto
    assert grafted(base, base + "last\n", onto) == onto + "last\n"
    assert grafted(base, base.replace("line 4\n", "mine\n"), onto) is None
