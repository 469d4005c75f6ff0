"""Values: what a register or a word of the stack is known to hold, in 32 bits."""

from dataclasses import dataclass

MASK = 0xFFFFFFFF
_SIGN = 0x80000000


@dataclass(frozen=True)
class Pointer:
    """An address `offset` bytes behind the start of an object that lies somewhere: the caller's
    memory, the stack at entry, or the place that a call returns to.

    Objects do not overlap, and none holds the address 0 or 2^31: so within one, addresses compare
    as offsets do.
    """

    place: str
    offset: int = 0


@dataclass(frozen=True)
class Either:
    """One of these pointers; the data say which."""

    pointers: frozenset[Pointer]


# A known integer 0 to 2^32 - 1, a pointer, or None for what depends on data or is not followed.
Value = int | Pointer | Either | None


def signed(x: int) -> int:
    """A word as a two's complement number."""
    return x - (1 << 32) if x & _SIGN else x


def add(a: Value, b: Value) -> Value:
    """a + b."""
    match a, b:
        case int(), int():
            return a + b & MASK
        case (Pointer(place, offset), int(step)) | (int(step), Pointer(place, offset)):
            return Pointer(place, offset + signed(step))
        case (Either(pointers), int(step)) | (int(step), Either(pointers)):
            return Either(frozenset(Pointer(p.place, p.offset + signed(step)) for p in pointers))
        case _:
            return None


def subtract(a: Value, b: Value) -> Value:
    """a - b; of two pointers into one object their distance."""
    match a, b:
        case Pointer(), Pointer():
            return a.offset - b.offset & MASK if a.place == b.place else None
        case _, int():
            return add(a, -b & MASK)
        case _:
            return None


def joined(a: Value, b: Value) -> Value:
    """What is known of a value that is one or the other."""
    if a == b:
        return a
    both = pointed(a), pointed(b)
    return Either(both[0] | both[1]) if all(both) else None


def pointed(value: Value) -> frozenset[Pointer]:
    """The pointers that a value can be; none where it can be anything else."""
    match value:
        case Pointer():
            return frozenset({value})
        case Either(pointers):
            return pointers
        case _:
            return frozenset()


def extended(value: Value, bits: int, *, sign: bool) -> Value:
    """The low bits of a word as a word."""
    if not isinstance(value, int):
        return None
    low = value & ((1 << bits) - 1)
    return low - (1 << bits) & MASK if sign and low >> (bits - 1) else low


def less(a: Value, b: Value, *, sign: bool) -> bool | None:
    """Whether a < b, as two's complement numbers or not; None where that is unknown."""
    match a, b:
        case int(), int():
            return signed(a) < signed(b) if sign else a < b
        case Pointer(), Pointer() if a.place == b.place:
            return a.offset < b.offset
        case _:
            return None


def equal(a: Value, b: Value) -> bool | None:
    """Whether a = b; None where that is unknown. No pointer is zero."""
    match a, b:
        case int(), int():
            return a == b
        case Pointer(), Pointer() if a.place == b.place:
            return a.offset == b.offset
        case (Pointer(), 0) | (0, Pointer()):
            return False
        case _:
            return None
