"""Flags: what comparisons and sums leave in them, and the conditions that read them."""

from collections.abc import Callable

from edgerl.toolchain.certify.paths.machine import Machine
from edgerl.toolchain.certify.paths.values import MASK, Pointer, Value

_N, _Z, _C, _V = range(4)


def _both(a: bool | None, b: bool | None) -> bool | None:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def _not(a: bool | None) -> bool | None:
    return None if a is None else not a


def _flag(which: int) -> Callable[[Machine], bool | None]:
    def read(m: Machine) -> bool | None:
        flag = m.flags[which]
        return None if flag is None else bool(flag)

    return read


def _at_least(m: Machine) -> bool | None:
    n, v = m.flags[_N], m.flags[_V]
    return None if n is None or v is None else n == v


def _higher(m: Machine) -> bool | None:
    return _both(_flag(_C)(m), _not(_flag(_Z)(m)))


def _greater(m: Machine) -> bool | None:
    return _both(_at_least(m), _not(_flag(_Z)(m)))


# Numbered as capstone does: eq ne hs lo mi pl vs vc hi ls ge lt gt le.
_POSITIVE = (_flag(_Z), _flag(_C), _flag(_N), _flag(_V), _higher, _at_least, _greater)


def _negated(holds: Callable[[Machine], bool | None]) -> Callable[[Machine], bool | None]:
    return lambda m: _not(holds(m))


CONDITIONS = {
    number: each
    for k, holds in enumerate(_POSITIVE)
    for number, each in ((2 * k + 1, holds), (2 * k + 2, _negated(holds)))
}


def forget_flags(m: Machine) -> None:
    """The flags are data from here on."""
    m.flags = [None] * 4


def _sign_and_zero(m: Machine, value: Value) -> None:
    known = isinstance(value, int)
    m.flags[_N] = int(value) >> 31 if isinstance(value, int) else None
    m.flags[_Z] = int(value == 0) if known else None


def compare(m: Machine, a: Value, b: Value) -> None:
    """The flags of a - b."""
    match a, b:
        case int(), int():
            m.flags = sum_flags(a, ~b & MASK, 1)
        case Pointer(), Pointer() if a.place == b.place:
            distance = a.offset - b.offset
            m.flags = [int(distance < 0), int(distance == 0), int(distance >= 0), 0]
        case Pointer(), 0:
            m.flags = [None, 0, 1, 0]
        case _:
            m.flags = [None] * 4


def sum_flags(a: int, b: int, carry: int) -> list[int | None]:
    """The flags of a + b + carry."""
    total = a + b + carry
    low = total & MASK
    overflow = (a ^ low) & (b ^ low)
    return [low >> 31, int(low == 0), total >> 32, overflow >> 31]


def with_carry(m: Machine, a: Value, b: Value, *, flags: bool) -> Value:
    """a + b + carry."""
    carry = m.flags[_C]
    if not isinstance(a, int) or not isinstance(b, int) or carry is None:
        if flags:
            m.flags = [None] * 4
        return None
    if flags:
        m.flags = sum_flags(a, b, carry)
    return a + b + carry & MASK


def bit_flags(m: Machine, value: Value) -> None:
    """Of a result without a carry: the shifter may have set C, V stays."""
    _sign_and_zero(m, value)
    m.flags[_C] = None
