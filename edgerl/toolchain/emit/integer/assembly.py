"""What the assembly templates of integer programs need besides the plan: where things lie on the
stack, and the guard's loads."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from edgerl.toolchain.emit.assembly import chunks, immediates
from edgerl.toolchain.emit.contract import Group
from edgerl.toolchain.emit.integer.packing import TILE
from edgerl.toolchain.emit.integer.plan import (
    CellStep,
    DenseStep,
    InputStep,
    IntegerPlan,
    RowsPlan,
    Source,
    SparseStep,
)

_WORD = 4
# Values that the guard has in registers at once.
_GUARDED = 9
# From so many words on, a row is taken in a loop, by bits of the narrowest weights.
_LOOPED = {8: 16, 16: 16, 32: 32}
# Words that the core pushes when it is entered.
_PUSHED = 9
# What it keeps below scratch: a tile put aside and the tile pointers of a loop, in the order in
# which a cell loads them; then the arguments and the tables.
_POINTERS = ("old", "new", "y", "end")
_CELL_POINTERS = ("hidden", "cell")
_ARGUMENTS = ("state", "observation", "action", "result")


def dsp_layout(p: IntegerPlan, guard: Sequence[Group]) -> dict[str, object]:
    """The context of the DSP template, beyond that of the C."""
    tiled = [step for step in p.steps if isinstance(step, DenseStep | CellStep)]
    read = [
        (T, s) for step in tiled for T in step.tiles for rows in _rows(step) for s in rows.sources
    ]
    width = min((s.stored for _, s in read), default=16)
    compact = width == 4
    cells = [step for step in tiled if isinstance(step, CellStep)]
    lstm = any(step.kind == "lstm" for step in cells)
    kept: dict[str, int] = {}
    size = _WORD * TILE if cells else 0
    names = [*_POINTERS] if cells else ["y", "end"]
    names += _CELL_POINTERS if lstm else ()
    for name in (*names, *_ARGUMENTS, *(f"table_{name}" for name in [*p.tables][::-1])):
        kept[name] = size
        size += _WORD
    # A new state may overwrite the old at once where nothing else reads or writes either.
    kept_states = any(memory.kept for memory in p.memories)
    apart = [s for step in p.steps if isinstance(step, SparseStep) for s in step.rows.sources]
    every = [*apart, *(s for _, s in read)]
    direct = not kept_states and all(s.x.base == "scratch" for s in every)
    scratch_at = size
    next_at = scratch_at + _WORD * p.scratch_size
    used = next_at + (0 if direct else _WORD * p.state_size)
    # With what is pushed, a multiple of eight bytes.
    frame = used + (used + _WORD * _PUSHED) % 8
    return {
        "kept": kept,
        "frame": frame,
        "frame_parts": immediates(frame),
        "immediates": immediates,
        "scratch_at": scratch_at,
        "next_at": next_at,
        "direct": direct,
        "state_chunks": chunks(p.state_size, 8),
        "middle": {name: table.words.nbytes // 2 for name, table in p.tables.items()},
        "loop_bytes": partial(loop_bytes, p),
        "whole": p.packing.per_word == 1,
        "compact": compact,
        "at_once": 2 if compact else 4,
        "blocks": partial(_blocks, width),
        "mac_bodies": sorted({(T, s.stored) for T, s in read}, reverse=True),
        "curve_bodies": sorted(
            {(T, step.table) for step in tiled for T in step.tiles if step.table}, reverse=True
        ),
        "converted": converted,
        "narrowed": narrowed,
        "guard_parts": [(g, count) for g in guard for count in chunks(g.count, _GUARDED)],
    }


def converted(step: InputStep) -> list[list[int]]:
    """The exponents of an input's elements, in parts that an FPU's free registers hold; one is
    left over where some element has to be scaled."""
    exponents = [run.exponent for run in step.runs for _ in range(run.count)]
    most = 16 if all(1 <= exponent <= 32 for exponent in exponents) else 14
    return [exponents[k : k + most] for k in range(0, len(exponents), most)]


def narrowed(step: InputStep, exponent: int) -> bool:
    """Whether an element takes a conversion to int32 first."""
    return step.bits < 16 or not 1 <= exponent <= 16 or step.bits == 32


def loop_bytes(p: IntegerPlan, step: DenseStep | CellStep) -> int:
    """The bytes of the stream that the looped tiles of a step read."""
    words = [
        1 + rows.scaled + sum(s.words // p.packing.group(s.stored) for s in rows.sources)
        for rows in _rows(step)
    ]
    return _WORD * step.looped * max(step.tiles) * sum(words)


@dataclass(frozen=True)
class Blocks:
    """How a row's words are taken: blocks by their words, and then what a loop takes each time,
    and how often."""

    single: tuple[int, ...]
    turn: tuple[int, ...] = ()
    turns: int = 0


def _blocks(width: int, source: Source, once: bool) -> Blocks:
    """How a program whose narrowest weights have `width` bits takes a row, which is one of a tile
    that runs but `once`, or not. The narrower, the more does size count: with four bits what
    tiles share they call, with eight what runs once is a loop."""
    if width == 4:
        size = max(2, 16 // source.stored)
        turns, rest = divmod(source.words, size)
        return Blocks(tuple(chunks(rest, 1)), (size,), turns)
    turn = (4,) if width == 8 and once else (4, 4)
    if source.words < (2 * sum(turn) if once else _LOOPED[width]):
        return Blocks(tuple(chunks(source.words, 4)))
    turns, rest = divmod(source.words, sum(turn))
    return Blocks(tuple(chunks(rest, 4)), turn, turns)


def _rows(step: DenseStep | CellStep) -> tuple[RowsPlan, ...]:
    return (step.rows,) if isinstance(step, DenseStep) else tuple(step.gates.values())
