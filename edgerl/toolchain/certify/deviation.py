"""Deviation: how far one step of a fixed program can be from the real numbers it stands for.

Both sides begin with the same observation, anywhere in the spec's ranges, and the same state,
anything that the integers can hold. Every rounding, every weight's error times what it multiplies
and every table's error is an unknown of its own (`affine.py`); matrices carry unknowns on exactly,
activations by the least and the largest slope on the interval that they are used on. What a sum
rounds down and what its bias makes up for meet in the centres of the forms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import ir
from edgerl.toolchain.certify.affine import Doubles, Form, exact
from edgerl.toolchain.certify.losses import Losses, Real, gain, uncovered
from edgerl.toolchain.quantisation.arithmetic import curve_shift, sigmoid_shift
from edgerl.toolchain.quantisation.program import (
    STATE_FRACTION,
    FixedDense,
    FixedGather,
    FixedGru,
    FixedInput,
    FixedLstm,
    FixedOperation,
    FixedOutput,
    FixedProgram,
)
from edgerl.toolchain.quantisation.proof import Range, accumulated, at, reset_applied

# An int32 as float32, to nearest.
_SINGLE = 2.0**-24
_STATE = 2.0**-STATE_FRACTION
_HALF = 0.5

# The forms that a layer of each function may have.
_FORMS: Mapping[str, tuple[str, ...]] = {
    "signed": ("signed", "wide"),
    "relu": ("relu", "signed", "wide_relu"),
    "tanh": ("tanh", "wide_tanh"),
    "sigmoid": ("sigmoid", "tanh", "wide_sigmoid"),
}
_CURVES = ("tanh", "sigmoid")


@dataclass(frozen=True)
class Deviation:
    """Bounds on |integers - real numbers| after one step: of the action [m], and of each next
    state [k] by name. `limited` are the layers whose rows may exceed what their bits hold."""

    action: Doubles
    states: Mapping[str, Doubles]
    limited: tuple[str, ...] = ()


def deviation(program: ir.Program, fixed: FixedProgram, spec: PolicySpec) -> Deviation:
    """Bound the error of one step of `fixed` against `program` in exact arithmetic.

    Raises UserError, naming the operation, for what the analysis does not cover.
    """
    losses = Losses(program, fixed, spec)
    for operation in fixed.operations:
        _perform(losses, operation)
    errors = {**losses.packed, **losses.whole}
    states = {after: _bound(errors[after]) for _, after in fixed.states}
    return Deviation(_bound(losses.whole[fixed.action]), states, tuple(losses.limited))


def _bound(error: Form) -> Doubles:
    return error.size * (1.0 + 2.0**-30)


def _perform(losses: Losses, operation: FixedOperation) -> None:
    """Bound the error of what one operation writes."""
    match operation:
        case FixedInput():
            losses.packed[operation.y] = _converted(losses, operation)
        case FixedDense():
            _dense(losses, operation)
        case FixedGru():
            _gru(losses, operation)
        case FixedLstm():
            _lstm(losses, operation)
        case FixedGather(sources, picks, y):
            losses.packed[y] = _gathered(losses, sources, picks)
        case FixedOutput(x, exponent, y):
            ends = losses.integers[x].size.astype(np.float64) * (_SINGLE * 2.0**-exponent)
            losses.whole[y] = losses.whole[x].plus(losses.unknowns.within(-ends, ends))
        case _:
            raise uncovered(type(operation).__name__, operation.y)


def _converted(losses: Losses, entry: FixedInput) -> Form:
    """Rounded towards zero or to nearest, and saturated."""
    lsb = 2.0 ** -np.array(entry.exponents, np.float64)
    low, high = (end / lsb for end in losses.real[entry.x])
    half = 1 << (losses.fixed.halfwords[entry.y].bits - 1)
    most = _HALF + 2.0**-entry.guard if entry.guard else 1.0
    least = np.minimum(-most, half - 1 - high)
    return losses.unknowns.within(least * lsb, np.maximum(most, -half - low) * lsb)


def _gathered(losses: Losses, sources: tuple[str, ...], picks: tuple[tuple[int, int], ...]) -> Form:
    total = exact(len(picks))
    for number, x in enumerate(sources):
        chosen = np.zeros((len(picks), losses.fixed.halfwords[x].size))
        for i, (k, j) in enumerate(picks):
            if k == number:
                chosen[i, j] = 1.0
        total = total.plus(losses.packed[x].under(chosen))
    return total


def _dense(losses: Losses, op: FixedDense) -> None:
    """A layer, as an int32 vector that leaves or as a vector that matrices read."""
    real, activation = _layer(losses, losses.named.get(op.y, op.y))
    wide = op.form.startswith("wide")
    function = activation or "signed"
    scale = losses.fixed.table.scale
    if op.form not in _FORMS.get(function, ()):
        raise uncovered(f"form {op.form} for activation {activation}", op.y)
    if function in _CURVES:
        unit = np.full(op.rows.size, scale if function == "tanh" else _HALF * scale)
        error, span = losses.summed(op.rows, real, unit, op.y), losses.span(real)
        error, _ = losses.tanh(error, span) if function == "tanh" else losses.sigmoid(error, span)
        if not wide:
            losses.packed[op.y] = error.plus(_shortened(losses, op, function))
    elif wide:
        unit = np.full(op.rows.size, 2.0 ** losses.exponents[op.y])
        error, span = losses.summed(op.rows, real, unit, op.y), losses.span(real)
        error = losses.rectified(error, span) if function == "relu" else error
    else:
        losses.packed[op.y] = _limited_layer(losses, op, real, function)
    if wide:
        losses.whole[op.y] = error


def _shortened(losses: Losses, op: FixedDense, function: str) -> Form:
    """The lower bits that a table's value loses. Where a sigmoid is kept around its middle the
    other half is in the offset."""
    read = losses.fixed.halfwords[op.y]
    shift = sigmoid_shift(read.bits) if op.form == "sigmoid" else curve_shift(read.bits)
    centred = function == "sigmoid" and op.form == "tanh"
    middle = 2.0 ** (read.bits - 1) if centred else 0.0
    return losses.floored(shift, read.lsb, read.offset - middle)


def _limited_layer(losses: Losses, op: FixedDense, real: Real, function: str) -> Form:
    """A layer of its own scales. Where a rectified one is kept around its middle, the least
    integer is its zero."""
    read = losses.fixed.halfwords[op.y]
    weights, bias = real
    shifted = weights, bias - read.offset * read.lsb
    error = losses.summed(op.rows, shifted, 1.0 / read.lsb, op.y)
    least = -(1 << (read.bits - 1))
    if function == "relu":
        least = 0 if op.form == "relu" else least
        if (read.offset != -least).any():
            raise uncovered("a rectified layer that is not limited at its zero", op.y)
    error = error.plus(_saturated(losses, op, least if function == "relu" else None))
    return losses.rectified(error, losses.span(real)) if function == "relu" else error


def _layer(losses: Losses, name: str) -> tuple[Real, str | None]:
    """The real rows and the activation of what writes a tensor."""
    op = losses.written.get(name)
    match op:
        case ir.Dense():
            return losses.rows(op.sources, op.bias), op.activation
        case ir.Linear(terms, bias):
            return losses.rows(tuple((x, np.diag(scale)) for x, scale in terms), bias), None
        case _:
            raise uncovered("a layer that the policy does not have", name)


def _saturated(losses: Losses, op: FixedDense, zero: int | None) -> Form:
    """What limiting a result to its bits takes from it; nothing below `zero` is asked for."""
    read, rows, lift = losses.fixed.halfwords[op.y], op.rows, 0
    if rows.multipliers is None:
        # At once with the lift: in its units.
        rows, lift = replace(rows, lift=0), rows.lift
    result = accumulated(rows, losses.integers, at(rows))[1]
    if zero is not None:
        low, high = (np.maximum(end, zero >> lift) for end in (result.low, result.high))
        result = Range(low, high)
    lost = losses.held(result, read.bits - lift, read.lsb * 2.0**lift)
    if lost.size.any():
        losses.limited.append(op.y)
    return lost


def _gru(losses: Losses, op: FixedGru) -> None:
    real = losses.written.get(op.h_next)
    if not isinstance(real, ir.Gru):
        raise uncovered("a gated unit that the policy does not have", op.h_next)
    where, scale = op.h_next, losses.fixed.table.scale
    (wr, wz, wn), (ur, uz, un) = (np.split(w, 3) for w in (real.w_input, real.w_hidden))
    b, c = (np.split(v.astype(np.float64), 3) for v in (real.b_input, real.b_hidden))
    opened = losses.rows(((real.h, ur), (real.x, wr)), b[0] + c[0])
    replaced = losses.rows(((real.h, -uz), (real.x, -wz)), -(b[1] + c[1]))
    r, r_ends = losses.share(op.reset, opened, where)
    s, s_ends = losses.share(op.update, replaced, where)
    # Accumulated before the candidate's shifts, `hidden` at twice the scale.
    left = sum(product.shift for product in op.candidate.products)
    finer = scale * 2.0**left / gain(op.candidate)
    inner, outer = losses.rows(((real.h, un),), c[2]), losses.rows(((real.x, wn),), b[2])
    q, q_ends = losses.summed(op.hidden, inner, 2.0 * finer, where), losses.span(inner)
    past = losses.product(r, r_ends, q, q_ends)
    lost = -(0.75 + 1.0) / finer
    gated = past.plus(losses.unknowns.within(lost, 0.0 * lost))
    past_integers = accumulated(op.hidden, losses.integers, at(op.hidden))[1]
    start = reset_applied(op.candidate.bias.astype(np.int64), past_integers)
    unit = np.full(op.candidate.size, scale)
    error = losses.summed(op.candidate, outer, unit, where, start).plus(gated)
    corners = [a * x for a in r_ends for x in q_ends]
    plain = losses.span(outer)
    span = plain[0] + np.min(corners, axis=0), plain[1] + np.max(corners, axis=0)
    n, n_ends = losses.tanh(error, span)
    h, h_ends = losses.whole[op.h], losses.state_range(op.h)
    distance = n_ends[0] - h_ends[1], n_ends[1] - h_ends[0]
    moved = losses.product(s, s_ends, n.plus(h.times(np.full(len(lost), -1.0))), distance)
    rounding = np.full(len(lost), _HALF * _STATE)
    h_next = h.plus(moved).plus(losses.unknowns.within(-rounding, rounding))
    # Both sides stay between the state and the candidate, which tanh gave.
    most = 2.0 * (np.maximum(np.maximum(-h_ends[0], h_ends[1]), 1.0) + rounding)
    losses.pack(where, losses.unknowns.capped(h_next, -most, most))


def _lstm(losses: Losses, op: FixedLstm) -> None:
    real = losses.written.get(op.h_next)
    if not isinstance(real, ir.Lstm):
        raise uncovered("an LSTM that the policy does not have", op.h_next)
    where, size, scale = op.h_next, op.input.size, losses.fixed.table.scale
    parts = zip(*(np.split(v, 4) for v in (real.w_hidden, real.w_input, real.bias)), strict=True)
    sums = [losses.rows(((real.h, u), (real.x, w)), bias) for u, w, bias in parts]
    i, i_ends = losses.share(op.input, sums[0], where)
    f, f_ends = losses.share(op.forget, sums[1], where)
    o, o_ends = losses.share(op.output, sums[3], where)
    unit = np.full(size, scale)
    g, g_ends = losses.tanh(losses.summed(op.new, sums[2], unit, where), losses.span(sums[2]))
    c, c_ends = losses.whole[op.c], losses.state_range(op.c)
    fraction = STATE_FRACTION - op.shift
    cell = 2.0**-fraction
    kept, added = losses.product(f, f_ends, c, c_ends), losses.product(i, i_ends, g, g_ends)
    lost = np.full(size, cell)
    # Both products to nearest, and the new one's shift, which rounds down.
    down = _HALF + _HALF * 0.5**op.shift + (1.0 if op.shift else 0.0)
    rounding = losses.unknowns.within(-down * lost, lost)
    c_next = kept.plus(added).plus(rounding)
    ends = [a * x for a in f_ends for x in c_ends], [a * x for a in i_ends for x in g_ends]
    low, high = (sum(pick(e, axis=0) for e in ends) for pick in (np.min, np.max))
    limit = 2.0 ** (29 - fraction)
    over, under = (
        np.maximum(x - limit + cell, 0.0) for x in (high + c_next.high, -low - c_next.low)
    )
    c_next = c_next.plus(losses.unknowns.within(-over, under))
    losses.pack(op.c_next, c_next)
    factor = 2.0 ** (fraction + op.lift - 32) * op.factor / scale
    most = np.maximum(np.abs(low), np.abs(high)) * abs(factor - 1.0)
    most = most + _HALF * 2.0**op.lift / scale
    argument = c_next.times(np.full(size, factor)).plus(losses.unknowns.within(-most, most))
    t, t_ends = losses.tanh(argument, (np.asarray(low), np.asarray(high)))
    below = np.full(size, -_STATE)
    h_next = losses.product(o, o_ends, t, t_ends).plus(losses.unknowns.within(below, 0.0 * below))
    losses.pack(where, h_next)
