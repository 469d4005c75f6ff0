"""Fitting: rows of 8- or 4-bit weights, each at the scale that costs it least.

A row's scale decides two things at once: how much of its weights' few bits are used, and how
large its sums can become. From the coarsest weights that overfill their bits a little, or from
the scale at which rounded weights can just be proved, each row tries ever smaller scales with its
weights rounded for good (`rounding.fed_back`), and takes the one that errs least on the
calibration of those that are proved: rounding may well make a row larger than it was.

A scale of a row's own is taken back by its readers' columns, or by a multiplier in the end.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain.quantisation import layers
from edgerl.toolchain.quantisation.arithmetic import Arithmetic, upper
from edgerl.toolchain.quantisation.layers import row_steps
from edgerl.toolchain.quantisation.program import Doubles, Product, Rows
from edgerl.toolchain.quantisation.proof import (
    LIMIT,
    Range,
    accumulated,
    lifted,
    reset_applied,
)
from edgerl.toolchain.quantisation.rounding import fed_back
from edgerl.toolchain.quantisation.scaling import Candidate, Operands, RealRows, Start
from edgerl.toolchain.quantisation.scheme import Scheme
from edgerl.toolchain.quantisation.table import Integers

_LARGEST = (1 << 15) - 1
_HUGE = 2.0**40
_FACTORS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
_LAST_FACTORS = (0.4, 0.3, 0.2, 0.1, 0.05)
# Weights beyond the largest that a scale holds are cut there, which may be worth it.
_OVERFILLED = 1.4
_APPROACHES = 2
_LEAST_REACH = 2.0**-20
# What promises so many times the least error is past it.
_PAST = 1.5
# Against a division by zero: a weight that no calibration and no scale would notice.
_LEAST_WEIGHT = 2.0**-100
_EARLIER_SHIFTS = range(13)
_LAST_SHIFTS = range(8, 21)
# Of a multiplier: below 2^31, and with enough bits of its own that its rounding is nothing.
_LEAST_RATIO, _MOST_RATIO = 2.001, 2.0**14


@dataclass(frozen=True)
class Fit:
    """Rows at scales of their own: `units` [rows] are those of their results before multipliers,
    `error` [rows] the mean square of what rounding does to them on the calibration, `filled`
    [rows] what their largest weight was to be over the largest there is. A gated unit's candidate
    has two `parts`; `first` is the layer's (`Coarse`)."""

    parts: tuple[Candidate, ...]
    units: Doubles
    error: Doubles
    filled: Doubles
    first: float

    @property
    def candidate(self) -> Candidate:
        """The rows, those of the last part."""
        return self.parts[-1]

    @property
    def fits(self) -> npt.NDArray[np.bool_]:
        """Which rows are proved."""
        fits: npt.NDArray[np.bool_] = np.logical_and.reduce([part.fits for part in self.parts])
        return fits

    @property
    def reach(self) -> Doubles:
        """How far each row reaches, over what is proved."""
        sums = [total.size for part in self.parts for total in part.totals]
        most = np.max([*sums, *(np.abs(part.bias) for part in self.parts)], axis=0)
        return np.asarray(most / LIMIT, np.float64)

    @property
    def refusal(self) -> str:
        """One line about the first row that is not."""
        return next(part.refusal for part in self.parts if not part.fits.all())


Trial = Callable[[Doubles, bool], Fit]


def tabulated(real: RealRows, unit: Doubles | float, operands: Operands) -> Candidate:
    """Rows whose results are `unit` [rows or one] times the real ones after their multipliers, as a
    table reads them."""
    if real.layer not in operands.coarse:
        return layers.tabulated(real, unit, operands)
    cap = np.full(len(real.bias), unit * _MOST_RATIO)

    def at(shifts: Sequence[int]) -> Trial:
        return lambda units, final: fitted(real, units, (*shifts, 0), operands, final)

    _, chosen = _best(at, len(real.sources) - 1, cap, _received(real, operands))
    return multiplied(chosen, unit, real, operands.arithmetic)


def per_row(real: RealRows, reach: Doubles, operands: Operands) -> tuple[Doubles, Candidate]:
    """The step of each row's int16 result, which is to hold `reach` [rows], and the rows."""
    if real.layer not in operands.coarse:
        return layers.per_row(real, reach, operands)
    lsb = row_steps(real, reach, _LARGEST)
    fits = []
    for shift in _LAST_SHIFTS:
        cap = 2.0**shift / lsb

        def trial(units: Doubles, final: bool, shift: int = shift) -> Fit:
            shifts = (*(0 for _ in real.sources[1:]), shift)
            fit = fitted(real, units / 2.0**shift, shifts, operands, final)
            return replace(fit, units=units, error=fit.error + (2.0**shift / units) ** 2 / 12.0)

        units = _start(trial, cap)
        fits.append((float(trial(units, False).error.sum()), shift, units, trial))
    _, shift, units, trial = min(fits, key=lambda each: each[0])
    chosen = _finest(trial, units)
    return 2.0**shift / chosen.units, chosen.candidate


