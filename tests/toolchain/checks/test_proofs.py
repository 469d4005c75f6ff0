"""Certificates, references and measures: what they say of a whole artifact and of a bad one."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerl import checking, subject
from edgerl.checking import check
from edgerl.errors import ToolError
from edgerl.policies import Signal, load
from edgerl.recipe import Check
from edgerl.reports import blank
from edgerl.subject import require_emulator
from edgerl.targets import target
from edgerl.toolchain import golden
from edgerl.toolchain.artifact import read_artifact, write_manifest
from edgerl.toolchain.build import build_host
from edgerl.toolchain.checks.measure import extremes
from edgerl.toolchain.checks.reference import (
    against_onnxruntime,
    against_published,
    run_onnx,
    single_step_error,
)
from edgerl.toolchain.lowering import lower


def test_certificates_of_a_whole_artifact(raptor):
    certificates = raptor.report.certificates
    assert {
        "no_outside_calls", "no_static_data", "no_recursion", "stack_bytes",
        "constant_instructions", "stack_within_bound", "build_id", "self_test", "reproducible",
        "within_error_bound", "emulated_flights_identical", "no_data_branch",
        "guard_no_data_branch", "action_bounds",
    } == set(certificates)  # fmt: skip
    assert certificates["stack_bytes"].value == raptor.report.measured.stack_bytes
    truths = {name for name, c in certificates.items() if isinstance(c.value, bool)}
    assert truths == set(certificates) - {"stack_bytes", "action_bounds"}
    assert all(certificates[name].value for name in truths)
    assert all(c.method for c in certificates.values())
    build = raptor.artifact.manifest.build_id
    assert build[:12] in certificates["build_id"].method
    for name in ("no_data_branch", "guard_no_data_branch", "constant_instructions"):
        assert certificates[name].kind == "proved"


def test_ranges_of_a_whole_artifact(raptor):
    tensors = {tensor.name: tensor for tensor in raptor.report.tensors}
    for tensor in tensors.values():
        assert tensor.proved[0] <= tensor.observed[0] <= tensor.observed[1] <= tensor.proved[1]
    motor = raptor.report.certificates["action_bounds"].value["motor"]
    assert tuple(motor["raw"]) == tensors["action"].proved
    assert tuple(motor["saturated"]) == (-1.0, 1.0)


def test_measures_of_a_whole_artifact(raptor):
    measured = raptor.report.measured
    assert measured.instructions.min == measured.instructions.max == measured.instructions.mean
    assert measured.ram_bytes == measured.state_bytes
    assert 0 < measured.stack_painted_bytes <= measured.stack_bytes
    parts = measured.code_bytes + measured.weight_bytes + measured.table_bytes
    assert parts <= measured.flash_bytes
    assert len(measured.layers) == 3
    assert 4 * 2084 >= sum(layer.weight_bytes for layer in measured.layers) >= 4 * 2000


def test_another_version_of_the_compiler_is_said_and_no_failure(
    small_artifact, tmp_path, monkeypatch
):
    artifact = shutil.copytree(small_artifact, tmp_path / "artifact")
    opened = read_artifact(artifact)
    elsewhere = opened.manifest.compiler.model_copy(update={"version": "zig 0.1"})
    write_manifest(artifact, opened.manifest.model_copy(update={"compiler": elsewhere}))
    report = check(read_artifact(artifact), Check(cross_check=False))
    assert "reproducible" not in report.certificates
    assert any("built by zig 0.1; sizes and stack are those of zig" in n for n in report.notes)
    # The identity names the compiler, so it tells that this manifest was changed.
    assert [limit.name for limit in report.limits if not limit.held] == ["build id"]


def test_absent_cross_checkers_are_said(small_artifact, monkeypatch):
    def absent(*_: object) -> None:
        raise ToolError("qemu-system-arm is not installed: apt-get install qemu-system-arm")

    find = subject.find

    def only_zig(name: str, core: object) -> object:
        if name != "zig":
            raise ToolError(f"compiler {name} is not installed: apt-get install gcc")
        return find(name, core)

    monkeypatch.setattr(subject, "QemuCore", absent)
    monkeypatch.setattr(subject, "find", only_zig)
    monkeypatch.setattr(checking, "_edition", lambda runner: runner.name)
    report = check(read_artifact(small_artifact))
    assert report.ok and report.parity.between == ("golden.bin", "host", "zig/unicorn")
    assert [n for n in report.notes if "assumed" not in n] == [
        "not cross-checked: compiler gcc is not installed: apt-get install gcc",
        "not cross-checked: qemu-system-arm is not installed: apt-get install qemu-system-arm",
    ]


def test_no_emulator_is_named_before_anything_is_done(monkeypatch):
    require_emulator(target("cortex-m4f"))
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    require_emulator(target("host"))
    with pytest.raises(ToolError, match=r"unicorn: pip install 'edgerl\[emu\]'"):
        require_emulator(target("cortex-m4f"))


def test_an_unchecked_report_says_so(small_artifact):
    report = blank(read_artifact(small_artifact))
    assert not report.checked and report.parity is None and report.counter == "none"
    assert "assumed: rate 100 Hz" in report.notes


# References


@pytest.fixture(scope="module")
def parts(recurrent_artifact: Path, tmp_path_factory: pytest.TempPathFactory):
    policy = load(recurrent_artifact / "policy.onnx")
    host = build_host(recurrent_artifact / "src", "recurrent", tmp_path_factory.mktemp("host"))
    file = golden.parse((recurrent_artifact / "golden.bin").read_bytes(), "golden.bin")
    return policy, host, file


def test_onnxruntime_agrees_and_would_not_with_another_policy(parts, small_policy):
    policy, _, file = parts
    reference = against_onnxruntime(policy, file)
    assert reference.against.startswith("onnxruntime ") and reference.steps == 10_240
    assert 0.0 < reference.max_abs_error < 1e-5
    assert max(reference.errors) == reference.max_abs_error
    assert reference.block * len(reference.errors) >= reference.steps
    weights = policy.graph.graph.initializer
    other = replace(policy, graph=type(policy.graph).FromString(policy.graph.SerializeToString()))
    changed = next(t for t in other.graph.graph.initializer if list(t.dims) == [2])
    changed.raw_data = (np.frombuffer(changed.raw_data, np.float32) + 0.25).tobytes()
    assert against_onnxruntime(other, file).max_abs_error == pytest.approx(0.25, abs=1e-4)
    assert len(weights) == len(other.graph.graph.initializer)


def test_onnxruntime_forgets_at_each_reset(parts):
    policy, _, file = parts
    trace = file.evaluate
    part = slice(0, 40)
    resets = np.zeros(40, np.bool_)
    resets[[0, 20]] = True
    actions = run_onnx(policy, trace.observations[part], resets)
    again = run_onnx(policy, trace.observations[20:40], np.arange(20) == 0)
    assert np.array_equal(actions[20:], again)
    remembered = run_onnx(policy, trace.observations[part], np.arange(40) == 0)
    assert not np.array_equal(actions[20:], remembered[20:])


def test_every_step_is_within_what_float32_explains(parts):
    policy, host, file = parts
    step = single_step_error(policy, lower(policy), host, file)
    assert step.ok and 0.0 < step.of_bound <= 1.0


def test_published_vectors_are_held_against_the_code(raptor, parts, tmp_path):
    _, host, file = parts
    assert against_published(file, host) is None
    stored = golden.parse((raptor.artifact.folder / "golden.bin").read_bytes(), "golden.bin")
    twin = build_host(raptor.artifact.source, "raptor", tmp_path)
    honest = against_published(stored, twin)
    assert honest.max_abs_error <= 2e-6 and honest.against.startswith("foundation-policy ")
    run = stored.published.expected
    wrong = replace(stored.published, expected=replace(run, actions=run.actions + np.float32(0.5)))
    off = against_published(replace(stored, published=wrong), twin)
    assert off.max_abs_error == pytest.approx(0.5, abs=1e-5)


# Measures


def test_extremes_reach_both_ends_of_every_range(small_policy):
    policy = load(small_policy)
    ranges = ((-1.0, 2.0), (0.0, 3.0), (-5.0, -4.0))
    signals = tuple(Signal(name=f"s{k}", size=1, range=r) for k, r in enumerate(ranges))
    spec = policy.spec.model_copy(update={"observation": signals})
    rows = extremes(replace(policy, spec=spec))
    assert rows.dtype == np.float32 and rows.shape[1] == 3
    assert (rows == np.array([-1.0, 0.0, -5.0], np.float32)).all(axis=1).any()
    assert (rows == np.array([2.0, 3.0, -4.0], np.float32)).all(axis=1).any()
    assert np.isfinite(rows).all()
    assert (np.abs(rows) == np.finfo(np.float32).max).all(axis=1).sum() == 2
    assert ((rows != 0) & (np.abs(rows) < np.finfo(np.float32).tiny)).all(axis=1).any()
    assert (np.signbit(rows) & (rows == 0)).all(axis=1).any()
