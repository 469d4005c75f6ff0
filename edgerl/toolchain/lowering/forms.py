"""Affine normal form: a run-time vector as sums of picked elements of base vectors.

Row i of a form is `bias[i] + sum over terms of scale[i] * base[index[i]]`. Slices, splits,
concatenations, permutations, broadcasts, sums and products by constants all keep this shape,
so a graph's plumbing dissolves here and only matrix products and non-linear operations
remain as bases (`flow.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Key = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Term:
    """`scale[i] * base[index[i]]` for every row i; where scale is 0, index is 0 too."""

    base: int
    index: Indices
    scale: Doubles

    @cached_property
    def rows(self) -> Mask:
        """The rows that this term contributes to."""
        return np.not_equal(self.scale, 0.0)

    @cached_property
    def key(self) -> Key:
        """Equal for equal terms."""
        return (self.base, self.index.tobytes(), self.scale.tobytes())


@dataclass(frozen=True, eq=False)
class Form:
    """A run-time vector in affine normal form; equal forms have equal keys."""

    terms: tuple[Term, ...]
    bias: Doubles

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.bias)

    @cached_property
    def key(self) -> Key:
        """Equal for equal forms."""
        return (*(term.key for term in self.terms), self.bias.tobytes())

    def take(self, rows: Indices | Mask) -> "Form":
        """The given rows, in the given order; a row may repeat."""
        picked = (Term(t.base, t.index[rows], t.scale[rows]) for t in self.terms)
        return Form(_normal(picked), self.bias[rows])

    def scaled(self, factor: Doubles) -> "Form":
        """Every row times its factor; factor has the form's size or size 1."""
        terms = (Term(t.base, t.index, t.scale * factor) for t in self.terms)
        return Form(_normal(terms), self.bias * factor)

    def shifted(self, offset: Doubles) -> "Form":
        """Every row plus its offset; offset has the form's size or size 1."""
        return Form(self.terms, self.bias + offset)

    def plus(self, other: "Form") -> "Form":
        """The sum with a form of the same size."""
        return Form(_normal((*self.terms, *other.terms)), self.bias + other.bias)

    def whole(self) -> int | None:
        """The base whose leading elements these rows are, one by one and unchanged."""
        if len(self.terms) != 1 or self.bias.any():
            return None
        term = self.terms[0]
        plain = (term.scale == 1.0).all() and np.array_equal(term.index, np.arange(self.size))
        return term.base if plain else None


def constant(values: Doubles) -> Form:
    """A form that no run-time value enters."""
    return Form((), values)


def base_form(base: int, size: int) -> Form:
    """All elements of a base, in order."""
    return Form((Term(base, np.arange(size), np.ones(size)),), np.zeros(size))


def joined(forms: Sequence[Form]) -> Form:
    """The rows of all forms, one form after the other."""
    size = sum(form.size for form in forms)
    terms, start = [], 0
    for form in forms:
        for term in form.terms:
            index, scale = np.zeros(size, dtype=np.int64), np.zeros(size)
            index[start : start + form.size] = term.index
            scale[start : start + form.size] = term.scale
            terms.append(Term(term.base, index, scale))
        start += form.size
    return Form(_normal(terms), np.concatenate([form.bias for form in forms]))


def ratio(a: Form, b: Form, tolerance: float = 1e-6) -> float | None:
    """The scalar s with a = s * b in every row, None when there is none."""
    if a.size != b.size or len(a.terms) != len(b.terms) or not b.terms:
        return None
    for mine, theirs in zip(a.terms, b.terms, strict=True):
        if mine.base != theirs.base or not np.array_equal(mine.index, theirs.index):
            return None
    first = b.terms[0]
    row = int(np.argmax(first.rows))
    s = float(a.terms[0].scale[row] / first.scale[row])
    pairs = [(m.scale, t.scale) for m, t in zip(a.terms, b.terms, strict=True)]
    same = all(
        np.allclose(mine, s * theirs, rtol=tolerance, atol=0.0)
        for mine, theirs in [*pairs, (a.bias, b.bias)]
    )
    return s if same and s != 0.0 else None


def _normal(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Terms of one base merged where no row needs two elements of it, in canonical order."""
    merged: list[Term] = []
    for term in sorted(terms, key=lambda t: t.base):
        k = _partner(merged, term)
        if k is None:
            merged.append(term)
            continue
        index = np.where(merged[k].rows, merged[k].index, term.index)
        merged[k] = Term(term.base, index, merged[k].scale + term.scale)
    kept = [Term(t.base, np.where(t.rows, t.index, 0), t.scale) for t in merged if t.rows.any()]
    return tuple(sorted(kept, key=lambda t: t.key))


def _partner(terms: Sequence[Term], term: Term) -> int | None:
    """Which of `terms` can take in another: one that picks the same elements if there is one,
    so that equal terms cancel."""
    same = [k for k, other in enumerate(terms) if other.base == term.base]
    for k in same:
        if np.array_equal(terms[k].index, term.index):
            return k
    for k in same:
        if not (terms[k].rows & term.rows & (terms[k].index != term.index)).any():
            return k
    return None
