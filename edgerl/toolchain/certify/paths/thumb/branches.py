"""Branches: where the walk goes on."""

from collections.abc import Callable, Mapping
from typing import Any

from edgerl.toolchain.certify.paths.machine import Machine
from edgerl.toolchain.certify.paths.model import Action
from edgerl.toolchain.certify.paths.thumb.registers import (
    LR,
    NUMBERS,
    plain,
    reader,
    without_thumb_bit,
)
from edgerl.toolchain.certify.paths.values import MASK, Pointer, add


def _call(raw: Any) -> Action:
    target, behind = raw.operands[-1].imm & MASK, raw.address + raw.size | 1

    def act(m: Machine) -> None:
        m.jump(target)
        m.registers[LR] = behind

    return act


def _branch(raw: Any) -> Action:
    target = raw.operands[-1].imm & MASK
    return lambda m: m.jump(target)


def _exchange(raw: Any) -> Action:
    read, calls, behind = reader(raw, raw.operands[0]), raw.insn_name() == "blx", raw.address + 3

    def act(m: Machine) -> None:
        target = read(m)
        if calls:
            m.registers[LR] = behind
        m.jump(without_thumb_bit(target))

    return act


def _on_zero(raw: Any) -> Action:
    read, target = reader(raw, raw.operands[0]), raw.operands[1].imm & MASK
    wanted = raw.insn_name() == "cbz"

    def act(m: Machine) -> None:
        match read(m):
            case int(value):
                m.branch((value == 0) == wanted, target)
            case Pointer():
                m.branch(not wanted, target)
            case None:
                m.branch(None, target)

    return act


def _table(raw: Any) -> Action:
    size = 2 if raw.insn_name() == "tbh" else 1
    base, index = raw.operands[0].mem.base, raw.operands[0].mem.index
    start = plain(raw, NUMBERS[raw.reg_name(base)])
    number = NUMBERS[raw.reg_name(index)]
    behind = raw.address + 4

    def act(m: Machine) -> None:
        entry = m.registers[number]
        far = m.load(add(start(m), size * entry & MASK), size) if isinstance(entry, int) else None
        m.jump(behind + 2 * far if isinstance(far, int) else None)

    return act


BRANCHES: Mapping[str, Callable[[Any], Action]] = {
    "b": _branch, "bl": _call, "bx": _exchange, "blx": _exchange, "cbz": _on_zero,
    "cbnz": _on_zero, "tbb": _table, "tbh": _table,
}  # fmt: skip
