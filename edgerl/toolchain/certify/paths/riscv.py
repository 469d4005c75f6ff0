"""RISC-V of 32 bits: what each instruction does to what is known.

Integer registers and the stack are followed; float registers are data. An instruction that is in
none of the tables below is not modelled, and a walk ends there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgerl.toolchain.certify.paths.machine import Machine
from edgerl.toolchain.certify.paths.model import Action, Model, Step, not_modelled
from edgerl.toolchain.certify.paths.values import (
    MASK,
    Value,
    add,
    equal,
    less,
    signed,
    subtract,
)

_NAMES = (
    "zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 "
    "s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6"
).split()
_NUMBERS = {name: number for number, name in enumerate(_NAMES)} | {"fp": 8}
_ZERO, _RA, _SP = 0, 1, 2

Read = Callable[[Machine], Value]


def _known(pick: Callable[[int, int], int]) -> Callable[[Value, Value], Value]:
    """A function of two words where both are known."""

    def made(a: Value, b: Value) -> Value:
        return pick(a, b) & MASK if isinstance(a, int) and isinstance(b, int) else None

    return made


def _as_word(truth: bool | None) -> Value:
    return None if truth is None else int(truth)


_RESULTS: Mapping[str, Callable[[Value, Value], Value]] = {
    "add": add,
    "sub": subtract,
    "and": _known(lambda a, b: a & b),
    "or": _known(lambda a, b: a | b),
    "xor": _known(lambda a, b: a ^ b),
    "sll": _known(lambda a, n: a << (n & 31)),
    "srl": _known(lambda a, n: a >> (n & 31)),
    "sra": _known(lambda a, n: signed(a) >> (n & 31)),
    "mul": _known(lambda a, b: a * b),
    "mulh": _known(lambda a, b: signed(a) * signed(b) >> 32),
    "mulhu": _known(lambda a, b: a * b >> 32),
    "mulhsu": _known(lambda a, b: signed(a) * b >> 32),
    "slt": lambda a, b: _as_word(less(a, b, sign=True)),
    "sltu": lambda a, b: _as_word(less(a, b, sign=False)),
}
# Short forms: what they are, and the places of their operands after the target.
_IMMEDIATE = {
    "addi": "add", "addi4spn": "add", "addi16sp": "add", "andi": "and", "ori": "or",
    "xori": "xor", "slli": "sll", "srli": "srl", "srai": "sra", "slti": "slt", "sltiu": "sltu",
}  # fmt: skip
# target, source: as a function of the source and zero.
_OF_ONE: Mapping[str, Callable[[Value], Value]] = {
    "mv": lambda a: a,
    "li": lambda a: a,
    "neg": lambda a: subtract(0, a),
    "not": lambda a: ~a & MASK if isinstance(a, int) else None,
    "seqz": lambda a: _as_word(equal(a, 0)),
    "snez": lambda a: _as_word(None if equal(a, 0) is None else not equal(a, 0)),
    "sltz": lambda a: _as_word(less(a, 0, sign=True)),
    "sgtz": lambda a: _as_word(less(0, a, sign=True)),
}
_OPAQUE = {
    "div", "divu", "rem", "remu", "fmv.x.w", "fcvt.w.s", "fcvt.wu.s", "feq.s", "flt.s", "fle.s",
    "fclass.s",
}  # fmt: skip
_LOADS = {
    "lw": (4, False), "lwsp": (4, False), "lh": (2, True), "lhu": (2, False), "lb": (1, True),
    "lbu": (1, False),
}  # fmt: skip
_STORES = {"sw": 4, "swsp": 4, "sh": 2, "sb": 1}
_FLOAT_STORES = {"fsw", "fswsp"}
_FLOAT_LOADS = {"flw", "flwsp"}
_NOTHING = {"nop", "fence"}


def _signed_less(a: Value, b: Value) -> bool | None:
    return less(a, b, sign=True)


def _unsigned_less(a: Value, b: Value) -> bool | None:
    return less(a, b, sign=False)


# Of each branch: the relation, whether its operands change places, whether it must not hold.
_RELATIONS: Mapping[str, tuple[Callable[[Value, Value], bool | None], bool, bool]] = {
    "beq": (equal, False, False),
    "bne": (equal, False, True),
    "blt": (_signed_less, False, False),
    "bge": (_signed_less, False, True),
    "bgt": (_signed_less, True, False),
    "ble": (_signed_less, True, True),
    "bltu": (_unsigned_less, False, False),
    "bgeu": (_unsigned_less, False, True),
    "bgtu": (_unsigned_less, True, False),
    "bleu": (_unsigned_less, True, True),
}


def _step(raw: Any) -> Step:
    name = raw.mnemonic.removeprefix("c.")
    parts = [part.strip() for part in raw.op_str.split(",")] if raw.op_str else []
    text = f"{raw.mnemonic} {raw.op_str}".strip()
    relation = _RELATIONS.get(name.removesuffix("z"))
    if relation is not None:
        return Step(raw.size, text, _branch(raw.address, relation, parts), decides=True)
    return Step(raw.size, text, _act(raw.address, raw.size, name, parts))


def _act(address: int, size: int, name: str, parts: Sequence[str]) -> Action:
    if name in _NOTHING:
        return _nothing
    if name in ("j", "jal", "jr", "jalr", "ret"):
        return _jump(address, size, name, parts)
    if name in _LOADS or name in _STORES:
        return _memory(name, parts)
    if name in _FLOAT_STORES:
        place = _place(parts[1])
        return lambda m: m.store(place(m), 4, None)
    if name in _FLOAT_LOADS:
        return _nothing
    if name in ("lui", "auipc"):
        high = _number(parts[1]) << 12
        value = (address + high if name == "auipc" else high) & MASK
        return _writing(parts[0], lambda m: value)
    if name in _OPAQUE:
        return _writing(parts[0], lambda m: None)
    if name in _OF_ONE:
        one, source = _OF_ONE[name], _reader(parts[1])
        return _writing(parts[0], lambda m: one(source(m)))
    kind = _RESULTS.get(_IMMEDIATE.get(name, name))
    if kind is not None:
        # Of two operands the first is source and target.
        a, b = (_reader(part) for part in parts[-2:])
        return _writing(parts[0], lambda m: kind(a(m), b(m)))
    if name.startswith("f") and parts and parts[0] not in _NUMBERS:
        return _nothing  # a float register is written
    return not_modelled


def _nothing(_machine: Machine) -> None:
    """What changes nothing that is followed."""


def _number(text: str) -> int:
    return int(text, 0)


def _reader(text: str) -> Read:
    """The value of a register or an immediate."""
    number = _NUMBERS.get(text)
    if number is None:
        constant = _number(text) & MASK
        return lambda m: constant
    return lambda m: m.registers[number]


def _writing(target: str, read: Read) -> Action:
    number = _NUMBERS[target]

    def act(m: Machine) -> None:
        value = read(m)
        if number != _ZERO:
            m.registers[number] = value

    return act


def _place(text: str) -> Read:
    """The address that `offset(base)` means."""
    match = re.fullmatch(r"(-?\w+)\((\w+)\)", text)
    if match is None:
        raise ValueError(f"{text}: no place in memory")
    offset, base = _number(match[1]) & MASK, _NUMBERS[match[2]]
    return lambda m: add(m.registers[base], offset)


def _memory(name: str, parts: Sequence[str]) -> Action:
    place = _place(parts[1])
    if name in _LOADS:
        size, sign = _LOADS[name]
        return _writing(parts[0], lambda m: m.load(place(m), size, sign=sign))
    width, value = _STORES[name], _reader(parts[0])
    return lambda m: m.store(place(m), width, value(m))


def _branch(
    address: int,
    relation: tuple[Callable[[Value, Value], bool | None], bool, bool],
    parts: Sequence[str],
) -> Action:
    holds, swapped, negated = relation
    target = address + _number(parts[-1]) & MASK
    a = _reader(parts[0])
    b = _reader(parts[1]) if len(parts) == 3 else _reader("zero")
    if swapped:
        a, b = b, a

    def act(m: Machine) -> None:
        held = holds(a(m), b(m))
        m.branch(None if held is None else held != negated, target)

    return act


def _jump(address: int, size: int, name: str, parts: Sequence[str]) -> Action:
    """Direct, with the distance given, or through a register."""
    behind = address + size
    if name in ("j", "jal"):
        link = parts[0] if len(parts) == 2 else "ra" if name == "jal" else "zero"
        far = address + _number(parts[-1]) & MASK
        return _going(link, lambda m: far, behind)
    if name in ("jr", "ret"):
        return _going("zero", _reader(parts[0] if parts else "ra"), behind)
    # jalr: "rs", "rs, offset", "rd, rs, offset", "rd, offset(rs)".
    if "(" in parts[-1]:
        return _going(parts[0], _place(parts[-1]), behind)
    offset = 0 if parts[-1] in _NUMBERS else _number(parts[-1])
    registers = [part for part in parts if part in _NUMBERS]
    link = registers[0] if len(registers) == 2 else "ra"
    base = _reader(registers[-1])
    return _going(link, lambda m: add(base(m), offset & MASK), behind)


def _going(link: str, target: Read, behind: int) -> Action:
    number = _NUMBERS[link]

    def act(m: Machine) -> None:
        where = target(m)
        if number != _ZERO:
            m.registers[number] = behind
        m.jump(where)

    return act


MODEL = Model(
    registers=32, stack=_SP, link=_RA, arguments=(10, 11, 12), step=_step, fixed={_ZERO: 0}
)
