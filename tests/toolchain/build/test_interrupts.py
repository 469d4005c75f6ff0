"""Interrupts wait where they would do harm, and are not forgotten."""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edgerl.targets import target
from edgerl.toolchain.build.interrupts import deferred
from edgerl.toolchain.build.process import run
from edgerl.toolchain.emulators import UnicornCore


def strike() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        strike()
        done.append("the rest of the block")
    assert done == ["the rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_interrupt_nothing_happens():
    with deferred():
        pass
    with pytest.raises(ValueError, match="its own"), deferred():
        raise ValueError("its own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone():
    seen = []

    def body() -> None:
        with deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred():
            strike()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX process groups")
def test_a_process_that_is_being_started_is_ended(tmp_path, monkeypatch):
    import subprocess

    started = []

    class Struck(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            strike()

    monkeypatch.setattr(subprocess, "Popen", Struck)
    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-c", "import time; time.sleep(60)"], cwd=tmp_path, timeout_s=90.0)
    assert started[0].returncode == -signal.SIGKILL


def test_an_interrupt_inside_a_callback_of_the_emulator_is_not_lost(images, tmp_path: Path):
    from unicorn import UC_HOOK_BLOCK

    core = UnicornCore(images("cortex-m4f", "zig"), target("cortex-m4f"))
    rows, resets = np.ones((4, core.observation_size), np.float32), np.zeros(4, np.bool_)
    expected = core.trace(rows, resets)
    blocks = []

    def on_block(*_: object) -> None:
        blocks.append(len(blocks))
        if len(blocks) == 2:
            strike()

    hook = core.uc.hook_add(UC_HOOK_BLOCK, on_block)
    core.uc.ctl_flush_tb()
    with pytest.raises(KeyboardInterrupt):
        core.trace(rows, resets)
    assert len(blocks) > 2
    core.uc.hook_del(hook)
    core.uc.ctl_flush_tb()
    assert np.array_equal(core.trace(rows, resets).actions, expected.actions)
