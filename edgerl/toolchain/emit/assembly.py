"""What the Cortex-M template needs besides the plan: the stack frame, the kernel bodies in use,
the guard's loads."""

from collections.abc import Sequence

from edgerl.toolchain.emit import functions
from edgerl.toolchain.emit.contract import Group
from edgerl.toolchain.emit.memory import Slot
from edgerl.toolchain.emit.packing import TILE
from edgerl.toolchain.emit.plan import DenseStep, MatrixStep, Plan, VectorStep
from edgerl.toolchain.emit.tables import table

# A row of more blocks than this is accumulated in a loop.
_LOOP_FROM = 8
# A cell keeps at most two tiles aside.
_SPILL_FLOATS = 2 * TILE
# Eight bits wherever they stand are an immediate, so these parts of a number are.
_IMMEDIATES = (0xFF00000, 0xFF000, 0xFF0, 0xF)
# Words before scratch on the stack: act and result.
_SAVED = 2


def layout(p: Plan, guard: list[Group]) -> dict[str, object]:
    """The context of the assembly template, beyond that of the C."""
    matrix = [s for s in p.steps if not isinstance(s, VectorStep)]
    spills = _SPILL_FLOATS if any(s.kind != "dense" for s in matrix) else 0
    scratch_at = 4 * _SAVED
    next_at = scratch_at + 4 * p.scratch_size
    spill_at = next_at + 4 * p.state_size
    frame = -(-(spill_at + 4 * spills) // 8) * 8
    return {
        "frame": frame,
        "frame_parts": immediates(frame),
        "scratch_at": scratch_at,
        "next_at": next_at,
        "spill_at": spill_at,
        "state_chunks": chunks(p.state_size, 32),
        "mac_bodies": _mac_bodies(matrix),
        "tanh_tiles": sorted(
            {t for s in matrix if functions.reads_tanh(s) for t in s.tiles}, reverse=True
        ),
        "table_middle": -table("tanh").first * 16 if "tanh" in p.curves else None,
        "loop_from": _LOOP_FROM,
        "guard_chunks": guard_chunks(guard),
        "finite_chunks": chunks(p.observation_size, 16),
    }


def _mac_bodies(matrix: list[MatrixStep]) -> list[tuple[int, list[int]]]:
    """For each tile height the numbers of columns that some row accumulates at once."""
    lengths: dict[int, set[int]] = {}
    for s in matrix:
        for T in s.tiles:
            whole = 2 * TILE if T == TILE else TILE
            for source in _sources(s):
                needed = {source.size % whole, whole * (source.size >= whole)} - {0}
                lengths.setdefault(T, set()).update(needed)
    return [(T, sorted(n)) for T, n in sorted(lengths.items(), reverse=True)]


def _sources(step: MatrixStep) -> tuple[Slot, ...]:
    return step.sources if isinstance(step, DenseStep) else (step.x, step.h)


def immediates(number: int) -> list[int]:
    """Parts of a number below 2^28 that each are an immediate of an instruction."""
    return [number & mask for mask in _IMMEDIATES if number & mask]


def guard_chunks(groups: Sequence[Group]) -> list[list[tuple[Group, bool]]]:
    """Elements in loads of eight: each with its group, and whether it is the group's first."""
    elements = [(g, k == 0) for g in groups for k in range(g.count)]
    return [elements[k : k + 8] for k in range(0, len(elements), 8)]


def chunks(total: int, most: int) -> list[int]:
    """`total` in parts of `most` and a rest."""
    return [most] * (total // most) + [total % most] * (total % most > 0)
