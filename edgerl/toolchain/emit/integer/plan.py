"""Plan of an integer program: where every vector lies, in which order every word is read, and
which kernel runs when.

Everything in memory is a word of four bytes: a float of the observation or action, an int32 of a
state or a wide vector, or two neighbouring elements of an int16 vector, the first in the low
half. All renderers print the same plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.emit.integer.packing import PAIRS, Packing, Stream
from edgerl.toolchain.emit.memory import Slot
from edgerl.toolchain.emit.plan import Layer
from edgerl.toolchain.emit.sparse import Tile, Writing
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.program import (
    Form,
    Stored,
    Words,
)
from edgerl.toolchain.quantisation.table import Table

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """A vector that rows multiply: `words` of it are read. `shift` follows."""

    x: Slot
    words: int
    stored: Stored
    shift: int


@dataclass(frozen=True)
class RowsPlan:
    """An accumulation: bias, sources in order, a lift, multipliers if `scaled`."""

    sources: tuple[Source, ...]
    scaled: bool
    lift: int = 0


@dataclass(frozen=True)
class Run:
    """Neighbouring elements of the observation with one exponent."""

    first: int
    count: int
    exponent: int


class _Tiled:
    tiles: tuple[int, ...]

    @property
    def looped(self) -> int:
        """Whole tiles that a loop runs through; a single one needs no loop."""
        whole = self.tiles.count(max(self.tiles))
        return whole if whole > 1 else 0

    @property
    def singles(self) -> list[tuple[int, int]]:
        """The other tiles: height and first row."""
        starts = accumulate(self.tiles, initial=0)
        return list(zip(self.tiles, starts, strict=False))[self.looped :]


@dataclass(frozen=True)
class InputStep:
    """The observation as an int16 vector of so many bits."""

    about: str
    x: Slot
    y: Slot
    size: int
    runs: tuple[Run, ...]
    bits: int = 16
    guard: int = 0
    kind: str = "input"


@dataclass(frozen=True)
class PackStep:
    """The upper bits of a state as an int16 vector."""

    about: str
    x: Slot
    y: Slot
    size: int
    shift: int
    kind: str = "pack"


@dataclass(frozen=True)
class DenseStep(_Tiled):
    """Rows, tile by tile. `exponent` where the result leaves as floats; `table` is the name of
    what the form looks up; int16 results have `bits`."""

    about: str
    rows: RowsPlan
    y: Slot
    size: int
    tiles: tuple[int, ...]
    form: Form
    exponent: int | None
    table: str = ""
    bits: int = 16
    kind: str = "dense"


@dataclass(frozen=True)
class SparseStep:
    """Rows as straight code. `first` is where their constants begin, `words` how many there are;
    the rest as in DenseStep."""

    about: str
    rows: RowsPlan
    y: Slot
    size: int
    tiles: tuple[Tile, ...]
    form: Form
    exponent: int | None
    table: str
    bits: int
    writing: Writing
    first: int
    words: int
    kind: str = "sparse"

    def batches(self, least: int) -> list[tuple[Tile, ...]]:
        """The tiles in groups of at least so many rows, the last one aside."""
        each = -(-least // self.tiles[0].height)
        return [self.tiles[k : k + each] for k in range(0, len(self.tiles), each)]


@dataclass(frozen=True)
class CellStep(_Tiled):
    """A GRU or LSTM; `tiles` cut its hidden units. `gates` are in the operation's order.

    `packed` and `c_packed` are the int16 forms of the new hidden state and the new cell, None
    where nothing reads them, after shifts of `pack_shift` and `c_pack_shift`. `factor`, `shift`
    and `lift` as in FixedLstm.
    """

    about: str
    gates: dict[str, RowsPlan]
    h: Slot
    h_next: Slot
    packed: Slot | None
    size: int
    tiles: tuple[int, ...]
    kind: str
    c: Slot | None = None
    c_next: Slot | None = None
    c_packed: Slot | None = None
    shift: int = 0
    factor: int = 0
    lift: int = 0
    pack_shift: int = 0
    c_pack_shift: int = 0
    table: str = "tanh"


@dataclass(frozen=True)
class ClipStep:
    """An int16 or, where `wide`, an int32 vector between bounds."""

    about: str
    x: Slot
    y: Slot
    size: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    wide: bool
    kind: str = "clip"


@dataclass(frozen=True)
class MultiplyStep:
    """Products of the elements of two int16 vectors, shifted to nearest, as `bits`."""

    about: str
    a: Slot
    b: Slot
    y: Slot
    size: int
    shift: int
    bits: int
    kind: str = "multiply"


@dataclass(frozen=True)
class ArgMaxStep:
    """The index of the first largest element of an int32 vector, as an int16 vector of one."""

    about: str
    x: Slot
    y: Slot
    size: int
    kind: str = "argmax"


@dataclass(frozen=True)
class GatherStep:
    """Elements of int16 vectors as a new one: runs of (destination, source, first, length)."""

    about: str
    sources: tuple[Slot, ...]
    y: Slot
    size: int
    runs: tuple[tuple[int, int, int, int], ...]
    kind: str = "gather"


@dataclass(frozen=True)
class OutputStep:
    """A vector, int32 if `wide`, as the floats of the action."""

    about: str
    x: Slot
    y: Slot
    size: int
    exponent: int
    wide: bool = True
    kind: str = "output"


Step = (
    InputStep
    | PackStep
    | DenseStep
    | SparseStep
    | CellStep
    | GatherStep
    | ClipStep
    | MultiplyStep
    | ArgMaxStep
    | OutputStep
)


@dataclass(frozen=True)
class Padding:
    """Words of a vector that no element fills and that must be zero, before a step."""

    step: int
    slot: Slot


@dataclass(frozen=True)
class StateMemory:
    """Where a state lies: int32 elements, or where it is `kept`, an int16 or int8 vector."""

    slot: Slot
    size: int
    kept: bool


@dataclass(frozen=True)
class IntegerPlan:
    """Everything the renderers need. Sizes in words, of observation and action in floats;
    `weights` is the stream, `weights_at` where each step's begins, `padding` what is cleared
    before which step, `sparse` what sparse layers read."""

    name: str
    observation_size: int
    action_size: int
    state_size: int
    scratch_size: int
    steps: tuple[Step, ...]
    weights: Stream
    weights_at: tuple[int, ...]
    padding: tuple[Padding, ...]
    tables: Mapping[str, Table | CubicTable]
    memories: tuple[StateMemory, ...]
    packing: Packing = PAIRS
    sparse: Stream = field(default_factory=lambda: np.zeros(0, np.uint32))

    def states(self, memory: Bytes) -> list[Words]:
        """The states [T, k], as `quantisation.run` has them, out of the C state [T, bytes]."""
        words = np.ascontiguousarray(memory[:, : 4 * self.state_size]).view(np.int32)
        element = {1: np.int32, 2: np.int16, 4: np.int8}[self.packing.per_word]
        states = []
        for m in self.memories:
            part = words[:, m.slot.offset : m.slot.offset + m.slot.size].copy()
            states.append(part.view(element)[:, : m.size].astype(np.int32) if m.kept else part)
        return states

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The steps as reports show them."""
        ends = (*self.weights_at[1:], self.weights.size)
        return tuple(
            Layer(
                name=f"step {k}",
                symbol=f"{self.name}_layer_{k}",
                operation=step.writing if isinstance(step, SparseStep) else step.kind,
                shape=step.about,
                weight_bytes=4 * (step.words if isinstance(step, SparseStep) else end - start),
            )
            for k, (step, start, end) in enumerate(
                zip(self.steps, self.weights_at, ends, strict=True)
            )
        )


@dataclass(frozen=True)
class PairRun:
    """Neighbouring pairs of the observation whose halves have these exponents; `high` None where
    the last pair has but one element."""

    first: int
    count: int
    low: int
    high: int | None


def pair_runs(step: InputStep) -> list[PairRun]:
    """The observation of an input step, pair by pair."""
    exponents = [run.exponent for run in step.runs for _ in range(run.count)]
    found: list[PairRun] = []
    for k in range(0, len(exponents), 2):
        low, high = exponents[k], exponents[k + 1] if k + 1 < len(exponents) else None
        last = found[-1] if found else None
        if last and (last.low, last.high) == (low, high):
            found[-1] = PairRun(last.first, last.count + 1, low, high)
        else:
            found.append(PairRun(k // 2, 1, low, high))
    return found
