"""Memory: where every vector of a step lives."""

from dataclasses import dataclass
from typing import Literal

from edgerl.toolchain import ir

Base = Literal["observation", "action", "state", "next", "scratch"]


@dataclass(frozen=True)
class Slot:
    """A vector in memory: base pointer, offset and length in floats."""

    base: Base
    offset: int
    size: int


class Memory:
    """Places every tensor: inputs, states and outputs where the caller has them, the rest in
    scratch, first fit, released after the last read."""

    def __init__(self, program: ir.Program, operations: list[ir.Operation]):
        self.program = program
        self.slots: dict[str, Slot] = {}
        self.copies: list[tuple[str, Slot]] = []
        self.scratch = 0
        self._free: list[tuple[int, int]] = []
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
            self.slots[name] = self._reserve(self.program.size(name))
        return self.slots[name]

    def _reserve(self, size: int) -> Slot:
        for k, (start, length) in enumerate(self._free):
            if length >= size:
                self._free[k : k + 1] = [(start + size, length - size)] * (length > size)
                return Slot("scratch", start, size)
        slot = Slot("scratch", self.scratch, size)
        self.scratch += size
        return slot

    def release(self, position: int, op: ir.Operation) -> None:
        """Give back the scratch of tensors that `op`, at `position`, was the last to read."""
        for name in set(ir.reads(op)):
            slot = self.slots[name]
            if slot.base == "scratch" and self._last_read[name] == position:
                self._free.append((slot.offset, slot.size))
                self._free = _merged(self._free)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, size in sorted(spans):
        if result and sum(result[-1]) == start:
            result[-1] = (result[-1][0], result[-1][1] + size)
        else:
            result.append((start, size))
    return result
