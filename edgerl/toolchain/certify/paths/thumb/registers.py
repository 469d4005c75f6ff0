"""Registers and operands: what an instruction reads, and where it writes."""

from collections.abc import Callable, Mapping
from typing import Any

from edgerl.toolchain.certify.paths.machine import Machine
from edgerl.toolchain.certify.paths.values import MASK, Value, signed

SP, LR, PC = 13, 14, 15
NUMBERS = {f"r{n}": n for n in range(13)} | {
    "sb": 9, "sl": 10, "fp": 11, "ip": 12, "sp": SP, "lr": LR, "pc": PC,
}  # fmt: skip


Read = Callable[[Machine], Value]
Pick = Callable[[int, int], int]

SHIFTS: Mapping[str, Pick] = {
    "lsl": lambda a, n: a << n & MASK if n < 32 else 0,
    "lsr": lambda a, n: a >> n,
    "asr": lambda a, n: signed(a) >> n & MASK,
    "ror": lambda a, n: (a >> n % 32 | a << 32 - n % 32) & MASK,
}
_SHIFT_NAMES = {1: "asr", 2: "lsl", 3: "lsr", 4: "ror", 6: "asr", 7: "lsl", 8: "lsr", 9: "ror"}


def register(raw: Any, operand: Any) -> int | None:
    """The number of a core register, None for any other."""
    return NUMBERS.get(raw.reg_name(operand.reg))


def is_register(operand: Any) -> bool:
    """Whether an operand is a register, of whatever kind."""
    return bool(operand.type == 1)


def reader(raw: Any, operand: Any) -> Read:
    """The value of a register, shifted or not, or of an immediate."""
    if not is_register(operand):
        constant = operand.imm & MASK
        return lambda m: constant
    number = register(raw, operand)
    if number is None:
        return unknown
    whole = plain(raw, number)
    kind = operand.shift.type
    if kind == 0:
        return whole
    if kind not in (1, 2, 3, 4):
        return unknown
    shift, amount = SHIFTS[_SHIFT_NAMES[kind]], operand.shift.value

    def shifted(m: Machine) -> Value:
        value = whole(m)
        return shift(value, amount) if isinstance(value, int) else None

    return shifted


def plain(raw: Any, number: int) -> Read:
    """The value of a core register; the program counter reads as four bytes ahead."""
    if number == PC:
        here = raw.address + 4
        return lambda m: here
    return lambda m: m.registers[number]


def unknown(_machine: Machine) -> Value:
    """Data."""
    return None


def write(m: Machine, number: int, value: Value) -> None:
    """Write a core register; the program counter goes on there."""
    if number == PC:
        m.jump(without_thumb_bit(value))
    else:
        m.registers[number] = value


def without_thumb_bit(value: Value) -> Value:
    """An address that a branch was told, whose lowest bit names the instruction set."""
    return value & ~1 if isinstance(value, int) else value
