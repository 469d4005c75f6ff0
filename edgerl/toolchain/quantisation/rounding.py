"""Rounding: weights of 8 or 4 bits, each chosen so that the later ones make up for its error.

The columns of a row are taken in the order in which what lies below each in its half of a word is
known (`storage.known_order`). A column's error is fed back to those still to come, as far as
their operands vary with its own on the calibration: the rows of the Cholesky factor of the
inverse covariance say how much (GPTQ, arXiv:2210.17323, algorithm 1, after OBQ,
arXiv:2208.11580). What is left of a row's error on its mean operands goes into its bias.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerl.toolchain.ir import Activate, Dense, Gru, Lstm, Operation, Program, writes
from edgerl.toolchain.quantisation.program import WIDTH, Doubles, Stored
from edgerl.toolchain.quantisation.storage import below, columns_a_word, known_order
from edgerl.toolchain.quantisation.table import Integers

# Of the mean variance, added to each: what a calibration did not show may still happen.
_DAMPING = 0.01
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Moments:
    """Of what a layer's matrices read, one operand after another: its mean [n] and covariance
    [n, n] on a calibration."""

    mean: Doubles
    covariance: Doubles

    def scaled(self, by: Doubles) -> "Moments":
        """The moments of the same in other units, each element times its own factor."""
        return Moments(self.mean * by, self.covariance * np.outer(by, by))

    @property
    def damped(self) -> Doubles:
        """The covariance with some of its mean variance added to each variance."""
        variance = np.maximum(np.diag(self.covariance), 0.0)
        # What lies below that much of the mean squares is their rounding.
        level = max(float(variance.mean()), _ROUNDING * float(np.square(self.mean).mean()))
        damped: Doubles = self.covariance.copy()
        # Where everything read is zero, all roundings are as good.
        np.fill_diagonal(damped, variance + _DAMPING * (level or 1.0))
        return damped


@dataclass(frozen=True)
class Coarse:
    """How a layer's weights are rounded to 8 or 4 bits: those, and the moments of the vectors that
    its matrices read, one after another. `steps` [rows] are what the weights of each row are whole
    multiples of, where they came quantised; `first` is what the largest scale that a row tries is
    of the largest that it might: every other is as good, and gives other weights."""

    stored: Stored
    vectors: tuple[str, ...]
    widths: tuple[int, ...]
    moments: Moments
    steps: Doubles | None = None
    first: float = 1.0

    def of(self, vectors: Sequence[str]) -> Moments:
        """The moments of some of the vectors, one after another."""
        starts = dict(zip(self.vectors, _starts(self.widths), strict=True))
        picked = np.concatenate(
            [np.arange(a, a + width) for a, width in (starts[x] for x in vectors)]
        )
        return Moments(self.moments.mean[picked], self.moments.covariance[np.ix_(picked, picked)])


class Inputs:
    """What each layer's matrices read on a calibration, step by step."""

    def __init__(self, program: Program) -> None:
        self._read = {
            writes(operation)[0]: [x for x, _ in read_by(operation)]
            for operation in program.operations
            if read_by(operation)
        }
        self._count = 0
        self._sums: dict[str, tuple[Doubles, Doubles]] = {}

    def see(self, tensors: Mapping[str, Doubles]) -> None:
        """Add a step's tensors, [B, size] each."""
        self._count += len(next(iter(tensors.values())))
        for layer, vectors in self._read.items():
            given = np.concatenate([tensors[x] for x in vectors], axis=-1)
            first, second = given.sum(axis=0), given.T @ given
            if layer in self._sums:
                before = self._sums[layer]
                first, second = before[0] + first, before[1] + second
            self._sums[layer] = first, second

    @property
    def moments(self) -> dict[str, Moments]:
        """By the first tensor that a layer writes, the moments of what it read."""
        found = {}
        for layer, (first, second) in self._sums.items():
            mean = first / self._count
            found[layer] = Moments(mean, second / self._count - np.outer(mean, mean))
        return found


def read_by(operation: Operation) -> tuple[tuple[str, Doubles], ...]:
    """What a layer's matrices read, in the order in which rows accumulate it, and the matrices."""
    match operation:
        case Dense(sources=sources):
            return tuple((x, w.astype(np.float64)) for x, w in sources)
        case Gru(x=x, h=h) | Lstm(x=x, h=h):
            hidden, given = operation.w_hidden, operation.w_input
            return ((h, hidden.astype(np.float64)), (x, given.astype(np.float64)))
        case _:
            return ()


