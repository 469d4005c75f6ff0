"""Exact instruction counts on an emulated core, by basic block.

Each block that the core enters counts with all its instructions, those that an IT block
predicates off included: they are fetched, and on the real core they cost. (A hook on every
instruction does not see them.) A block is disassembled once.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgerl.errors import ToolError
from edgerl.toolchain.build.disassembly import disassemble
from edgerl.toolchain.build.run import Floats, Mode
from edgerl.toolchain.emulators.cycles import cycles
from edgerl.toolchain.emulators.runner import EmulatedCore, Path
from edgerl.toolchain.report.model import Spread

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Count:
    """Instructions of every call [T], modelled cycles of every call [T] (None where the core
    has no published timing), and where they went: mean instructions per call by function, and
    by layer for code behind `NAME_layer_…` symbols."""

    instructions: Counts
    cycles: Counts | None
    by_function: Mapping[str, float]
    by_layer: Mapping[str, float]

    @property
    def spread(self) -> Spread:
        """Smallest, largest and mean instruction count of a call."""
        return spread(self.instructions)

    @property
    def cycles_model(self) -> int | None:
        """The largest modelled cycle count of a call."""
        return None if self.cycles is None else int(self.cycles.max())


def spread(instructions: Counts) -> Spread:
    """Smallest, largest and mean of counts [T]."""
    return Spread(int(instructions.min()), int(instructions.max()), float(instructions.mean()))


def count(core: EmulatedCore, observations: Floats, mode: Mode = "evaluate") -> Count:
    """Count each call of `NAME_evaluate` (or `NAME_step`) on observations [T, n], from reset.

    A call counts from the function's entry up to and with its return. Raises ToolError when
    capstone is missing or the program faults.
    """
    name = core.image.name
    blocks = _Blocks(core)
    instructions, modelled = [], []
    total: Counter[tuple[int, int]] = Counter()
    layers = _Layers(core, blocks)
    for path in core.paths(observations, mode):
        entered = Counter(path)
        facts = [(blocks.at(*block), times) for block, times in entered.items()]
        instructions.append(sum(len(f.addresses) * times for f, times in facts))
        modelled.append(sum(f.cycles * times for f, times in facts))
        total.update(entered)
        layers.add(path)
    if core.image.address(f"{name}_{mode}") not in {address for address, _ in total}:
        raise ToolError(f"{core.name}: counting missed {name}_{mode}")
    calls = len(instructions)
    by_function: Counter[str] = Counter()
    starts = [s.address for s in core.image.functions]
    for block, times in total.items():
        for address in blocks.at(*block).addresses:
            by_function[core.image.functions[bisect_right(starts, address) - 1].name] += times
    return Count(
        instructions=np.array(instructions, np.int64),
        cycles=np.array(modelled, np.int64) if core.target.core.cycles else None,
        by_function={name: n / calls for name, n in by_function.items()},
        by_layer={name: n / calls for name, n in layers.found.items()},
    )


class _Layers:
    """Who asked for the work: instructions by layer, along the path of each call.

    A layer's code starts at its `NAME_layer_…` symbol and ends at the next one, or where the
    shared bodies begin (`NAME_shared`, else the next function or the end). What runs elsewhere
    (shared bodies, called functions) counts for the layer that was in progress.
    """

    def __init__(self, core: EmulatedCore, blocks: "_Blocks") -> None:
        name = core.image.name
        marks = {
            s.address & ~1: s.name
            for s in core.image.symbols.values()
            if s.name.startswith(f"{name}_layer_")
        }
        self._starts = sorted(marks)
        self._names = [marks[s] for s in self._starts]
        ends = [s.address for s in core.image.functions]
        ends += [s.address & ~1 for s in core.image.symbols.values() if s.name == f"{name}_shared"]
        ends += [s.address + s.size for s in core.image.binary.sections if s.executable]
        self._end = min((e for e in ends if self._starts and e > self._starts[-1]), default=0)
        self._functions = sorted(s.address for s in core.image.functions)
        self._core = self._function(self._starts[0]) if self._starts else 0
        self._blocks = blocks
        self._path: Path = []
        self._along: Counter[str] = Counter()
        self.found: Counter[str] = Counter()

    def _function(self, address: int) -> int:
        """Start of the function around `address`."""
        return self._functions[bisect_right(self._functions, address) - 1]

    def add(self, path: Path) -> None:
        """Attribute the blocks of one call, in the order they ran. Most calls take the path of
        the one before, which is not walked again."""
        if path != self._path:
            self._path, self._along = list(path), self._walked(path)
        self.found.update(self._along)

    def _walked(self, path: Path) -> Counter[str]:
        """Instructions by layer along a path."""
        found: Counter[str] = Counter()
        if not self._end:
            return found
        current = ""
        callers: set[int] = set()
        for block in path:
            function = self._function(block[0])
            if function in callers:
                current = ""  # the core has returned
            elif not current and function != self._core:
                callers.add(function)
            for address in self._blocks.at(*block).addresses:
                if self._starts[0] <= address < self._end:
                    current = self._names[bisect_right(self._starts, address) - 1]
                if current:
                    found[current] += 1
        return found


@dataclass(frozen=True)
class _Block:
    addresses: tuple[int, ...]
    cycles: int


@dataclass
class _Blocks:
    """Disassembled blocks, each read from the image once."""

    core: EmulatedCore
    known: dict[tuple[int, int], _Block] = field(default_factory=dict)

    def at(self, address: int, size: int) -> _Block:
        key = address, size
        if key not in self.known:
            image = self.core.image
            found = disassemble(image.read(address, size), address, image.architecture)
            table = self.core.target.core.cycles
            cost = sum(cycles(table, i) for i in found) if table else 0
            self.known[key] = _Block(tuple(i.address for i in found), cost)
        return self.known[key]
