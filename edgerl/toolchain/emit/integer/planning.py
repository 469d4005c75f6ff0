"""Planning: an integer program laid out for emission, vector by vector and word by word."""

from collections.abc import Mapping

import numpy as np

from edgerl.toolchain.emit.integer.blocks import OCTETS
from edgerl.toolchain.emit.integer.packing import PAIRS, WORDS, Packing, Stream
from edgerl.toolchain.emit.integer.plan import (
    ArgMaxStep,
    CellStep,
    ClipStep,
    DenseStep,
    GatherStep,
    InputStep,
    IntegerPlan,
    MultiplyStep,
    OutputStep,
    PackStep,
    Padding,
    RowsPlan,
    Run,
    Source,
    SparseStep,
    StateMemory,
    Step,
)
from edgerl.toolchain.emit.integer.sparse import straight
from edgerl.toolchain.emit.memory import Scratch, Slot
from edgerl.toolchain.emit.plan import runs_of
from edgerl.toolchain.emit.sparse import Writings
from edgerl.toolchain.quantisation.arithmetic import state_shift
from edgerl.toolchain.quantisation.program import (
    FixedArgMax,
    FixedClip,
    FixedDense,
    FixedGather,
    FixedGru,
    FixedInput,
    FixedLstm,
    FixedMultiply,
    FixedOperation,
    FixedOutput,
    FixedProgram,
    Rows,
    gates,
)


def integer_plan(
    program: FixedProgram, packing: Packing | None = None, writings: Writings | None = None
) -> IntegerPlan:
    """Lay `program` out for emission, by default as portable C wants it; `writings` names the
    layers that are sparse."""
    return _Planning(program, packing or _PACKINGS[program.width], writings or {}).planned()


_PACKINGS: Mapping[int, Packing] = {8: OCTETS, 16: PAIRS, 32: WORDS}


