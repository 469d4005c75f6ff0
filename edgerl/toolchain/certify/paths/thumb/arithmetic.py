"""Arithmetic of core registers: results that may be known, and those that are data."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgerl.toolchain.certify.paths.machine import Machine
from edgerl.toolchain.certify.paths.model import Action, not_modelled
from edgerl.toolchain.certify.paths.thumb.flags import (
    bit_flags,
    compare,
    forget_flags,
    sum_flags,
    with_carry,
)
from edgerl.toolchain.certify.paths.thumb.registers import (
    NUMBERS,
    SHIFTS,
    Pick,
    Read,
    is_register,
    reader,
    register,
    unknown,
    write,
)
from edgerl.toolchain.certify.paths.values import MASK, Value, add, extended, subtract

_BITWISE: Mapping[str, Pick] = {
    "and": lambda a, b: a & b,
    "tst": lambda a, b: a & b,
    "orr": lambda a, b: a | b,
    "orn": lambda a, b: a | ~b & MASK,
    "eor": lambda a, b: a ^ b,
    "teq": lambda a, b: a ^ b,
    "bic": lambda a, b: a & ~b,
    "mul": lambda a, b: a * b & MASK,
}
_EXTENSIONS = {"uxtb": (8, False), "uxth": (16, False), "sxtb": (8, True), "sxth": (16, True)}


def _inverted(value: Value) -> Value:
    return ~value & MASK if isinstance(value, int) else None


def computed(raw: Any, name: str) -> Action:
    """An instruction whose result may be known."""
    if not raw.operands or not is_register(raw.operands[0]):
        return not_modelled
    target = register(raw, raw.operands[0])
    if target is None:
        return not_modelled
    reads = [reader(raw, operand) for operand in raw.operands]
    flags = bool(raw.update_flags)
    if name in ("cmp", "cmn", "tst", "teq"):
        return _comparison(name, reads)
    # Of two operands the first is source and target.
    sources = reads[1:] if len(reads) > 2 or name in _OF_ONE else reads
    made = _result(name, sources, raw)
    if made is None:
        return not_modelled

    def act(m: Machine) -> None:
        value = made(m)
        if flags and name not in ("adc", "sbc"):
            _result_flags(m, name, [read(m) for read in sources], value)
        write(m, target, value)

    return act


_OF_ONE = {"mov", "movw", "mvn", "adr", "ubfx", "sbfx", "mla", "mls", "neg", *_EXTENSIONS}


def _comparison(name: str, reads: Sequence[Read]) -> Action:
    def act(m: Machine) -> None:
        match name, reads[0](m), reads[1](m):
            case "cmp", a, b:
                compare(m, a, b)
            case "cmn", int(a), int(b):
                m.flags = sum_flags(a, b, 0)
            case (("tst" | "teq"), int(a), int(b)):
                bit_flags(m, _BITWISE[name](a, b))
            case "cmn", _, _:
                forget_flags(m)
            case _:
                bit_flags(m, None)

    return act


def _result_flags(m: Machine, name: str, sources: Sequence[Value], value: Value) -> None:
    match name, sources:
        case "add", [int(a), int(b)]:
            m.flags = sum_flags(a, b, 0)
        case "sub", [a, b]:
            compare(m, a, b)
        case "rsb", [a, b]:
            compare(m, b, a)
        case (("add" | "sub" | "rsb"), _):
            m.flags = [None] * 4
        case _:
            bit_flags(m, value)


def _result(name: str, sources: Sequence[Read], raw: Any) -> Read | None:
    """What an instruction writes, or None where that is not modelled."""
    if name in ("add", "addw"):
        return lambda m: add(sources[0](m), sources[1](m))
    if name in ("sub", "subw"):
        return lambda m: subtract(sources[0](m), sources[1](m))
    if name in ("rsb", "neg"):
        other = sources[1] if len(sources) > 1 else lambda m: 0
        return lambda m: subtract(other(m), sources[0](m))
    if name in ("adc", "sbc"):
        flags, minus = bool(raw.update_flags), name == "sbc"

        def carried(m: Machine) -> Value:
            b = sources[1](m)
            return with_carry(m, sources[0](m), _inverted(b) if minus else b, flags=flags)

        return carried
    if name in ("mov", "movw"):
        return sources[0]
    if name == "mvn":
        return lambda m: _inverted(sources[0](m))
    if name == "movt":
        return _of_known(lambda low, high: low & 0xFFFF | high << 16, sources)
    if name == "adr":
        base = raw.address + 4 & ~3
        return lambda m: add(base, sources[0](m))
    if name in _BITWISE:
        return _of_known(_BITWISE[name], sources)
    if name in SHIFTS:
        shift = SHIFTS[name]
        return _of_known(lambda a, n: shift(a, n & 0xFF), sources)
    if name in _EXTENSIONS:
        bits, sign = _EXTENSIONS[name]
        return lambda m: extended(sources[0](m), bits, sign=sign)
    if name in ("ubfx", "sbfx"):
        return lambda m: _field(*(read(m) for read in sources), sign=name == "sbfx")
    if name in ("mla", "mls"):
        return lambda m: _accumulated(*(read(m) for read in sources), minus=name == "mls")
    if name in ("bfi", "bfc"):
        return unknown
    return None


def _of_known(pick: Pick, sources: Sequence[Read]) -> Read:
    """A function of two words where both are known."""

    def made(m: Machine) -> Value:
        a, b = sources[0](m), sources[1](m)
        return pick(a, b) if isinstance(a, int) and isinstance(b, int) else None

    return made


def _field(value: Value, first: Value, width: Value, *, sign: bool) -> Value:
    if not (isinstance(value, int) and isinstance(first, int) and isinstance(width, int)):
        return None
    return extended(value >> first, width, sign=sign)


def _accumulated(a: Value, b: Value, start: Value, *, minus: bool) -> Value:
    product = a * b & MASK if isinstance(a, int) and isinstance(b, int) else None
    return subtract(start, product) if minus else add(start, product)


def opaque(raw: Any, results: int) -> Action:
    """An instruction whose results, its first operands, are data."""
    numbers = [NUMBERS.get(raw.reg_name(o.reg)) for o in raw.operands[:results] if o.type == 1]
    written = [number for number in numbers if number is not None]
    flags = bool(raw.update_flags)

    def act(m: Machine) -> None:
        m.forget(written)
        if flags:
            m.flags = [None] * 4

    return act