def coarsened(
    program: Program,
    stored: Mapping[str, Stored],
    moments: Mapping[str, Moments],
    operand: Callable[[str], str],
) -> dict[str, Coarse]:
    """How the layers with fewer than 16 bits a weight are rounded, by the first tensor that each
    writes, and by that of an activation apart. `operand` names the vector of a tensor."""
    found: dict[str, Coarse] = {}
    for operation in program.operations:
        if isinstance(operation, Activate) and operation.x in found:
            found[operation.y] = found[operation.x]
        layer = writes(operation)[0]
        if stored.get(layer, WIDTH) < WIDTH:
            vectors = tuple(operand(x) for x, _ in read_by(operation))
            sizes = tuple(w.shape[1] for _, w in read_by(operation))
            found[layer] = Coarse(stored[layer], vectors, sizes, moments[layer])
    return found


def fed_back(
    wanted: Doubles,
    widths: Sequence[int],
    stored: Stored,
    moments: Moments,
    largest: int = (1 << 15) - 1,
) -> Integers:
    """Effective weights [rows, columns] for `wanted`, which are real numbers in their units.

    `widths` are the columns of each operand, every one of which begins a word; `moments` are those
    of the columns as far as the accumulator counts them. None is larger than `largest`. An error
    is half a step at most in what a column was to be in the end, unless its row's step is too
    small for it.
    """
    order = np.concatenate([start + known_order(width, stored) for start, width in _starts(widths)])
    factor = _factor(moments.damped[np.ix_(order, order)])
    under = _under(widths, stored)
    left = wanted[:, order].copy()
    # One more column stands for those that fill up a word.
    chosen = np.zeros((len(wanted), wanted.shape[1] + 1), np.int64)
    for place, column in enumerate(order.tolist()):
        found = nearest(left[:, place], chosen[:, under[column]], stored)
        chosen[:, column] = np.minimum(np.maximum(found, -largest), largest)
        error = (left[:, place] - chosen[:, column]) / factor[place, place]
        left[:, place + 1 :] -= error[:, np.newaxis] * factor[place, place + 1 :]
    return chosen[:, :-1]


def nearest(wanted: Doubles, under: Integers, stored: Stored) -> Integers:
    """The effective weights [rows] of one column that are nearest to `wanted` [rows], above those
    of the columns below it [rows, columns], the next lower first. None is -32768."""
    step, half = 1 << (16 - stored), 1 << (stored - 1)
    junk = np.zeros(len(wanted), np.int64)
    for place in range(under.shape[1]):
        # Its own upper bits, so much lower than where they multiply.
        upper = (under[:, place] >> (16 - stored)) & ((1 << stored) - 1)
        junk |= upper << (16 - stored * (place + 2))
    # A scale tried far beyond the row's own leaves no numbers; its weights are no use, but finite.
    steps: Doubles = np.nan_to_num(np.rint((wanted - junk) / step))
    weights: Integers = np.clip(steps, -half, half - 1).astype(np.int64) * step + junk
    weights[weights == -(1 << 15)] += step
    return weights


def _factor(covariance: Doubles) -> Doubles:
    """U, upper triangular, with U^T U the inverse of a covariance."""
    # As correlations, so that operands of very different size leave the inverse exact.
    size = np.sqrt(np.diag(covariance))
    inverse = np.linalg.inv(covariance / np.outer(size, size))
    upper: Doubles = np.linalg.cholesky(0.5 * (inverse + inverse.T)).T / size
    return upper


def _starts(widths: Sequence[int]) -> list[tuple[int, int]]:
    ends = np.cumsum(widths).tolist()
    return list(zip([0, *ends], widths, strict=False))


def _under(widths: Sequence[int], stored: Stored) -> list[list[int]]:
    """The columns that lie below each in its half of a word, -1 for what fills up the word."""
    group = columns_a_word(stored)
    return [
        [start + first + k if first + k < width else -1 for k in below(stored, column - first)]
        for start, width in _starts(widths)
        for column in range(width)
        for first in (column - column % group,)
    ]
