"""Worst stack by call graph.

A function's own frame is, in this order: what its package states (an absolute symbol
`NAME_stack_FUNCTION`, for assembly), what the compiler states (its stack-usage files), what
its code pushes. Calls are read from the disassembly of the linked image, so that what was
inlined counts where it is. Recursion and calls through pointers have no bound and are refused.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from edgerl.errors import ToolError
from edgerl.toolchain.build.disassembly import Instruction, disassemble
from edgerl.toolchain.build.image import Image, Symbol


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
    call through a pointer, and when a frame cannot be read.
    """
    return _deepest(image, image.symbol(root), (), {})


def frame_from_code(image: Image, function: Symbol) -> int:
    """Bytes that a function's own instructions push, every path summed.

    Raises ToolError when the stack pointer moves by an amount that the code does not show.
    """
    return sum(_pushed(function, i) for i in _body(image, function))


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
    if function.name in image.frames:
        return image.frames[function.name]
    return frame_from_code(image, function)


def _callees(image: Image, function: Symbol) -> list[Symbol]:
    starts = [f.address for f in image.functions]
    found: dict[str, Symbol] = {}
    for i in _body(image, function):
        through_pointer = i.mnemonic in ("bx", "blx") and i.target is None
        # From the stack it is a return.
        loads_pc = i.mnemonic == "ldr" and re.match(r"pc, \[(?!sp)", i.operands)
        if (through_pointer and i.operands != "lr") or loads_pc:
            raise ToolError(f"{function.name}: jumps through a pointer at {i.address:#010x}")
        if i.target is None:
            continue
        callee = image.functions[bisect_right(starts, i.target) - 1]
        # A branch that stays inside is a loop or a subroutine of the function's own, whose
        # pushes its frame holds already; only a call of its entry is recursion.
        if callee != function or (i.mnemonic == "bl" and i.target == function.address):
            found[callee.name] = callee
    return list(found.values())


def _body(image: Image, function: Symbol) -> Iterator[Instruction]:
    """The function's instructions, literal pools left out."""
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
            yield from disassemble(image.read(start, stop - start), start)


def _pushed(function: Symbol, i: Instruction) -> int:
    """Bytes by which one instruction lowers the stack pointer."""
    if i.mnemonic in ("push", "vpush"):
        return _listed(i.operands)
    if i.mnemonic in ("stmdb", "vstmdb") and i.operands.startswith("sp!"):
        return _listed(i.operands)
    if moved := re.search(r"\[sp, #-(\w+)\]!", i.operands):
        return int(moved[1], 0)
    if i.mnemonic in ("sub", "subw") and (i.operands.startswith("sp,")):
        amount = re.search(r"#(\w+)$", i.operands)
        if amount is None:
            raise ToolError(f"{function.name}: its stack frame has no bound ({i.operands})")
        return int(amount[1], 0)
    return 0


def _listed(operands: str) -> int:
    names = operands[operands.find("{") + 1 : operands.find("}")].split(",")
    return sum(8 if name.strip().startswith("d") else 4 for name in names)