def output(real: RealRows, operands: Operands) -> tuple[int, Candidate]:
    """The largest exponent to which every row's multiplier can bring it, and the rows."""
    if real.layer not in operands.coarse:
        return layers.output(real, operands)

    def at(shifts: Sequence[int]) -> Trial:
        return lambda units, final: fitted(real, units, (*shifts, 0), operands, final)

    cap = np.full(len(real.bias), 2.0**40)
    _, chosen = _best(at, len(real.sources) - 1, cap, _received(real, operands))
    exponent = int(np.floor(np.log2(chosen.units.min() / _LEAST_RATIO)))
    return exponent, multiplied(chosen, 2.0**exponent, real, operands.arithmetic)


def candidate_rows(
    hidden: RealRows, candidate: RealRows, unit: float, operands: Operands
) -> tuple[Candidate, Candidate]:
    """The hidden part of a gated unit's candidate and its input part, which share each row's
    scale; the hidden part's is twice the other's."""
    if hidden.layer not in operands.coarse:
        return layers.candidate_rows(hidden, candidate, unit, operands)

    def hidden_at(finer: int, units: Doubles, final: bool) -> Fit:
        return fitted(hidden, 2.0 * units, (finer,), operands, final)

    def at(shifts: Sequence[int]) -> Trial:
        def trial(units: Doubles, final: bool) -> Fit:
            first = hidden_at(shifts[0], units, final)

            def start(bias: Integers) -> Range:
                return reset_applied(bias, first.candidate.result)

            second = fitted(candidate, units, (0,), operands, final, start)
            return Fit(
                (*first.parts, *second.parts),
                units,
                first.error + second.error,
                np.maximum(first.filled, second.filled),
                first.first,
            )

        return trial

    cap = np.full(len(hidden.bias), unit * _MOST_RATIO)
    _, chosen = _best(at, 1, cap)
    return chosen.parts[0], multiplied(chosen, unit, candidate, operands.arithmetic)


