"""Walks through linked images: what they claim is what cores do, and the rest is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgerl.errors import ToolError
from edgerl.targets.model import target
from edgerl.toolchain.build import Image
from edgerl.toolchain.build.disassembly import disassemble
from edgerl.toolchain.build.stack import code_spans
from edgerl.toolchain.certify.paths import walk
from edgerl.toolchain.certify.paths.machine import HOME, STACK, Machine
from edgerl.toolchain.certify.paths.values import Either, Pointer, add, joined, subtract
from edgerl.toolchain.emulators import UnicornCore, count

CORES = ("cortex-m0plus", "cortex-m4f", "cortex-m33", "rv32imc", "rv32imafc")
BUILDS = [(core, "zig") for core in CORES] + [(core, "gcc") for core in CORES[:3]]
SEEN = np.random.default_rng(7).normal(size=(40, 8)).astype(np.float32)

Build = Callable[..., Image]


@pytest.mark.parametrize(("core", "family"), BUILDS)
def test_every_call_takes_the_way_that_was_walked(core: str, family: str, build: Build) -> None:
    image = build(core, family)
    walked = walk(image, "way_evaluate")
    assert walked.shown and walked.branches >= 10
    counted = count(UnicornCore(image, target(core)), SEEN).instructions
    assert set(counted.tolist()) == {walked.instructions}


@pytest.mark.parametrize(("core", "family"), BUILDS)
def test_what_a_walk_knows_is_what_the_core_holds(core: str, family: str, build: Build) -> None:
    """At every instruction, every register that is known; the ways are the same."""
    image = build(core, family)
    known: list[tuple[int, list[Any]]] = []
    walk(image, "way_evaluate", lambda m: known.append((m.pc, list(m.registers))))
    conditional = _conditional(image)
    ran = _ran(image, core, SEEN[0])
    bases = {STACK: ran[0][1][_STACK[image.architecture]]}
    first = ran[0][1]
    arguments = (10, 11, 12) if image.architecture == "riscv" else (0, 1, 2)
    bases |= {
        p: first[n] for p, n in zip(("state", "observation", "action"), arguments, strict=True)
    }
    bases[HOME.place] = first[_LINK[image.architecture]]
    checked, at = 0, 0
    for pc, held in ran:
        while known[at][0] != pc:
            # What a condition leaves out is fetched, and not seen to run.
            assert known[at][0] in conditional
            at += 1
        for value, real in zip(known[at][1], held, strict=False):
            if isinstance(value, Pointer):
                value = bases[value.place] + value.offset & 0xFFFFFFFF
            if isinstance(value, int):
                assert value | 1 == real | 1 if value & 1 else value == real, hex(pc)
                checked += 1
        at += 1
    assert at == len(known) and checked > 2 * len(ran)


_STACK = {"arm": 13, "riscv": 2}
_LINK = {"arm": 14, "riscv": 1}


def _conditional(image: Image) -> set[int]:
    """Addresses of instructions that stand under a condition."""
    return {
        i.address
        for function in image.functions
        for start, stop in code_spans(image, function)
        for i in disassemble(image.read(start, stop - start), start, image.architecture)
        if i.conditional
    }


def _ran(image: Image, name: str, seen: np.ndarray) -> list[tuple[int, list[int]]]:
    """Every instruction of one call with the registers before it."""
    import unicorn

    core = UnicornCore(image, target(name))
    if image.architecture == "arm":
        import unicorn.arm_const as constants

        names = [f"UC_ARM_REG_R{n}" for n in range(13)] + ["UC_ARM_REG_SP", "UC_ARM_REG_LR"]
    else:
        import unicorn.riscv_const as constants

        names = [f"UC_RISCV_REG_X{n}" for n in range(32)]
    registers = [getattr(constants, each) for each in names]
    state, obs, act = core.scratch(32, 32, 16)
    core.call("way_reset", state)
    core.write(obs, seen.tobytes())
    ran: list[tuple[int, list[int]]] = []

    def note(uc: Any, address: int, _size: int, _data: object) -> None:
        ran.append((address, [uc.reg_read(each) & 0xFFFFFFFF for each in registers]))

    hook = core.uc.hook_add(unicorn.UC_HOOK_CODE, note)
    core.uc.ctl_flush_tb()
    try:
        core.call("way_evaluate", state, obs, act)
    finally:
        core.uc.hook_del(hook)
        core.uc.ctl_flush_tb()
    return ran


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4f", "rv32imc"])
@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("way_counted", "the data decide whether it goes on there"),
        ("way_chosen", "the data decide "),
        ("way_stored", "stores where the data say"),
    ],
)
def test_what_the_data_decide_is_named(core: str, function: str, why: str, build: Build) -> None:
    walked = walk(build(core, "zig"), function)
    assert not walked.shown
    assert why in walked.unshown and "0x" in walked.unshown
    assert "way_" in walked.unshown or "mixed" in walked.unshown


def test_a_walk_ends(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(walk.__globals__, "MOST_INSTRUCTIONS", 5_000)
    walked = walk(build("cortex-m0plus", "zig"), "way_endless")
    assert "no end after 5,000 instructions" in walked.unshown


def test_an_architecture_without_a_model_is_refused(build: Build) -> None:
    from dataclasses import replace

    with pytest.raises(ToolError, match="instructions of aarch64 are not modelled"):
        walk(replace(build("cortex-m0plus", "zig"), architecture="aarch64"), "way_evaluate")


def test_pointers_keep_to_their_objects() -> None:
    here, there = Pointer("state", 8), Pointer("action", 4)
    assert add(here, 0xFFFFFFFC) == Pointer("state", 4)
    assert subtract(here, Pointer("state")) == 8
    assert subtract(here, there) is None and add(here, there) is None
    assert joined(here, there) == Either(frozenset({here, there}))
    assert joined(here, 4) is None and joined(here, None) is None
    assert add(Either(frozenset({here, there})), 4) == Either(
        frozenset({Pointer("state", 12), Pointer("action", 8)})
    )


def test_a_store_that_may_go_elsewhere_is_believed_nowhere(build: Build) -> None:
    machine = Machine(build("cortex-m0plus", "zig"), [None] * 16)
    one, other = Pointer(STACK, -8), Pointer(STACK, -4)
    machine.store(one, 4, 7)
    machine.store(other, 4, 7)
    machine.store(Either(frozenset({one, other})), 4, 9)
    assert machine.load(one, 4) is None and machine.load(other, 4) is None
    machine.store(one, 4, 0x11223344)
    assert machine.load(Pointer(STACK, -7), 1) == 0x33
    assert machine.load(Pointer(STACK, -6), 2) == 0x1122
    machine.store(Pointer(STACK, -7), 1, 0)
    assert machine.load(one, 4) is None
    assert machine.load(Pointer("observation"), 4) is None
