"""What the MVE template needs besides the plan: the stack frame, tiles by the rows that count,
observations by element."""

from collections.abc import Callable, Sequence

from edgerl.toolchain.emit.assembly import chunks, guard_chunks, immediates
from edgerl.toolchain.emit.contract import Group
from edgerl.toolchain.emit.integer.packing import TILE
from edgerl.toolchain.emit.integer.plan import (
    CellStep,
    DenseStep,
    InputStep,
    IntegerPlan,
    RowsPlan,
    Source,
)

_WORD, _VECTOR = 4, 4
# Elements of a word where they are halves of it.
_HALVES = 2
# Words before scratch on the stack: act and result.
_SAVED = 2
# Bytes of code for rows' products that need no loop. The loop over tiles reaches 4 KiB back, and a
# cell has four accumulations in it.
_STRAIGHT = 700
# Elements converted at once: an FPU's registers without those that calls preserve.
_AT_ONCE = 16


def mve_layout(p: IntegerPlan, guard: Sequence[Group]) -> dict[str, object]:
    """The context of the MVE template, beyond that of the C."""
    scratch_at = _WORD * _SAVED
    next_at = scratch_at + _WORD * p.scratch_size
    used = next_at + _WORD * p.state_size
    frame = used + used % 8
    return {
        "frame": frame,
        "frame_parts": immediates(frame),
        "scratch_at": scratch_at,
        "next_at": next_at,
        "element_bits": 32 // p.packing.per_word,
        "mve_tiles": mve_tiles,
        "parts_of": parts_of(p),
        "blocks_of": blocks_of(p),
        "straight": lambda rows: _bytes(p, rows) <= _STRAIGHT,
        "exponents": exponents,
        "guard_chunks": guard_chunks(guard),
        "finite_chunks": chunks(p.observation_size, 16),
    }


def mve_tiles(step: DenseStep | CellStep) -> list[tuple[int, int]]:
    """Tiles as loops: how many in a row, and how many of their rows count."""
    looped = [(step.looped, TILE)] if step.looped else []
    return looped + [(1, height) for height, _ in step.singles]


def parts_of(p: IntegerPlan) -> Callable[[Source], int]:
    """Vectors of elements that one vector of weights is for: halves of words that are shifted
    up again and again, or one where each element has a weight of its own width."""
    return lambda source: 16 // source.stored if p.packing.per_word == _HALVES else 1


def blocks_of(p: IntegerPlan) -> Callable[[Source], int]:
    """Vectors of weights that a row has."""
    parts = parts_of(p)
    return lambda source: source.words // (_VECTOR * parts(source))


def _bytes(p: IntegerPlan, rows: RowsPlan) -> int:
    """Bytes of code for all products of rows, block after block."""
    parts, blocks = parts_of(p), blocks_of(p)
    # Of a block: its elements; for each row its weights, a product a part, and shifts between.
    return sum(_WORD * blocks(s) * (parts(s) + 2 * TILE * parts(s)) for s in rows.sources)


def exponents(step: InputStep) -> list[list[int]]:
    """The exponents of an input's elements, as many as are converted at once."""
    every = [run.exponent for run in step.runs for _ in range(run.count)]
    return [every[k : k + _AT_ONCE] for k in range(0, len(every), _AT_ONCE)]