def fitted(
    real: RealRows,
    units: Doubles,
    shifts: tuple[int, ...],
    operands: Operands,
    final: bool,
    start: Start | None = None,
) -> Fit:
    """`real` in integers of few bits, `units` [rows] times the real ones after the shifts; a
    multiple of as many units gives all rows again for each further scale.

    Its weights are rounded for good where it is `final`, else each to the nearest step.
    """
    real = _repeated(real, len(units) // len(real.bias))
    coarse, arithmetic = operands.coarse[real.layer], operands.arithmetic
    stored = coarse.stored
    # Below a weight lie its neighbours, unless it has as many bits as what it multiplies.
    shared = arithmetic.width > stored
    read = [operands.halfwords[x] for x, _ in real.sources]
    finer = [2.0 ** sum(shifts[k:]) for k in range(len(shifts))]
    lsb = np.concatenate([h.lsb * f for h, f in zip(read, finer, strict=True)])
    moments = coarse.of([x for x, _ in real.sources]).scaled(1.0 / lsb)
    wanted = np.concatenate([w for _, w in real.sources], axis=1) * lsb * units[:, np.newaxis]
    wanted = np.clip(wanted, -_HUGE, _HUGE)
    widths = [h.size for h in read]
    if final:
        whole = fed_back(wanted, widths, stored if shared else 16, moments, arithmetic.largest)
    else:
        step, half = 1 << (arithmetic.width - stored), 1 << (stored - 1)
        whole = np.clip(np.rint(wanted / step), -half + 1, half - 1).astype(np.int64) * step
    rest = wanted - whole
    bias = (real.bias * units + rest @ moments.mean) * finer[0]
    weights = np.split(whole, np.cumsum(widths)[:-1], axis=1)
    for integers, halfword, shift, after in zip(weights, read, shifts, finer, strict=True):
        lost = integers @ halfword.offset + (0.5 * 2.0**shift if shift else 0.0)
        bias = bias + lost * (finer[0] / after)
    begin = np.rint(np.clip(bias, -_HUGE, _HUGE)).astype(np.int64)
    products = tuple(
        Product(x, integers.astype(arithmetic.integers), shift, stored)
        for (x, _), integers, shift in zip(real.sources, weights, shifts, strict=True)
    )
    rows = Rows(np.clip(begin, -LIMIT, LIMIT).astype(np.int32), products)
    first = Range(begin, begin) if start is None else start(begin)
    totals, result = accumulated(rows, operands.ranges, first)
    made = Candidate(real, rows, begin, tuple(weights), totals, result, arithmetic.largest)
    error = ((rest @ moments.damped) * rest).sum(axis=1) / units**2
    filled = np.abs(wanted).max(axis=1, initial=0.0) / arithmetic.largest
    return Fit((made,), units, error, filled, coarse.first)


def multiplied(
    fit: Fit, unit: Doubles | float, real: RealRows, arithmetic: Arithmetic
) -> Candidate:
    """The rows with multipliers that bring each to `unit` [rows or one] times the real one, lifted
    as far as that takes and the arithmetic allows.

    Raises UserError, naming the row, where one is too large for any.
    """
    ratios = fit.units / unit
    result = fit.candidate.result
    wanted = math.ceil(max(0.0, math.log2(_LEAST_RATIO / ratios.min())))
    room = int((LIMIT // (int(result.size.max()) + 1)).bit_length()) - 1
    lift = min(wanted, max(room, 0), arithmetic.most_lift)
    ratios = ratios * 2.0**lift
    if (ratios < _LEAST_RATIO).any():
        row = int(ratios.argmin())
        where = f"{real.layer} {real.part}".rstrip()
        raise UserError(
            f"{where} row {row}: its sums are {_LEAST_RATIO / ratios[row]:.3g} times what a "
            "multiplier can take back; it is provable with its weights or the ranges of what it "
            "reads so much smaller, or at 16 bits"
        )
    multipliers = np.rint(2.0**32 / ratios).astype(np.int32)
    rows = replace(fit.candidate.rows, multipliers=multipliers, lift=lift)
    raised = lifted(result, lift)
    low, high = (upper(end * multipliers) for end in (raised.low, raised.high))
    return replace(fit.candidate, rows=rows, result=Range(low, high))


def _received(real: RealRows, operands: Operands) -> Doubles | None:
    """The scale [rows] at which weights that came quantised are the integers that they were, None
    where there is none: neighbours below a weight change it, as do operands of many scales."""
    coarse = operands.coarse[real.layer]
    lsb = np.concatenate([operands.halfwords[x].lsb for x, _ in real.sources])
    if coarse.steps is None or coarse.stored < operands.arithmetic.width or (lsb != lsb[0]).any():
        return None
    scale: Doubles = 1.0 / (coarse.steps * lsb[0])
    return scale


def _best(
    at: Callable[[Sequence[int]], Trial],
    earlier: int,
    cap: Doubles,
    received: Doubles | None = None,
) -> tuple[list[int], Fit]:
    """The shifts after the `earlier` stretches that promise the least error, and the fit."""
    shifts = [0] * earlier
    for place in range(earlier):
        promised = []
        for shift in _EARLIER_SHIFTS:
            trial = at([*shifts[:place], shift, *shifts[place + 1 :]])
            error = float(trial(_start(trial, cap), False).error.sum())
            promised.append((error, shift))
            if error > _PAST * min(promised)[0]:
                break
        shifts[place] = min(promised)[1]
    trial = at(shifts)
    return shifts, _finest(trial, _start(trial, cap), received)


def _start(trial: Trial, cap: Doubles) -> Doubles:
    """The largest scale [rows] up to `cap` at which weights overfill their bits by no more than
    is worth a try, and at which rows of weights to the nearest step are proved, nearly: sums are
    all but proportional to it."""
    ones = trial(np.ones(len(cap)), False)
    most = np.minimum(cap, _OVERFILLED / np.maximum(ones.filled, _LEAST_WEIGHT))
    units = most
    for _ in range(_APPROACHES):
        units = np.minimum(most, units / np.maximum(trial(units, False).reach, _LEAST_REACH))
    return units * ones.first


def _finest(trial: Trial, start: Doubles, received: Doubles | None = None) -> Fit:
    """Each row at that scale, `received` [rows] or one from `start` [rows] down, at which it is
    proved and errs least.

    Raises UserError, naming the row, where there is none.
    """
    for factors in (_FACTORS, (*_FACTORS, *_LAST_FACTORS)):
        scales = [start * factor for factor in factors]
        scales = scales if received is None else [received, *scales]
        fit = trial(np.concatenate(scales), True)
        error = np.where(fit.fits, fit.error, np.inf).reshape(len(scales), -1)
        if np.isfinite(error).any(axis=0).all():
            best = error.argmin(axis=0)
            return trial(np.array(scales)[best, np.arange(len(start))], True)
    raise UserError(trial(scales[-1], True).refusal)


def _repeated(real: RealRows, times: int) -> RealRows:
    """The rows several times over."""
    if times == 1:
        return real
    sources = tuple((x, np.tile(w, (times, 1))) for x, w in real.sources)
    return replace(real, bias=np.tile(real.bias, times), sources=sources)


SCHEME: Scheme = replace(
    layers.SCHEME,
    tabulated=tabulated,
    per_row=per_row,
    output=output,
    candidate_rows=candidate_rows,
)
