"""Parity really fails, and says where, whichever part gives other bits."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerl import cli
from edgerl.checking import check
from edgerl.policies import load
from edgerl.recipe import Check
from edgerl.toolchain import golden
from edgerl.toolchain.artifact import read_artifact, write_manifest
from edgerl.toolchain.build import HostTwin, Run, build_host
from edgerl.toolchain.checks.parity import parity
from edgerl.toolchain.emulators import UnicornCore
from edgerl.toolchain.golden import GoldenFile, Trace
from edgerl.toolchain.manifest import read_manifest
from edgerl.toolchain.report.model import Report

ALONE = Check(cross_check=False)


@pytest.fixture
def artifact(recurrent_artifact: Path, tmp_path: Path) -> Path:
    """An artifact to tamper with."""
    return shutil.copytree(recurrent_artifact, tmp_path / "artifact")


@pytest.fixture(scope="module")
def file(recurrent_artifact: Path) -> GoldenFile:
    return golden.parse((recurrent_artifact / "golden.bin").read_bytes(), "golden.bin")


@pytest.fixture(scope="module")
def host(recurrent_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> HostTwin:
    return build_host(recurrent_artifact / "src", "recurrent", tmp_path_factory.mktemp("host"))


def checked_as_if_whole(folder: Path) -> Report:
    """A report on a folder whose manifest lists what now lies there."""
    write_manifest(folder, read_manifest(folder))
    return check(read_artifact(folder), ALONE)


def missed(report: Report) -> set[str]:
    return {limit.name for limit in report.limits if not limit.held}


def test_equal_bits_from_every_runner(raptor):
    equal = raptor.report.parity
    assert equal.bit_exact and equal.first_difference is None and equal.localisation is None
    assert equal.steps == golden.EVALUATE_STEPS
    assert equal.between[0] == "golden.bin" and len(equal.between) >= 3


def test_a_flipped_weight_is_found(artifact, capsys):
    source = artifact / "src" / "recurrent.c"
    text = source.read_text()
    weight = re.search(r"recurrent_weights\[\d+\][^=]*= \{\s*(\S+?)f?,", text)
    assert weight
    spoiled = f"{float(weight[1]) + 0.5:.9g}"
    source.write_text(text[: weight.start(1)] + spoiled + text[weight.end(1) :])

    write_manifest(artifact, read_manifest(artifact))
    assert cli.run(["check", str(artifact), "--fresh"]) == 1
    report = json.loads((artifact / "report.json").read_text())
    assert not report["ok"] and not report["parity"]["bit_exact"]
    # The sources differ; the firmware that was shipped still gives the golden bits.
    first = report["parity"]["first_difference"]
    assert first["tensor"] == "host evaluate: action" and first["step"] == 0
    assert first["values"][0] != first["values"][1]
    missing = {limit["name"] for limit in report["limits"] if not limit["ok"]}
    assert {"parity", "build id", "reproducible"} <= missing
    out = capsys.readouterr().out
    assert "parity" in out and "DIFFERENT" in out
    one, other = (f"{v:.9g} ({b})" for v, b in zip(first["values"], first["bits"], strict=True))
    where = f"step 0 of trace evaluate, 0 after a reset, {first['element']}"
    assert first["element"] == f"action[{first['index']}]"
    assert f"first difference {where}: {one} in golden.bin, {other} in host" in out


def test_a_flipped_bit_in_the_firmware_is_found(artifact):
    elf = artifact / "firmware.elf"
    content, flash = bytearray(elf.read_bytes()), (artifact / "firmware.bin").read_bytes()
    weights = re.search(r"recurrent_weights\[\d+\][^=]*= \{\s*(\S+?)f?,", source_of(artifact))
    bits = np.float32(weights[1]).tobytes()
    assert bits in flash
    content[content.index(bits) + 2] ^= 0x40
    elf.write_bytes(content)

    report = checked_as_if_whole(artifact)
    assert report.parity.first_difference.tensor.startswith("zig/unicorn evaluate: action")
    assert {"parity", "reproducible"} <= missed(report)


def source_of(artifact: Path) -> str:
    return (artifact / "src" / "recurrent.c").read_text()


@pytest.mark.parametrize("mode", ["evaluate", "step"])
def test_a_tampered_golden_trace_is_found(file, host, mode):
    k = ["evaluate", "step"].index(mode)
    trace = file.traces[k]
    actions = trace.expected.actions.copy()
    actions.view(np.uint32)[7, 1] ^= 1
    spoiled = replace(trace, expected=replace(trace.expected, actions=actions))
    tampered = replace(file, traces=tuple(spoiled if t is trace else t for t in file.traces))
    tampered = golden.parse(golden.serialize(tampered), "golden.bin")
    found = parity(tampered, [host])
    assert not found.bit_exact
    difference = found.first_difference
    assert (difference.step, difference.index) == (7, 1)
    assert difference.tensor == f"host {mode}: action"
    assert difference.values == (actions[7, 1], trace.expected.actions[7, 1])
    bits = (actions.view(np.uint32)[7, 1], trace.expected.actions.view(np.uint32)[7, 1])
    assert difference.bits == tuple(f"{int(word):#010x}" for word in bits)
    assert difference.between == ("golden.bin", "host") and difference.since_reset == 7
    assert parity(file, [host]).bit_exact


class Lying:
    """A runner that gives other bits: `change` is applied to what it would have said."""

    name = "lying"

    def __init__(self, honest: HostTwin, change) -> None:
        self.honest, self.change = honest, change

    def trace(self, observations, resets, mode="step") -> Run:
        return self.change(self.honest.trace(observations, resets, mode), mode)


def flipped(field: str, step: int, index: int):
    def change(run: Run, mode: str) -> Run:
        values = getattr(run, field).copy()
        words = values.view(np.uint32).reshape(len(values), -1)
        words[step, index] ^= 1 << 31
        return replace(run, **{field: values})

    return change


def test_a_runner_with_other_actions_is_named_with_both_values(file, host):
    found = parity(file, [host, Lying(host, flipped("actions", 100, 1))])
    first = found.first_difference
    assert (first.step, first.tensor, first.index) == (100, "lying evaluate: action", 1)
    assert first.values[0] == -first.values[1]
    assert found.between == ("golden.bin", "host", "lying")


def test_a_runner_with_another_status_or_state_is_named(file, host):
    first = parity(file, [host, Lying(host, flipped("status", 3, 0))]).first_difference
    assert (first.step, first.tensor) == (3, "lying evaluate: status")
    first = parity(file, [host, Lying(host, flipped("states", 5, 2))]).first_difference
    assert (first.step, first.tensor, first.index) == (5, "lying evaluate: state", 2)


def test_elements_are_called_what_the_spec_calls_them(file, host, recurrent_policy):
    spec = load(recurrent_policy).spec
    liars = {
        ("actions", 1): "action[1]",
        ("states", 2): "s0[2]",
        ("states", 5): "held action[1]",
        ("status", 0): "status",
    }
    for (what, index), name in liars.items():
        liar = Lying(host, flipped(what, 100, index))
        first = parity(file, [host, liar], spec=spec).first_difference
        assert (first.element, first.step) == (name, 100)
        assert first.since_reset == 100 - np.flatnonzero(file.evaluate.resets[:101])[-1]
        assert first.between == ("host" if what == "states" else "golden.bin", "lying")


def test_a_runner_that_lies_only_in_the_guarded_step_is_found(file, host):
    change = flipped("actions", 11, 0)
    liar = Lying(host, lambda run, mode: change(run, mode) if mode == "step" else run)
    assert parity(file, [liar]).first_difference.tensor == "lying step: action"


def test_a_zero_of_the_other_sign_is_a_difference(file, host):
    zeros = np.zeros((1, 2), np.float32)
    status = np.zeros(1, np.uint32)
    observations, resets = np.zeros((1, 3), np.float32), np.ones(1, np.bool_)
    traces = tuple(
        Trace(mode, observations, resets, Run(zeros, status, None)) for mode in ("evaluate", "step")
    )
    small = GoldenFile("x", "recurrent", traces)
    same = parity(small, [Lying(host, lambda run, mode: Run(zeros, status, None))])
    assert same.bit_exact
    negative = parity(small, [Lying(host, lambda run, mode: Run(-zeros, status, None))])
    assert not negative.bit_exact and negative.first_difference.index == 0


def test_nothing_compared_is_not_equal(file):
    assert not parity(file, []).bit_exact


def test_an_emulator_that_gives_other_bits_fails_the_whole_check(artifact, monkeypatch):
    honest = UnicornCore.trace

    def trace(core, observations, resets, mode="step"):
        run = honest(core, observations, resets, mode)
        return flipped("actions", 42, 0)(run, mode) if len(run.status) > 42 else run

    monkeypatch.setattr(UnicornCore, "trace", trace)
    report = check(read_artifact(artifact), ALONE)
    assert missed(report) == {"parity"} and not report.ok
    first = report.to_json()["parity"]["first_difference"]
    assert (first["step"], first["index"]) == (42, 0)
    assert first["tensor"] == "zig/unicorn evaluate: action"
    assert first["values"][0] == -first["values"][1]
    # It lies in long runs only, so a short one cannot show where.
    place = report.parity.localisation
    assert place.verdict == "not_reproduced" and "zig/unicorn is not repeatable" in place.text
