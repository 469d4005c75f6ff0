"""Machine: registers and memory of a call that is walked through."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from edgerl.errors import ToolError
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.certify.paths.values import (
    Pointer,
    Value,
    add,
    extended,
    joined,
    pointed,
)

STACK = "the stack"
HOME = Pointer("home")
_WORD = 4


class Unshown(Exception):
    """Where the walk cannot go on, in words."""


@dataclass
class Machine:
    """One call under way. `registers` by number, `flags` as an instruction set has them.

    Of memory only the stack is remembered, by aligned word; flash holds what the image says, and
    everything else is data.
    """

    image: Image
    registers: list[Value]
    flags: list[int | None] = field(default_factory=lambda: [None] * 4)
    pc: int = 0
    done: bool = False
    # Whether what is under way may not happen: then what it writes is one or the other.
    perhaps: bool = False
    _stack: dict[int, Value] = field(default_factory=dict)

    def load(self, address: Value, size: int, *, sign: bool = False) -> Value:
        """What the `size` bytes at an address are known to hold, extended to a word."""
        match address:
            case int():
                return extended(self._flash(address, size), 8 * size, sign=sign)
            case Pointer(place, offset) if place == STACK:
                word = self._stack.get(offset - offset % _WORD)
                if size == _WORD:
                    return word if offset % _WORD == 0 else None
                inside = 8 * (offset % _WORD)
                part = word >> inside if isinstance(word, int) else None
                return extended(part, 8 * size, sign=sign)
            case _:
                return None

    def store(self, address: Value, size: int, value: Value) -> None:
        """Write to memory. Unshown where the data decide where to."""
        if address is None:
            raise Unshown("stores where the data say")
        places = pointed(address)
        doubtful = self.perhaps or len(places) > 1
        for place in places:
            if place.place != STACK:
                continue
            first = place.offset - place.offset % _WORD
            new = value if size == _WORD and first == place.offset else None
            for word in range(first, place.offset + size, _WORD):
                self._stack[word] = joined(self._stack.get(word), new) if doubtful else new

    def jump(self, target: Value) -> None:
        """Go on at `target`, or end where it is the caller's. Unshown where it is unknown."""
        if self.perhaps:
            raise Unshown("the data decide whether it goes on there")
        if target == HOME:
            self.done = True
        elif isinstance(target, int):
            self.pc = target
        else:
            raise Unshown("the data decide where it goes on")

    def branch(self, condition: bool | None, target: int) -> None:
        """Go on at `target` or behind. Unshown where the condition is unknown."""
        if condition is None:
            raise Unshown("the data decide whether it goes on there")
        if condition:
            self.pc = target

    def maybe(self, action: Callable[["Machine"], None], condition: bool | None) -> None:
        """What an instruction does under a condition that is no branch's."""
        if condition:
            action(self)
        elif condition is None:
            registers, flags = list(self.registers), list(self.flags)
            self.perhaps = True
            action(self)
            self.perhaps = False
            pairs = zip(registers, self.registers, strict=True)
            self.registers = [joined(before, after) for before, after in pairs]
            both = zip(flags, self.flags, strict=True)
            self.flags = [before if before == after else None for before, after in both]

    def words(self, start: Value, count: int) -> Iterator[Value]:
        """Addresses of so many words from `start`."""
        return (add(start, _WORD * k) for k in range(count))

    def forget(self, registers: Sequence[int]) -> None:
        """What these registers hold is data from here on."""
        for number in registers:
            self.registers[number] = None

    def _flash(self, address: int, size: int) -> Value:
        """What the image has there, unless it may be written."""
        sections = self.image.binary.sections
        fixed = any(
            s.address <= address and address + size <= s.address + s.size
            for s in sections
            if s.loaded and not s.writable
        )
        if not fixed:
            return None
        try:
            return int.from_bytes(self.image.read(address, size), "little")
        except ToolError:
            return None
