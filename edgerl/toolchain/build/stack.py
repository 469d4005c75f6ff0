"""Worst stack by call graph.

A function's own frame is, in this order: what its package states (an absolute symbol
`NAME_stack_FUNCTION`, for assembly), what the compiler states (its stack-usage files), what
its code pushes. Calls are read from the disassembly of the linked image, so that what was
inlined counts where it is. Recursion and calls through pointers have no bound and are refused.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from edgerl.errors import ToolError
from edgerl.toolchain.build.architectures import architecture_of
from edgerl.toolchain.build.disassembly import Instruction, disassemble
from edgerl.toolchain.build.image import LIBRARY, Image, Symbol


class NoBound(ToolError):
    """The compiler's own run-time library jumps where its code does not show."""


@dataclass(frozen=True)
class StackUse:
    """Bytes of stack that a call needs at most, and the calls that need them, outermost first."""

    bytes: int
    path: tuple[str, ...]


def read_frames(folder: Path) -> dict[str, int]:
    """Frames in bytes by C function, from all stack-usage files in and under `folder`.

    Raises ToolError when a frame has no static bound.
    """
    frames: dict[str, int] = {}
    for path in sorted(folder.rglob("*.su")):
        for line in path.read_text(encoding="utf-8").splitlines():
            place, size, kind = line.split("\t")
            function = place.split(":")[-1]
            if kind != "static":
                raise ToolError(f"{function}: its stack frame has no bound ({kind})")
            frames[function] = max(int(size), frames.get(function, 0))
    return frames


def worst_stack(image: Image, root: str) -> StackUse:
    """The most stack that a call of the function `root` takes.

    A tail call counts as a call, which can only overstate. Raises ToolError on recursion, on a
    call through a pointer, and when a frame cannot be read; NoBound where it is the compiler's
    library that hides where it goes, as by a table of jumps.
    """
    return _deepest(image, image.symbol(root), (), {})


def frame_from_code(image: Image, function: Symbol) -> int:
    """Bytes that a function's own instructions push, every path summed, and its return address
    where a call puts it on the stack.

    Raises ToolError when the stack pointer moves by an amount that the code does not show.
    """
    architecture = architecture_of(image.architecture)
    total = architecture.return_bytes
    for i in _body(image, function):
        pushed = architecture.pushed(i)
        if pushed is None:
            raise ToolError(f"{function.name}: its stack frame has no bound ({i.operands})")
        total += pushed
    return total


def _deepest(
    image: Image, function: Symbol, above: tuple[str, ...], known: dict[str, StackUse]
) -> StackUse:
    if function.name in above:
        raise ToolError(f"recursion: {' calls '.join((*above, function.name))}")
    if function.name not in known:
        here = (*above, function.name)
        callees = [_deepest(image, f, here, known) for f in _callees(image, function)]
        below = max(callees, key=lambda use: use.bytes, default=StackUse(0, ()))
        own = _frame(image, function)
        known[function.name] = StackUse(own + below.bytes, (function.name, *below.path))
    return known[function.name]


def _frame(image: Image, function: Symbol) -> int:
    stated = image.symbols.get(f"{image.name}_stack_{function.name}")
    if stated is not None and stated.section is None:
        return stated.address
    compiled = image.frames.get(function.name)
    if compiled is not None and not architecture_of(image.architecture).return_bytes:
        return compiled
    # gcc counts the return address that a call pushes, clang does not; the code shows it.
    return max(compiled or 0, frame_from_code(image, function))


def _callees(image: Image, function: Symbol) -> list[Symbol]:
    starts = [f.address for f in image.functions]
    libraries = {s.index for s in image.binary.sections if s.name == LIBRARY}
    found: dict[str, Symbol] = {}
    for i in _body(image, function):
        if i.indirect:
            kind = NoBound if function.section in libraries else ToolError
            raise kind(f"{function.name}: jumps through a pointer at {i.address:#010x}")
        if i.target is None:
            continue
        callee = image.functions[bisect_right(starts, i.target) - 1]
        # A branch that stays inside is a loop or a subroutine of the function's own, whose
        # pushes its frame holds already; only a call of its entry is recursion.
        if callee != function or (i.calls and i.target == function.address):
            found[callee.name] = callee
    return list(found.values())


def _body(image: Image, function: Symbol) -> Iterator[Instruction]:
    """The function's instructions, literal pools left out."""
    for start, stop in code_spans(image, function):
        yield from disassemble(image.read(start, stop - start), start, image.architecture)


def code_spans(image: Image, function: Symbol) -> Iterator[tuple[int, int]]:
    """From where to where (address behind) the function has code, literal pools left out."""
    section = next(s for s in image.binary.sections if s.index == function.section)
    end = function.address + function.size
    if function.size == 0:
        later = [f.address for f in image.functions if f.address > function.address]
        end = min([section.address + section.size, *later])
    marks = [(at, data) for index, at, data in image.binary.data_marks if index == section.index]
    inside = [mark for mark in marks if function.address < mark[0] < end]
    # Marks count from the last one at or before the function, which is code.
    edges = [(function.address, False), *inside, (end, True)]
    for (start, data), (stop, _) in pairwise(edges):
        if not data and stop > start:
            yield start, stop
