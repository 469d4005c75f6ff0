"""The host twin computes what it is told, whatever the process around it has switched on."""

import ctypes
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgerl.errors import ToolError
from edgerl.targets.model import target
from edgerl.toolchain.build import HostTwin, build_host, find, first_difference

NATIVE = target("host").core


def test_self_test(twin: HostTwin) -> None:
    assert twin.self_test() == 0
    assert (twin.state_bytes, twin.observation_size, twin.action_size) == (24, 3, 2)


def test_self_test_can_fail(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "net")
    source = tmp_path / "net" / "net.c"
    text = source.read_text()
    assert "{0.875f, 0.125f}" in text
    changed = text.replace("net_golden_action[2] = {", "net_golden_action[2] = {1u + ")
    source.write_text(changed)
    assert build_host(tmp_path / "net", "net", tmp_path).self_test() == 4


def test_two_compilers_agree(twin: HostTwin, package: Path, tmp_path: Path, flight) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    other = build_host(package, "net", tmp_path, find("gcc", NATIVE))
    assert other.library != twin.library
    for mode in ("evaluate", "step"):
        assert first_difference(twin.trace(*flight, mode), other.trace(*flight, mode)) is None


def test_trace_is_a_chain_of_single_steps(twin: HostTwin, flight) -> None:
    observations, resets = flight[0][:200], flight[1][:200]
    whole = twin.trace(observations, resets, "step")
    assert resets[1:].any()
    state = fresh = twin.reset_states(1)
    for t, (observation, reset) in enumerate(zip(observations, resets, strict=True)):
        one = twin.many(fresh if reset else state, observation[None], "step")
        assert one.actions.tobytes() == whole.actions[t].tobytes()
        assert one.states.tobytes() == whole.states[t].tobytes()
        state = one.states


def test_many_leaves_its_input_alone(twin: HostTwin, flight) -> None:
    states = twin.reset_states(5)
    before = states.copy()
    after = twin.many(states, flight[0][:5], "evaluate")
    assert (states == before).all()
    assert (after.states != before).any()


def test_bad_observation_is_held(twin: HostTwin) -> None:
    observations = np.ones((3, 3), np.float32)
    observations[1, 2] = np.nan
    run = twin.trace(observations, np.zeros(3, bool), "step")
    assert run.status.tolist() == [0, 2, 0]
    assert (run.actions[1] == run.actions[0]).all()
    assert (run.states[1] == run.states[0]).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 control register")
def test_flush_to_zero_elsewhere_does_not_reach_the_twin(
    twin: HostTwin, package: Path, tmp_path: Path
) -> None:
    shutil.copyfile(Path(__file__).parent / "package" / "flush.c.j2", tmp_path / "flush.c")
    compiler = find("zig", NATIVE)
    made = compiler.compile("flush.c", cwd=tmp_path, flags=("-fPIC",))
    compiler.link([made], "flush.so", cwd=tmp_path, flags=("-shared",))
    flush = ctypes.CDLL(str(tmp_path / "flush.so"))
    flush.control.restype = ctypes.c_uint
    tiny = np.full((4, 3), 1e-40, np.float32)
    resets = np.zeros(4, bool)
    expected = twin.trace(tiny, resets, "evaluate")
    usual = flush.control()
    flush.set_control(ctypes.c_uint(usual | 0x8040))
    try:
        flushed = twin.trace(tiny, resets, "evaluate")
        after = flush.control()
    finally:
        flush.set_control(ctypes.c_uint(usual))
    assert after == usual | 0x8040
    assert first_difference(expected, flushed) is None


@pytest.mark.parametrize(
    ("observations", "resets"),
    [(np.zeros((2, 4)), np.zeros(2)), (np.zeros((2, 3)), np.zeros(3)), (np.zeros((0, 3)), [])],
)
def test_wrong_shapes(twin: HostTwin, observations, resets) -> None:
    with pytest.raises(ValueError, match=r"must be|reset marks"):
        twin.trace(observations, np.asarray(resets, bool))


def test_library_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "net.so").write_bytes(b"nothing")
    with pytest.raises(ToolError, match=r"net\.so cannot be loaded"):
        HostTwin(tmp_path / "net.so", "zig")
