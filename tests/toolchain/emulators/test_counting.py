"""Counts are exact: by hand, by two emulators, for every input."""

import numpy as np
import pytest

from edgerl.targets.model import target
from edgerl.toolchain.build.disassembly import disassemble
from edgerl.toolchain.emulators import QemuCore, UnicornCore, count, spread
from edgerl.toolchain.emulators.cycles import TABLES, cycles

BOARD = target("crazyflie21")
# net_core as it stands in net_kernels.S: its preamble (3), then the hidden layer (1 + 1, seven
# columns of 12, 2, eight rectifiers of 4, 1), then the output layer (1, eight columns of 3, 1,
# and the two pops).
HIDDEN = 1 + 1 + 7 * 12 + 2 + 8 * 4 + 1
OUTPUT = 1 + 8 * 3 + 1 + 2


@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_counts_agree_with_counting_by_hand(family: str, images, flight) -> None:
    found = count(UnicornCore(images("crazyflie21", family), BOARD), flight[0][:40])
    assert found.by_function["net_core"] == 3 + HIDDEN + OUTPUT
    assert found.by_layer == {"net_layer_hidden": HIDDEN, "net_layer_output": OUTPUT}
    assert sum(found.by_function.values()) == found.spread.mean


def test_count_is_the_same_for_every_input(images, flight) -> None:
    # Half of the rectifiers' predicated moves are false; they count all the same.
    found = count(UnicornCore(images("crazyflie21", "zig"), BOARD), flight[0][:200])
    assert found.spread.min == found.spread.max
    assert len(found.instructions) == 200


def test_blocks_translated_before_are_counted_too(images, flight) -> None:
    image = images("crazyflie21", "zig")
    fresh = count(UnicornCore(image, BOARD), flight[0][:5])
    used = UnicornCore(image, BOARD)
    used.trace(*flight)
    before = used.trace(*flight)
    again = count(used, flight[0][:5])
    assert (again.instructions == fresh.instructions).all()
    assert used.trace(*flight).actions.tobytes() == before.actions.tobytes()


@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("family", ["zig", "gcc"])
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("board", ["crazyflie21", "cortex-m7", "cortex-m33"])
def test_two_emulators_count_the_same(
    board: str, portable: bool, family: str, images, flight
) -> None:
    image = images(board, family, portable)
    ours = count(UnicornCore(image, target(board)), flight[0][:100]).instructions
    theirs = QemuCore(image, target(board)).count(flight[0][:100])
    assert ours.min() > 100
    assert (ours == theirs).all(), (spread(ours), spread(theirs))


def test_guard_costs_instructions(images, flight) -> None:
    core = UnicornCore(images("crazyflie21", "zig"), BOARD)
    bare, guarded = count(core, flight[0][:20]), count(core, flight[0][:20], "step")
    assert guarded.spread.min > bare.spread.max


def test_no_published_timing_no_cycles(images, flight) -> None:
    found = count(UnicornCore(images("cortex-m7", "zig"), target("cortex-m7")), flight[0][:2])
    assert found.cycles is None
    assert found.cycles_model is None


def test_cycles_of_the_kernel(images, flight) -> None:
    core = UnicornCore(images("crazyflie21", "zig"), BOARD)
    # push, vpush, ldr; then by the table, each load with its registers, each multiply-add 3,
    # each branch taken.
    preamble = 3 + 9 + 2
    column = 2 + 9 + 8 * 3 + 1 + 3
    hidden = 9 + 1 + 7 * column + 2 + 8 * 4 + 9
    output = 3 + 8 * (3 + 2 * 3) + 3 + 9 + 5
    start = core.image.address("net_core")
    body = disassemble(core.image.read(start, 292), start)
    body = body[: [i.mnemonic for i in body].index("pop") + 1]
    looped = [i for i in body if body[5].address <= i.address < body[17].address]
    once = sum(cycles("cortex-m4", i) for i in body)
    assert once + 6 * sum(cycles("cortex-m4", i) for i in looped) == preamble + hidden + output
    found = count(core, flight[0][:3])
    assert found.cycles is not None
    assert found.cycles_model is not None
    rest = found.spread.max - found.by_function["net_core"]
    assert found.cycles_model > preamble + hidden + output + rest


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("70b5", 1 + 4),  # push {r4, r5, r6, lr}
        ("70bd", 1 + 4 + 2),  # pop {r4, r5, r6, pc}
        ("0ebc", 1 + 3),  # pop {r1, r2, r3}
        ("2ded088b", 1 + 8),  # vpush {d8, d9, d10, d11}
        ("f3ec084a", 1 + 8),  # vldmia r3!, {s9 ... s16}
        ("90ed000a", 2),  # vldr s0, [r0]
        ("a0ee211a", 3),  # vfma.f32 s2, s0, s3
        ("80ee201a", 14),  # vdiv.f32 s2, s0, s1
        ("b1eec00a", 14),  # vsqrt.f32 s0, s0
        ("30ee201a", 1),  # vadd.f32 s2, s0, s1
        ("f1ee10fa", 1),  # vmrs APSR_nzcv, fpscr
        ("d0e90023", 3),  # ldrd r2, r3, [r0]
        ("0068", 2),  # ldr r0, [r0]
        ("0060", 1),  # str r0, [r0]
        ("5df804fb", 2 + 2),  # ldr pc, [sp], #4
        ("90fbf1f0", 8),  # sdiv r0, r0, r1
        ("fee7", 3),  # b .
        ("7047", 3),  # bx lr
        ("fff7feff", 3),  # bl
        ("08b1", 2),  # cbz r0
        ("fbd1", 3),  # bne
        ("0844", 1),  # add r0, r1
        ("c1f30223", 1),  # ubfx r3, r1, #8, #3
        ("4840", 1),  # eors r0, r1
    ],
)
def test_published_table(code: str, expected: int) -> None:
    (instruction,) = disassemble(bytes.fromhex(code), 0x08004000)
    assert cycles("cortex-m4", instruction) == expected, instruction


def test_conditional_forms_cost_as_the_plain_ones() -> None:
    # itt mi; vmovmi.f32 s0, s16; ldrmi r0, [r0]
    found = disassemble(bytes.fromhex("44bfb0ee480a0068"), 0)
    assert [cycles("cortex-m4", i) for i in found] == [1, 1, 2]
    assert [i.mnemonic for i in found[1:]] == ["vmov", "ldr"]
    assert [i.conditional for i in found] == [False, True, True]


def test_every_core_names_a_table_that_exists() -> None:
    from edgerl.targets.model import targets

    assert {t.core.cycles for t in targets().values()} <= {"", *TABLES}


def test_spread() -> None:
    found = spread(np.array([3, 5, 4], np.int64))
    assert (found.min, found.max, found.mean) == (3, 5, 4.0)
