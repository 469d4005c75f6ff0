"""Memory: loads and stores of core registers, and those of floats, which are data."""

from collections.abc import Callable
from typing import Any

from edgerl.toolchain.certify.paths.machine import Machine
from edgerl.toolchain.certify.paths.model import Action
from edgerl.toolchain.certify.paths.thumb.registers import NUMBERS, PC, SP, Read, write
from edgerl.toolchain.certify.paths.values import MASK, Value, add, subtract

LOADS = {
    "ldr": (4, False), "ldrb": (1, False), "ldrh": (2, False), "ldrsb": (1, True),
    "ldrsh": (2, True),
}  # fmt: skip
STORES = {"str": 4, "strb": 1, "strh": 2}


def _distance(raw: Any, operand: Any) -> Read:
    """From the base of a place in memory: a constant, or a register shifted left."""
    if not operand.mem.index:
        constant = operand.mem.disp & MASK
        return lambda m: constant
    number, shift = NUMBERS[raw.reg_name(operand.mem.index)], operand.shift.value

    def shifted(m: Machine) -> Value:
        index = m.registers[number]
        return index << shift & MASK if isinstance(index, int) else None

    return shifted


def _place(raw: Any) -> tuple[Callable[[Machine], tuple[Value, Value]], int]:
    """The address that a load or store goes to, the base's next value, and the base."""
    at = next(k for k, operand in enumerate(raw.operands) if operand.type == 3)
    operand = raw.operands[at]
    base = NUMBERS[raw.reg_name(operand.mem.base)]
    far = _distance(raw, operand)
    after = raw.operands[at + 1 :]
    behind = after[0].imm & MASK if after and after[0].type == 2 else 0
    if after and after[0].subtracted:
        behind = -behind & MASK
    pc = raw.address + 4 & ~3

    def place(m: Machine) -> tuple[Value, Value]:
        start = pc if base == PC else m.registers[base]
        address = add(start, far(m))
        return address, add(address, behind)

    return place, base if raw.writeback else -1


def memory(raw: Any, name: str) -> Action:
    """One core register, or two."""
    place, back = _place(raw)
    pair = name in ("ldrd", "strd")
    count = 2 if pair else 1
    numbers = [NUMBERS[raw.reg_name(o.reg)] for o in raw.operands[:count]]
    loads = name in LOADS or name == "ldrd"
    size, sign = (4, False) if pair else LOADS.get(name) or (STORES[name], False)

    def act(m: Machine) -> None:
        address, after = place(m)
        values = []
        for number, at in zip(numbers, m.words(address, count), strict=True):
            if loads:
                values.append(m.load(at, size, sign=sign))
            else:
                m.store(at, size, m.registers[number])
        if back >= 0:
            m.registers[back] = after
        for number, value in zip(numbers, values, strict=False):
            write(m, number, value)

    return act


def several(raw: Any, name: str) -> Action:
    """Several registers, the lowest at the lowest address."""
    if name in ("push", "pop"):
        base, listed, back = SP, raw.operands, True
    else:
        base, listed = NUMBERS[raw.reg_name(raw.operands[0].reg)], raw.operands[1:]
        back = "!" in raw.op_str
    numbers = [NUMBERS[raw.reg_name(o.reg)] for o in listed]
    down = name in ("push", "ldmdb", "stmdb")
    loads = name in ("pop", "ldm", "ldmdb")
    size = 4 * len(numbers)

    def act(m: Machine) -> None:
        start = m.registers[base]
        first = subtract(start, size) if down else start
        values = []
        for number, at in zip(numbers, m.words(first, len(numbers)), strict=True):
            if loads:
                values.append(m.load(at, 4))
            else:
                m.store(at, 4, m.registers[number])
        if back:
            m.registers[base] = first if down else add(start, size)
        for number, value in zip(numbers, values, strict=False):
            write(m, number, value)

    return act


def _width(raw: Any, operand: Any) -> int:
    return 8 if raw.reg_name(operand.reg).startswith("d") else 4


def float_memory(raw: Any, name: str) -> Action:
    """One float register."""
    place, _ = _place(raw)
    words = _width(raw, raw.operands[0]) // 4

    def act(m: Machine) -> None:
        if name == "vstr":
            for at in m.words(place(m)[0], words):
                m.store(at, 4, None)

    return act


def floats(raw: Any) -> Action:
    """Several float registers."""
    stacked = raw.mnemonic.startswith(("vpush", "vpop"))
    listed = raw.operands if stacked else raw.operands[1:]
    base = SP if stacked else NUMBERS[raw.reg_name(raw.operands[0].reg)]
    back = stacked or "!" in raw.op_str
    down = raw.mnemonic.startswith(("vpush", "vldmdb", "vstmdb"))
    stores = raw.mnemonic.startswith(("vpush", "vstm"))
    size = sum(_width(raw, operand) for operand in listed)

    def act(m: Machine) -> None:
        start = m.registers[base]
        first = subtract(start, size) if down else start
        if stores:
            for at in m.words(first, size // 4):
                m.store(at, 4, None)
        if back:
            m.registers[base] = first if down else add(start, size)

    return act


def of_floats(raw: Any) -> Action:
    """Arithmetic of floats: a core register among the operands may be written by it, and the
    flags of a comparison are data."""
    named = [NUMBERS.get(raw.reg_name(o.reg)) for o in raw.operands if o.type == 1]
    into_floats = bool(named) and named[0] is None
    written = [] if into_floats else [number for number in named if number is not None]
    flags = raw.mnemonic.startswith("vmrs")

    def act(m: Machine) -> None:
        m.forget(written)
        if flags:
            m.flags = [None] * 4

    return act
