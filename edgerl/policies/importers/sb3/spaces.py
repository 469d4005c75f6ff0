"""Observation and action spaces of gymnasium, read from their pickles as plain data."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.importers.containers.pickles import read_pickle
from edgerl.policies.importers.containers.records import Record, record
from edgerl.policies.names import shown

MOST_ELEMENTS = 65536
MOST_CHOICES = 256
_SPACE = re.compile(r"gymnasium\.spaces\.[a-z_]+\.[A-Z][A-Za-z]*")
# A seeded space carries its random generator, of which nothing is needed.
_GENERATOR = re.compile(
    r"numpy\.random\._pickle\.__(generator|bit_generator|randomstate)_ctor"
    r"|numpy\.random\.bit_generator\.(__pyx_unpickle_SeedSequence|SeedSequence)"
    r"|numpy\.random\._(pcg64|philox|sfc64|mt19937)\.(PCG64|PCG64DXSM|Philox|SFC64|MT19937)"
)

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """Numbers within limits: `low` and `high` [n] flattened in C order, infinite where nothing
    limits; `image` is true for three axes of bytes from 0 to 255."""

    shape: tuple[int, ...]
    low: Doubles
    high: Doubles
    image: bool

    @property
    def size(self) -> int:
        """How many numbers a value of the space is given by."""
        return self.low.size

    @property
    def features(self) -> int:
        """How many numbers reach a network."""
        return self.size


@dataclass(frozen=True)
class Choices:
    """Integers: the k-th from 0 to `counts[k]` - 1. One for Discrete, several for MultiDiscrete;
    `shifted` is true where the space itself counts from another number than 0."""

    counts: tuple[int, ...]
    shifted: bool = False

    @property
    def size(self) -> int:
        """How many numbers a value of the space is given by."""
        return len(self.counts)

    @property
    def features(self) -> int:
        """How many numbers reach a network: one for each possible integer."""
        return sum(self.counts)


@dataclass(frozen=True)
class Switches:
    """`size` numbers that are 0 or 1: MultiBinary."""

    size: int

    @property
    def features(self) -> int:
        """How many numbers reach a network."""
        return self.size


@dataclass(frozen=True)
class Named:
    """Spaces by name, in the order that concatenates them: Dict."""

    spaces: tuple[tuple[str, "Flat"], ...]

    @property
    def size(self) -> int:
        """How many numbers a value of the space is given by."""
        return sum(space.size for _, space in self.spaces)

    @property
    def features(self) -> int:
        """How many numbers reach a network."""
        return sum(space.features for _, space in self.spaces)


Flat = Box | Choices | Switches
Space = Flat | Named


def space_records(name: str) -> type[Record] | None:
    """What stands for a class that the pickle of a space names; None for any other name."""
    if _SPACE.fullmatch(name):
        return record(name.rpartition(".")[2])
    return record("generator") if _GENERATOR.fullmatch(name) else None


def read_space(content: bytes, where: str) -> Space:
    """The space in a pickle. Raises UserError naming `where` when it holds none, or one that is
    not supported: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these are."""
    return space_of(read_pickle(content, where, space_records), where)


def space_of(value: Any, where: str) -> Space:
    """The space that a record stands for; see `read_space`."""
    try:
        space = _space(value, where)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"{where}: a space whose parts do not fit together") from error
    if isinstance(space, Choices) and space.size > MOST_CHOICES:
        raise UserError(f"{where}: {space.size} choices; {MOST_CHOICES} are possible")
    if not 0 < space.size <= space.features <= MOST_ELEMENTS:
        raise UserError(
            f"{where}: {space.features} values; 1 to {MOST_ELEMENTS} are possible, and "
            "convolutions over images are not supported"
        )
    return space


def _space(value: Any, where: str) -> Space:
    kind = value.kind if isinstance(value, Record) else type(value).__name__
    if not isinstance(value, Record) or kind not in (
        "Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict",
    ):  # fmt: skip
        raise UserError(
            f"{where}: space {shown(kind)} is not supported; Box, Discrete, MultiDiscrete, "
            "MultiBinary and a Dict of these are"
        )
    if kind != "Dict":
        return _flat(value)
    members: list[tuple[str, Flat]] = []
    held = value.get("spaces")
    if not isinstance(held, dict):
        raise TypeError("a Dict without spaces")
    if len(held) > MOST_CHOICES:
        raise UserError(f"{where}: {len(held)} keys; {MOST_CHOICES} are possible")
    for key, inner in held.items():
        if not isinstance(key, str):
            raise UserError(f"{where}: a Dict space with a key that is no text")
        space = space_of(inner, f"{where}: key {shown(key)}")
        if isinstance(space, Named):
            raise UserError(f"{where}: key {shown(key)}: a Dict inside a Dict is not supported")
        members.append((key, space))
    return Named(tuple(members))


def _flat(value: Record) -> Flat:
    match value.kind:
        case "Box":
            return _box(value)
        case "MultiBinary":
            return Switches(int(_integers(value.get("n"), 0)))
        case "MultiDiscrete":
            counts, start = _integers(value.get("nvec"), 1), value.get("start")
            shifted = start is not None and bool(_integers(start, 1).any())
        case _:
            counts, start = _integers(value.get("n"), 0), value.get("start")
            shifted = start is not None and bool(_integers(start, 0))
    if (counts < 1).any():
        raise ValueError("a choice between nothing")
    return Choices(tuple(int(n) for n in np.atleast_1d(counts)), shifted)


def _integers(value: Any, axes: int) -> npt.NDArray[np.int64]:
    """Integers of so many axes; nothing but arrays and numbers is looked into."""
    if not isinstance(value, np.ndarray | np.integer | int):
        raise TypeError("counts that are no integers")
    numbers = np.asarray(value)
    if numbers.ndim != axes or numbers.dtype.kind not in "iu":
        raise ValueError("counts of another shape")
    return numbers.astype(np.int64)


def _box(value: Record) -> Box:
    low, high = value.get("low"), value.get("high")
    if not (isinstance(low, np.ndarray) and isinstance(high, np.ndarray)):
        raise TypeError("a Box without limits")
    if low.shape != high.shape or low.dtype.kind not in "fiub":
        raise ValueError("limits of different shapes")
    image = low.ndim == 3 and low.dtype == np.uint8 and not low.any() and bool((high == 255).all())
    flat = [limit.astype(np.float64).reshape(-1) for limit in (low, high)]
    if not (flat[0] <= flat[1]).all():
        raise ValueError("limits out of order")
    return Box(tuple(low.shape), flat[0], flat[1], image)