class _Planning:
    """A plan under way."""

    def __init__(self, program: FixedProgram, packing: Packing, writings: Writings) -> None:
        self.program = program
        self.packing = packing
        self.writings = writings
        self.sparse: list[Stream] = []
        self.scratch = Scratch()
        self.slots: dict[str, Slot] = {}
        self.steps: list[Step] = []
        self.weights: list[Stream] = []
        self.weights_at: list[int] = []
        self.padding: list[Padding] = []
        self.groups = self._groups()
        self.last_read = {name: k for k, op in enumerate(program.operations) for name in _reads(op)}
        self.observation_size = _observation_size(program)
        self.state_at: dict[str, Slot] = {}
        self.state_size = self._place_states()
        self.slots[program.observation] = Slot("observation", 0, self.observation_size)

    def _groups(self) -> dict[str, int]:
        """Of each int16 vector, to a multiple of how many words it must be filled up."""
        groups: dict[str, int] = {}
        for op in self.program.operations:
            for rows in _rows(op):
                for product in rows.products:
                    wanted = self.packing.group(product.stored)
                    groups[product.x] = max(groups.get(product.x, 1), wanted)
        return groups

    def _place_states(self) -> int:
        offset = 0
        for before, after in self.program.states:
            size = self.program.halfwords[before].size
            if before in self.program.recurrent:
                self.state_at[before] = Slot("state", offset, size)
                self.state_at[after] = Slot("next", offset, size)
            else:
                # A kept state is read where it lies, so it is filled up as its readers need.
                size = self.filled(before, after)
                self.slots[before] = Slot("state", offset, size)
                self.slots[after] = Slot("next", offset, size)
            offset += size
        return offset

    def filled(self, *names: str) -> int:
        """The words of an int16 vector, as many as its readers, by any of its names, need."""
        pairs = self.packing.words(self.program.halfwords[names[0]].size)
        most = max(self.groups.get(name, self.packing.least) for name in names)
        return -(-pairs // most) * most

    def planned(self) -> IntegerPlan:
        program = self.program
        inputs = {op.h: op.x for op in program.operations if isinstance(op, FixedGru | FixedLstm)}
        for before, _ in program.states:
            if before in self.last_read and before in program.recurrent:
                state = self.state_at[before]
                if program.width == 32:
                    self.slots[before] = state
                    continue
                if before in inputs:
                    self.reserve_beside(before, inputs[before])
                shift = state_shift(program.halfwords[before].bits)
                y = self.halfwords(before)
                about = f"state {state.size} as int{program.halfwords[before].bits}"
                self.add(PackStep(about, state, y, state.size, shift))
        for position, op in enumerate(program.operations):
            self.convert(position, op)
            for name in set(_reads(op)):
                if self.last_read[name] == position and name in self.slots:
                    self.scratch.release(self.slots[name])
        read = {s.table for s in self.steps if isinstance(s, DenseStep | SparseStep | CellStep)}
        tables = {"tanh": program.table, **program.curves}
        return IntegerPlan(
            name=program.name,
            observation_size=self.observation_size,
            action_size=self.slots[program.action].size,
            state_size=self.state_size,
            scratch_size=self.scratch.size,
            steps=tuple(self.steps),
            weights=_joined(self.weights),
            weights_at=tuple(self.weights_at),
            padding=tuple(self.padding),
            tables={name: table for name, table in tables.items() if name in read},
            memories=tuple(self.memory(before) for before, _ in program.states),
            packing=self.packing,
            sparse=_joined(self.sparse),
        )

    def add(self, step: Step, weights: Stream | None = None) -> None:
        """Append a step and the words it reads."""
        self.weights_at.append(sum(part.size for part in self.weights))
        self.steps.append(step)
        if weights is not None:
            self.weights.append(weights)

    def reserve_beside(self, first: str, second: str) -> None:
        """Room for two int16 vectors, one right behind the other, for kernels that read both."""
        if first in self.slots or second in self.slots:
            return
        sizes = self.filled(first), self.filled(second)
        room = self.scratch.reserve(sum(sizes))
        self.slots[first] = Slot(room.base, room.offset, sizes[0])
        self.slots[second] = Slot(room.base, room.offset + sizes[0], sizes[1])

    def halfwords(self, name: str) -> Slot:
        """A new int16 vector, or the place of a kept state, filled up with zeros as its readers
        need."""
        pairs = self.packing.words(self.program.halfwords[name].size)
        slot = self.slots.get(name) or self.scratch.reserve(self.filled(name))
        self.slots[name] = slot
        if slot.size > pairs:
            filled = Slot(slot.base, slot.offset + pairs, slot.size - pairs)
            self.padding.append(Padding(len(self.steps), filled))
        return slot

    def memory(self, state: str) -> StateMemory:
        """Where a state lies."""
        kept = state not in self.program.recurrent
        size = self.program.halfwords[state].size
        return StateMemory((self.slots if kept else self.state_at)[state], size, kept)

    def packed(self, state: str) -> Slot | None:
        """Where a unit writes what matrices read of its new state: nowhere where nothing reads it,
        nor where they read it as it is."""
        if state not in self.last_read:
            return None
        if self.program.width == 32:
            self.slots[state] = self.state_at[state]
            return None
        return self.halfwords(state)

    def wide(self, name: str, size: int) -> Slot:
        """A new int32 vector."""
        self.slots[name] = self.scratch.reserve(size)
        return self.slots[name]

    def convert(self, position: int, op: FixedOperation) -> None:
        """Append the steps of one operation."""
        match op:
            case FixedInput(x, exponents, y, guard):
                size = len(exponents)
                bits = self.program.halfwords[y].bits
                about = f"input {size} as int{bits}"
                slot, runs = self.halfwords(y), _runs(exponents)
                self.add(InputStep(about, self.slots[x], slot, size, runs, bits, guard))
            case FixedClip(x, low, high, y):
                wide = x not in self.program.halfwords
                size = len(low)
                slot = self.wide(y, size) if wide else self.halfwords(y)
                bounds = tuple(map(int, low)), tuple(map(int, high))
                self.add(ClipStep(f"clip {size}", self.slots[x], slot, size, *bounds, wide))
            case FixedMultiply(a, b, shift, y):
                halfword = self.program.halfwords[y]
                operands = self.slots[a], self.slots[b], self.halfwords(y)
                about = f"multiply {halfword.size}"
                self.add(MultiplyStep(about, *operands, halfword.size, shift, halfword.bits))
            case FixedArgMax(x, y):
                size = self.slots[x].size
                slot = self.halfwords(y)
                self.add(ArgMaxStep(f"argmax of {size}", self.slots[x], slot, size))
            case FixedDense():
                self.dense(position, op)
            case FixedGru():
                self.gru(op)
            case FixedLstm():
                self.lstm(op)
            case FixedGather(sources, picks, y):
                size = len(picks)
                slots = tuple(self.slots[x] for x in sources)
                slot = self.halfwords(y)
                self.add(GatherStep(f"gather {size}", slots, slot, size, runs_of(picks)))
            case FixedOutput(x, exponent, y):
                if y in self.slots:  # the rows that made x wrote it already
                    return
                wide = x not in self.program.halfwords
                size = self.slots[x].size if wide else self.program.halfwords[x].size
                action = self.slots[y] = Slot("action", 0, size)
                about = f"output {size}"
                self.add(OutputStep(about, self.slots[x], action, size, exponent, wide))

    def dense(self, position: int, op: FixedDense) -> None:
        """Rows; those that nothing but the output reads leave as floats at once."""
        size = op.rows.size
        inputs = " + ".join(str(self.program.halfwords[p.x].size) for p in op.rows.products)
        about = f"dense {inputs} -> {size}, {op.form}"
        rows = self.rows(op.rows)
        exponent: int | None = None
        if op.form.startswith("wide"):
            after = self.program.operations[position + 1 :]
            outputs = [o for o in after if isinstance(o, FixedOutput) and o.x == op.y]
            readers = [o for o in after if op.y in _reads(o)]
            if len(outputs) == len(readers) == 1:
                exponent = outputs[0].exponent
                y = self.slots[outputs[0].y] = Slot("action", 0, size)
            else:
                y = self.wide(op.y, size)
        else:
            y = self.halfwords(op.y)
        table = op.curve or ("tanh" if op.form.endswith(("tanh", "sigmoid")) else "")
        bits = self.program.halfwords[op.y].bits if op.y in self.program.halfwords else 16
        writing = self.writings.get(op.y)
        if writing:
            kept, words = straight(op.rows, writing, self.packing)
            first = sum(part.size for part in self.sparse)
            self.sparse.append(words)
            self.add(
                SparseStep(
                    about, rows, y, size, kept, op.form, exponent, table, bits,
                    writing, first, words.size,
                )
            )  # fmt: skip
        else:
            cut = self.packing.tiles(size)
            step = DenseStep(about, rows, y, size, cut, op.form, exponent, table, bits)
            self.add(step, self.packing.stream([op.rows], cut))

    def rows(self, rows: Rows) -> RowsPlan:
        """Where rows read."""
        sources = tuple(
            Source(
                self.slots[p.x],
                self.packing.read(p.weights.shape[1], p.stored),
                p.stored,
                p.shift,
            )
            for p in rows.products
        )
        return RowsPlan(sources, rows.multipliers is not None, rows.lift)

    def gru(self, op: FixedGru) -> None:
        """A gated recurrent unit."""
        size = op.reset.size
        cut = self.packing.tiles(size)
        named = gates(op)
        step = CellStep(
            about=f"gru {self.program.halfwords[op.x].size} -> {size}",
            gates={name: self.rows(rows) for name, rows in named},
            h=self.state_at[op.h],
            h_next=self.state_at[op.h_next],
            packed=self.packed(op.h_next),
            size=size,
            tiles=cut,
            kind="gru",
            pack_shift=state_shift(self.program.halfwords[op.h_next].bits),
        )
        ordered = [dict(named)[name] for name in ("reset", "hidden", "candidate", "update")]
        self.add(step, self.packing.stream(ordered, cut))

    def lstm(self, op: FixedLstm) -> None:
        """A long short-term memory."""
        size = op.input.size
        cut = self.packing.tiles(size)
        named = gates(op)
        step = CellStep(
            about=f"lstm {self.program.halfwords[op.x].size} -> {size}",
            gates={name: self.rows(rows) for name, rows in named},
            h=self.state_at[op.h],
            h_next=self.state_at[op.h_next],
            packed=self.packed(op.h_next),
            size=size,
            tiles=cut,
            kind="lstm",
            c=self.state_at[op.c],
            c_next=self.state_at[op.c_next],
            c_packed=self.packed(op.c_next),
            shift=op.shift,
            factor=op.factor,
            lift=op.lift,
            pack_shift=state_shift(self.program.halfwords[op.h_next].bits),
            c_pack_shift=state_shift(self.program.halfwords[op.c_next].bits),
        )
        ordered = [dict(named)[name] for name in ("input", "new", "forget", "output")]
        self.add(step, self.packing.stream(ordered, cut))


def _joined(streams: list[Stream]) -> Stream:
    return np.concatenate(streams) if streams else np.zeros(0, np.uint32)


def _rows(op: FixedOperation) -> tuple[Rows, ...]:
    match op:
        case FixedDense():
            return (op.rows,)
        case FixedGru() | FixedLstm():
            return tuple(rows for _, rows in gates(op))
        case _:
            return ()


def _reads(op: FixedOperation) -> set[str]:
    """The vectors that an operation reads from scratch."""
    match op:
        case FixedInput() | FixedOutput() | FixedClip() | FixedArgMax():
            return {op.x}
        case FixedMultiply():
            return {op.a, op.b}
        case FixedGather():
            return set(op.sources)
        case _:
            return {product.x for rows in _rows(op) for product in rows.products}


def _observation_size(program: FixedProgram) -> int:
    return next(
        len(op.exponents)
        for op in program.operations
        if isinstance(op, FixedInput) and op.x == program.observation
    )


def _runs(exponents: tuple[int, ...]) -> tuple[Run, ...]:
    """Neighbours of one exponent together."""
    runs: list[Run] = []
    for k, exponent in enumerate(exponents):
        if runs and runs[-1].exponent == exponent:
            runs[-1] = Run(runs[-1].first, runs[-1].count + 1, exponent)
        else:
            runs.append(Run(k, 1, exponent))
    return tuple(runs)
