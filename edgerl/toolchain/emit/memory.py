"""Memory: where every vector of a step lives, and how C names it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgerl.toolchain import ir

Base = Literal["observation", "action", "state", "next", "scratch"]


@dataclass(frozen=True)
class Slot:
    """A vector in memory: base pointer, offset and length in words of four bytes."""

    base: Base
    offset: int
    size: int


class Scratch:
    """Room for vectors that live within one step: first fit, given back after the last read.

    `size` is the room needed so far.
    """

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []

    def reserve(self, size: int) -> Slot:
        """A slot of that length."""
        for k, (start, length) in enumerate(self._free):
            if length >= size:
                self._free[k : k + 1] = [(start + size, length - size)] * (length > size)
                return Slot("scratch", start, size)
        slot = Slot("scratch", self.size, size)
        self.size += size
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back; one that is not scratch stays."""
        if slot.base == "scratch":
            self._free = _merged([*self._free, (slot.offset, slot.size)])


class Memory:
    """Places every tensor: inputs, states and outputs where the caller has them, the rest in
    scratch, released after the last read."""

    def __init__(self, program: ir.Program, operations: list[ir.Operation]):
        self.program = program
        self.slots: dict[str, Slot] = {}
        self.copies: list[tuple[str, Slot]] = []
        self._scratch = Scratch()
        self._last_read = {n: k for k, op in enumerate(operations) for n in ir.reads(op)}
        self._place(program.observation, "observation", 0)
        offset = 0
        for before, after in program.states:
            self._place(before, "state", offset)
            self._place(after, "next", offset)
            offset += program.size(before)
        self.state_size = offset
        self._place(program.action, "action", 0)

    def _place(self, name: str, base: Base, offset: int) -> None:
        slot = Slot(base, offset, self.program.size(name))
        if name in self.slots:
            self.copies.append((name, slot))
        else:
            self.slots[name] = slot

    def result(self, name: str) -> Slot:
        """The slot an operation writes `name` to, reserved now if it is scratch."""
        if name not in self.slots:
            self.slots[name] = self._scratch.reserve(self.program.size(name))
        return self.slots[name]

    @property
    def scratch(self) -> int:
        """The room needed for scratch, in floats."""
        return self._scratch.size

    def release(self, position: int, op: ir.Operation) -> None:
        """Give back the scratch of tensors that `op`, at `position`, was the last to read."""
        for name in set(ir.reads(op)):
            if self._last_read[name] == position:
                self._scratch.release(self.slots[name])


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, size in sorted(spans):
        if result and sum(result[-1]) == start:
            result[-1] = (result[-1][0], result[-1][1] + size)
        else:
            result.append((start, size))
    return result


Naming = Callable[..., str]


def naming(scratch_size: int) -> Naming:
    """How C names a slot, or what lies `extra` words into it, a number or an expression. `work`
    is scratch with the next state behind it."""
    pointers: dict[Base, tuple[str, int]] = {
        "observation": ("obs", 0),
        "action": ("act", 0),
        "state": ("state", 0),
        "scratch": ("work", 0),
        "next": ("work", scratch_size),
    }

    def at(slot: Slot, extra: int | str = 0) -> str:
        base, start = pointers[slot.base]
        first = start + slot.offset
        if isinstance(extra, int):
            first, extra = first + extra, ""
        return " + ".join(str(part) for part in (base, first, extra) if part)

    return at
