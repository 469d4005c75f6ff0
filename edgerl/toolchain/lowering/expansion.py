"""A Program's element-wise arithmetic, read back as polynomials.

One element of a tensor is a polynomial in elements that are not themselves sums, products or
copies: the rows of matrix products, activations, inputs. Two ways to write the same formula
have the same polynomial, which is how `recurrent.py` recognises cells.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from edgerl.toolchain.ir import Activate, Activation, Binary, Dense, Gather, Linear, Program, writes
from edgerl.toolchain.lowering.forms import Doubles

MOST_MONOMIALS = 8
DEEPEST = 8


class Atom(NamedTuple):
    """One element of a tensor; `inner` means the Dense row before its activation."""

    tensor: str
    row: int
    inner: bool = False


Monomial = tuple[Atom, ...]
Polynomial = dict[Monomial, float]


class NoMatch(Exception):
    """The program is not of the form that is being looked for."""


class Expansion:
    """Reads elements of one program's tensors as polynomials; NoMatch if one gets long."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.producer = {name: op for op in program.operations for name in writes(op)}
        self._rows: dict[str, tuple[Atom, ...]] = {}

    def rows(self, tensor: str) -> tuple[Atom, ...]:
        """Where each element of a tensor comes from, through all copies."""
        if tensor not in self._rows:
            op = self.producer.get(tensor)
            if isinstance(op, Gather):
                found = tuple(self.rows(op.sources[k])[j] for k, j in op.picks)
            else:
                found = tuple(Atom(tensor, k) for k in range(self.program.size(tensor)))
            self._rows[tensor] = found
        return self._rows[tensor]

    def element(self, tensor: str, row: int, depth: int = 0) -> Polynomial:
        """One element of a tensor, sums and products multiplied out."""
        if depth > DEEPEST:
            raise NoMatch
        atom = self.rows(tensor)[row]
        match self.producer.get(atom.tensor):
            case Linear(terms, bias):
                parts = [
                    _times(self.element(x, atom.row, depth + 1), {(): float(scale[atom.row])})
                    for x, scale in terms
                ]
                return _sum([*parts, {(): float(bias[atom.row])}])
            case Binary(operation="mul", a=a, b=b):
                return _times(*(self.element(x, atom.row, depth + 1) for x in (a, b)))
            case _:
                return {(atom,): 1.0}

    def before(self, atom: Atom, activation: Activation) -> Polynomial:
        """The polynomial that `activation` was applied to; NoMatch if it was not."""
        match self.producer.get(atom.tensor):
            case Dense(activation=kind) if kind == activation:
                return {(atom._replace(inner=True),): 1.0}
            case Activate(activation=kind, x=x) if kind == activation:
                return self.element(x, atom.row)
            case _:
                raise NoMatch

    def is_result(self, atom: Atom, activation: Activation) -> bool:
        """Whether an element is written by an activation."""
        op = self.producer.get(atom.tensor)
        return isinstance(op, Dense | Activate) and op.activation == activation


def _sum(parts: Iterable[Polynomial]) -> Polynomial:
    total: Polynomial = {}
    for part in parts:
        for monomial, factor in part.items():
            total[monomial] = total.get(monomial, 0.0) + factor
    return _checked(total)


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    return _sum(
        {tuple(sorted((*left, *right))): f * g} for left, f in a.items() for right, g in b.items()
    )


def _checked(polynomial: Polynomial) -> Polynomial:
    kept = {monomial: factor for monomial, factor in polynomial.items() if factor != 0.0}
    if len(kept) > MOST_MONOMIALS or any(len(monomial) > 3 for monomial in kept):
        raise NoMatch
    return kept


class Affine:
    """Blocks of gate rows as weights over elements of tensors, columns shared by all blocks."""

    def __init__(self, expansion: Expansion, blocks: Sequence[Sequence[Polynomial]]) -> None:
        """Each polynomial must be of degree one at most; NoMatch if one is not."""
        self._expansion = expansion
        self._columns: dict[Atom, int] = {}
        self.sources: list[str] = []
        entries = [self._entries(block) for block in blocks]
        self.weights = [self._weights(len(b), e) for b, e in zip(blocks, entries, strict=True)]
        self.biases = [self._bias(block) for block in blocks]

    def _dense(self, atom: Atom) -> Dense | None:
        op = self._expansion.producer.get(atom.tensor)
        if isinstance(op, Dense) and (atom.inner or op.activation is None):
            return op
        return None

    def _entries(self, block: Sequence[Polynomial]) -> list[tuple[int, Atom, float]]:
        entries = []
        for row, polynomial in enumerate(block):
            for monomial, factor in polynomial.items():
                if len(monomial) > 1:
                    raise NoMatch
                for atom in monomial:
                    entries.append((row, atom, factor))
                    dense = self._dense(atom)
                    if dense is None:
                        self._columns.setdefault(atom, len(self._columns))
                        continue
                    for x, _ in dense.sources:
                        if x not in self.sources:
                            self.sources.append(x)
                            for column in self._expansion.rows(x):
                                self._columns.setdefault(column, len(self._columns))
        return entries

    def _weights(self, rows: int, entries: list[tuple[int, Atom, float]]) -> Doubles:
        weights = np.zeros((rows, len(self._columns)))
        for row, atom, factor in entries:
            dense = self._dense(atom)
            if dense is None:
                weights[row, self._columns[atom]] += factor
                continue
            for x, matrix in dense.sources:
                columns = [self._columns[column] for column in self._expansion.rows(x)]
                np.add.at(weights[row], columns, factor * matrix[atom.row].astype(np.float64))
        return weights

    def _bias(self, block: Sequence[Polynomial]) -> Doubles:
        bias = np.zeros(len(block))
        for row, polynomial in enumerate(block):
            for monomial, factor in polynomial.items():
                dense = self._dense(monomial[0]) if monomial else None
                if not monomial:
                    bias[row] += factor
                elif dense is not None:
                    bias[row] += factor * float(dense.bias[monomial[0].row])
        return bias

    def columns_without(self, atoms: Sequence[Atom]) -> list[Atom]:
        """The columns that are not among `atoms`, in order of first use."""
        left_out = set(atoms)
        return [column for column in self._columns if column not in left_out]

    def block(self, k: int, atoms: Sequence[Atom]) -> Doubles:
        """The weights of block k over `atoms`, in their order; zero where none was given."""
        chosen = np.zeros((len(self.weights[k]), len(atoms)))
        for position, atom in enumerate(atoms):
            if atom in self._columns:
                chosen[:, position] = self.weights[k][:, self._columns[atom]]
        return chosen
