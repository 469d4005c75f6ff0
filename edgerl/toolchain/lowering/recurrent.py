"""Recognise GRU and LSTM cells that were written out in primitives.

A cell is found by what it computes, not by how: the next state must be the polynomial
`n - z n + z h` (or with 1 - z in place of z) of a tanh `n` and a sigmoid `z`, or
`o tanh(f c + i g)`, and the gates must be affine in the input and the past state.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgerl.toolchain.ir import (
    Activate,
    Binary,
    Gather,
    Gru,
    Linear,
    Lstm,
    Matrix,
    Operation,
    Program,
    Tensor,
    writes,
)
from edgerl.toolchain.lowering.expansion import Affine, Atom, Expansion, NoMatch, Polynomial
from edgerl.toolchain.lowering.forms import Doubles
from edgerl.toolchain.passes import dead_code, in_order


def fuse_recurrent(program: Program) -> Program:
    """Every cell written out in the program replaced by one Gru or Lstm operation.

    The program must hold no dead code. A cell whose parts are used elsewhere stays as it is,
    so that no matrix product is computed twice.
    """
    tried: set[str] = set()
    while True:
        expansion = Expansion(program)
        for operation in program.operations:
            match operation:
                case Linear(y=y) if y not in tried:
                    fused = _replaced(expansion, _gru, y)
                case Binary(operation="mul", y=y) if y not in tried:
                    fused = _replaced(expansion, _lstm, y)
                case _:
                    continue
            tried.add(y)
            if fused is not None:
                program = fused
                break
        else:
            return program


def _replaced(
    expansion: Expansion, find: Callable[[Expansion, str], list[Operation]], y: str
) -> Program | None:
    """The program with the cell that writes `y` as one operation, None if there is none."""
    program = expansion.program
    try:
        found = find(expansion, y)
    except NoMatch:
        return None
    written = {name for operation in found for name in writes(operation)}
    kept = [op for op in program.operations if not written.intersection(writes(op))]
    sizes = {op.y: Tensor(len(op.picks)) for op in found if isinstance(op, Gather)}
    tensors = {**program.tensors, **sizes}
    ordered = in_order(replace(program, operations=(*kept, *found), tensors=tensors))
    if ordered is None:
        return None
    candidate = dead_code(ordered)
    return candidate if candidate.macs <= program.macs else None


def _gru(expansion: Expansion, y: str) -> list[Operation]:
    """The GRU that writes `y`; NoMatch if there is none."""
    size = expansion.program.size(y)
    first, second, mix = zip(
        *(_interpolation(expansion.element(y, row)) for row in range(size)), strict=True
    )
    # y = first + mix * (second - first): one of the two is the tanh, the other the past state.
    for n, h, sign in ((first, second, 1.0), (second, first, -1.0)):
        if not all(expansion.is_result(atom, "tanh") for atom in n):
            continue
        news = [expansion.before(atom, "tanh") for atom in n]
        resets, hidden, present = zip(*(_reset(expansion, p) for p in news), strict=True)
        r = [expansion.before(atom, "sigmoid") for atom in resets]
        z = [_scaled(expansion.before(atom, "sigmoid"), sign) for atom in mix]
        gates = Affine(expansion, [r, z, present, hidden])
        inputs = gates.columns_without(h)
        if gates.block(2, h).any() or gates.block(3, inputs).any() or not inputs:
            continue
        x_atoms, x, x_gather = _vector(expansion, inputs, gates.sources, f"{y}_input")
        _, past, h_gather = _vector(expansion, h, (), f"{y}_past")
        gru = Gru(
            x=x,
            h=past,
            h_next=y,
            w_input=_rows(
                gates.block(0, x_atoms), gates.block(1, x_atoms), gates.block(2, x_atoms)
            ),
            w_hidden=_rows(gates.block(0, h), gates.block(1, h), gates.block(3, h)),
            b_input=_rows(*gates.biases[:3]),
            b_hidden=_rows(np.zeros(2 * size), gates.biases[3]),
        )
        return [*x_gather, *h_gather, gru]
    raise NoMatch


def _interpolation(polynomial: Polynomial) -> tuple[Atom, Atom, Atom]:
    """(a, b, z) of a polynomial a - z a + z b; NoMatch if it is none."""
    alone = [m for m in polynomial if len(m) == 1]
    pairs = [m for m in polynomial if len(m) == 2]
    if len(polynomial) != 3 or len(alone) != 1 or len(pairs) != 2:
        raise NoMatch
    ((a,),) = alone
    falling, rising = sorted(pairs, key=lambda m: polynomial[m])
    factors = [polynomial[m] for m in ((a,), rising, falling)]
    if a not in falling or not np.allclose(factors, [1.0, 1.0, -1.0], rtol=0.0, atol=1e-6):
        raise NoMatch
    z = _other(falling, a)
    return a, _other(rising, z), z


def _other(pair: tuple[Atom, ...], atom: Atom) -> Atom:
    """The partner of an atom in a product of two; NoMatch if the atom is not in it."""
    if atom not in pair:
        raise NoMatch
    return pair[1] if pair[0] == atom else pair[0]


def _reset(expansion: Expansion, polynomial: Polynomial) -> tuple[Atom, Polynomial, Polynomial]:
    """(r, p, q) of a polynomial r p + q, where r is a sigmoid and not in p or q."""
    pairs = [m for m in polynomial if len(m) == 2]
    if not pairs:
        raise NoMatch
    for r in pairs[0]:
        if expansion.is_result(r, "sigmoid") and all(r in pair for pair in pairs):
            past: Polynomial = {(_other(m, r),): polynomial[m] for m in pairs}
            if (r,) in polynomial:
                past[()] = polynomial[r,]
            present = {m: f for m, f in polynomial.items() if r not in m}
            return r, past, present
    raise NoMatch


def _lstm(expansion: Expansion, y: str) -> list[Operation]:
    """The LSTM that writes `y`; NoMatch if there is none."""
    program, size = expansion.program, expansion.program.size(y)
    pairs = [_pair(expansion.element(y, row)) for row in range(size)]
    squashed = [_squashed(expansion, pair) for pair in pairs]
    opening = [_other(pair, atom) for pair, atom in zip(pairs, squashed, strict=True)]
    cells = [_written(expansion, atom) for atom in squashed]
    c_next = cells[0].tensor
    if cells != [Atom(c_next, row) for row in range(program.size(c_next))]:
        raise NoMatch
    gates = [_cell(expansion, expansion.element(c_next, row)) for row in range(size)]
    forget, c, opened, new = zip(*gates, strict=True)
    h = _fed_back(expansion, y)
    affine = Affine(
        expansion,
        [
            [expansion.before(atom, "sigmoid") for atom in opened],
            [expansion.before(atom, "sigmoid") for atom in forget],
            [expansion.before(atom, "tanh") for atom in new],
            [expansion.before(atom, "sigmoid") for atom in opening],
        ],
    )
    inputs = affine.columns_without(h)
    if not inputs:
        raise NoMatch
    x_atoms, x, x_gather = _vector(expansion, inputs, affine.sources, f"{y}_input")
    _, past, h_gather = _vector(expansion, h, (), f"{y}_past")
    _, cell, c_gather = _vector(expansion, c, (), f"{y}_cell")
    lstm = Lstm(
        x=x,
        h=past,
        c=cell,
        h_next=y,
        c_next=c_next,
        w_input=_rows(*(affine.block(k, x_atoms) for k in range(4))),
        w_hidden=_rows(*(affine.block(k, h) for k in range(4))),
        bias=_rows(*affine.biases),
    )
    return [*x_gather, *h_gather, *c_gather, lstm]


def _pair(polynomial: Polynomial) -> tuple[Atom, ...]:
    """The two atoms of a polynomial that is their plain product."""
    if len(polynomial) != 1:
        raise NoMatch
    ((monomial, factor),) = polynomial.items()
    if len(monomial) != 2 or abs(factor - 1.0) > 1e-6:
        raise NoMatch
    return monomial


def _squashed(expansion: Expansion, pair: tuple[Atom, ...]) -> Atom:
    """The atom of a pair that is a tanh."""
    for atom in pair:
        if expansion.is_result(atom, "tanh"):
            return atom
    raise NoMatch


def _written(expansion: Expansion, atom: Atom) -> Atom:
    """The element that the activation writing `atom` reads."""
    operation = expansion.producer[atom.tensor]
    if not isinstance(operation, Activate):
        raise NoMatch
    return expansion.rows(operation.x)[atom.row]


def _cell(expansion: Expansion, polynomial: Polynomial) -> tuple[Atom, Atom, Atom, Atom]:
    """(f, c, i, g) of a polynomial f c + i g with sigmoids f and i and a tanh g."""
    products = list(polynomial)
    if len(products) != 2 or not np.allclose(list(polynomial.values()), 1.0, rtol=0.0, atol=1e-6):
        raise NoMatch
    for kept, added in (products, products[::-1]):
        if len(kept) != 2 or len(added) != 2:
            raise NoMatch
        for f, g in itertools.product(kept, added):
            i = _other(added, g)
            if (
                expansion.is_result(f, "sigmoid")
                and expansion.is_result(g, "tanh")
                and expansion.is_result(i, "sigmoid")
            ):
                return f, _other(kept, f), i, g
    raise NoMatch


def _fed_back(expansion: Expansion, y: str) -> list[Atom]:
    """The state elements that `y` replaces after the step; NoMatch if it replaces none."""
    past = {
        after: before
        for pair in expansion.program.states
        for before, after in zip(*(expansion.rows(name) for name in pair), strict=True)
    }
    if any(atom not in past for atom in expansion.rows(y)):
        raise NoMatch
    return [past[atom] for atom in expansion.rows(y)]


def _vector(
    expansion: Expansion, atoms: Sequence[Atom], candidates: Sequence[str], name: str
) -> tuple[Sequence[Atom], str, list[Operation]]:
    """A tensor that holds `atoms`: their order there, its name, the operation it needs.

    One of the `candidates` may have them in another order; any other tensor in this one.
    """
    for tensor in candidates:
        rows = expansion.rows(tensor)
        if len(rows) == len(atoms) and set(rows) == set(atoms):
            return rows, tensor, []
    for tensor in expansion.program.tensors:
        if expansion.program.size(tensor) == len(atoms) and expansion.rows(tensor) == tuple(atoms):
            return atoms, tensor, []
    sources = list(dict.fromkeys(atom.tensor for atom in atoms))
    while name in expansion.program.tensors:
        name += "_"
    picks = tuple((sources.index(atom.tensor), atom.row) for atom in atoms)
    return atoms, name, [Gather(tuple(sources), picks, name)]


def _scaled(polynomial: Polynomial, factor: float) -> Polynomial:
    return {monomial: factor * value for monomial, value in polynomial.items()}


def _rows(*blocks: Doubles) -> Matrix:
    """Gate blocks below each other, in single precision."""
    return np.concatenate(blocks).astype(np.float32)
