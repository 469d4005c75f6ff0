"""Random programs in integers: never an overflow where proved, and each operation as close to
real arithmetic on its own operands as its rounding allows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from fixed_steps import Singles
from hypothesis import HealthCheck, given, settings
from random_fixed import observations, programs

from edgerl.errors import UserError
from edgerl.toolchain import interpreter, quantisation
from edgerl.toolchain.ir import Dense, Gru, Lstm, Program, Tensor
from edgerl.toolchain.quantisation import FixedProgram, proof
from edgerl.toolchain.quantisation.program import FixedDense, FixedGru, FixedLstm, Rows

Doubles = npt.NDArray[np.float64]
DRAWN = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def quantised(program: Program, seed: int) -> FixedProgram:
    return quantisation.quantise(program, observations(program, seed, 40, 8))


def corners(program: Program, seed: int) -> Singles:
    """Every element as far out as can be, in many combinations, and whole of nothing."""
    rng = np.random.default_rng(seed)
    n = program.size(program.observation)
    far = rng.choice(np.array([-np.inf, -1e30, -7.9, 7.9, 1e30, np.inf, np.nan]), size=(20, 64, n))
    far[:, 0], far[:, 1], far[:, 2] = np.inf, -np.inf, np.nan
    return far.astype(np.float32)


@DRAWN
@given(programs())
def test_nothing_leaves_int32_at_the_corners(drawn: tuple[Program, int]) -> None:
    program, seed = drawn
    try:
        fixed = quantised(program, seed)
    except UserError as refused:
        assert "is zero on all of it" in str(refused)
        return
    assert quantisation.require_no_overflow(fixed) < 1.0
    cells = {op.c for op in program.operations if isinstance(op, Lstm)}
    hidden = proof.state_reach(fixed.table)
    reaches = [2**29 - 1 if before in cells else hidden for before, _ in program.states]
    rng = np.random.default_rng(seed)
    states = tuple(
        rng.choice([-reach, 0, reach], size=(64, program.size(before)))
        for reach, (before, _) in zip(reaches, program.states, strict=True)
    )
    for seen in corners(program, seed):
        action, states = quantisation.run(fixed, seen, states)
        assert np.isfinite(action).all()
        for state, reach in zip(states, reaches, strict=True):
            assert -reach - 1 <= state.min() and state.max() <= reach


def test_the_reset_gate_is_bounded_and_hardly_more() -> None:
    rng = np.random.default_rng(0)
    ends = np.sort(rng.integers(-(2**31), 2**31, size=(2, 4096)), axis=0)
    bias = rng.integers(-(2**20), 2**20, size=4096)
    bound = proof.reset_applied(bias, proof.Range(ends[0], ends[1]))
    edge = (1 << 30) - 1
    sums = []
    for t in (-edge, 0, edge):
        for hidden in ends:
            first = bias + (hidden >> 2)
            sums.append(first + (t * hidden >> 32))
            assert (bound.low <= first).all() and (first <= bound.high).all()
    least, most = np.min(sums, axis=0), np.max(sums, axis=0)
    assert (bound.low <= least).all() and (most <= bound.high).all()
    assert (bound.low >= np.minimum(least, bias) - 3).all()
    assert (bound.high <= np.maximum(most, bias) + 3).all()


@DRAWN
@given(programs())
def test_the_bound_of_the_first_layer_is_met_exactly(drawn: tuple[Program, int]) -> None:
    """Each row's worst observation gives what the proof says: not less, and not more."""
    program, seed = drawn
    program = replace(program, operations=(_head(program),), states=(), action="action")
    fixed = quantised(program, seed)
    (layer,) = (op for op in fixed.operations if isinstance(op, FixedDense))
    (stretch,) = quantisation.stretches(fixed)
    weights = layer.rows.products[0].weights.astype(np.int64)
    most = np.where(weights > 0, np.inf, -np.inf)
    for rows, expected in ((most, stretch.total.high), (-most, stretch.total.low)):
        seen = quantisation.trace(fixed, rows, ())[layer.rows.products[0].x]
        assert np.array_equal((weights * seen).sum(axis=1) + layer.rows.bias, expected)


def _head(program: Program) -> Dense:
    """A layer from the observation to the action with the program's sizes."""
    rng = np.random.default_rng(program.size("action"))
    shape = (program.size("action"), program.size("observation"))
    w = rng.normal(size=shape).astype(np.float32)
    return Dense(((program.observation, w),), w[:, 0], "action", None)


@DRAWN
@given(programs())
def test_each_operation_is_as_close_as_its_rounding_allows(drawn: tuple[Program, int]) -> None:
    program, seed = drawn
    try:
        fixed = quantised(program, seed)
    except UserError:
        return
    values = observations(program, seed, 12, 32)
    states = quantisation.reset(fixed, (32,))
    for seen in values:
        tensors = quantisation.trace(fixed, seen, states)
        states = tuple(tensors[after].astype(np.int32) for _, after in program.states)
        real = {name: _real(fixed, tensors, name) for name in fixed.halfwords}
        real[program.observation] = real[f"{program.observation}_fixed"]
        for operation in program.operations:
            if isinstance(operation, Dense):
                _check_dense(program, fixed, operation, tensors, real)
            elif isinstance(operation, Gru):
                _check_gru(fixed, operation, tensors, real)
            elif isinstance(operation, Lstm):
                _check_lstm(fixed, operation, tensors, real)


def _real(fixed: FixedProgram, tensors: dict[str, npt.NDArray], name: str) -> Doubles:
    """The numbers that an int16 vector stands for."""
    halfword = fixed.halfwords[name]
    shift = 30 - halfword.bits if name in {n for pair in fixed.states for n in pair} else 0
    value: Doubles = ((tensors[name] >> shift) + halfword.offset) * halfword.lsb
    return value


def _rounding(rows: Rows, fixed: FixedProgram, tensors: dict[str, npt.NDArray]) -> Doubles:
    """The most that a row's result, in its own units, is off by: half a unit for each weight
    times its operand, and for the bias; up to one for each shift."""
    shifts = [product.shift for product in rows.products]
    off: Doubles = np.zeros(1) + 0.5 * 2.0 ** -sum(shifts)
    for k, product in enumerate(rows.products):
        after = 2.0 ** -sum(shifts[k:])
        read = np.abs(_real(fixed, tensors, product.x) / fixed.halfwords[product.x].lsb)
        off = off + 0.5 * read.sum(axis=-1, keepdims=True) * after
        off = off + 0.5 * 2.0 ** -sum(shifts[k + 1 :])
    return off


def _check_dense(
    program: Program,
    fixed: FixedProgram,
    operation: Dense,
    tensors: dict[str, npt.NDArray],
    real: dict[str, Doubles],
) -> None:
    is_action = operation.y == program.action
    written = f"{operation.y}_fixed" if is_action else operation.y
    layer = next(op for op in fixed.operations if isinstance(op, FixedDense) and op.y == written)
    wanted = operation.bias.astype(np.float64) + np.zeros((32, 1))
    for x, w in operation.sources:
        wanted = wanted + real[x] @ w.T.astype(np.float64)
    off = _rounding(layer.rows, fixed, tensors)
    table = fixed.table
    if operation.activation in ("tanh", "sigmoid"):
        share = 0.5 if operation.activation == "sigmoid" else 1.0
        off = share * (table.error + off / table.scale)
        off = off + (0.0 if is_action else 2.0 ** -fixed.halfwords[operation.y].bits)
        got = tensors[operation.y] if is_action else real[operation.y]
        inside = np.ones(wanted.shape, bool)
    elif is_action:
        exponent = next(op.exponent for op in fixed.operations if hasattr(op, "exponent"))
        got = tensors[operation.y]
        off = off * 2.0**-exponent + np.abs(got) * 2.0**-23
        inside = np.ones(wanted.shape, bool)
    else:
        got = real[operation.y]
        off = off * fixed.halfwords[operation.y].lsb
        inside = np.abs(tensors[operation.y]) < (1 << fixed.halfwords[operation.y].bits - 1) - 1
    if operation.activation is not None:
        wanted = interpreter.activate(operation.activation, wanted)
    excess = np.abs(got - wanted) - off * (1.0 + 1e-9) - 1e-9
    assert excess[inside].max(initial=-1.0) <= 0.0


def _check_gru(
    fixed: FixedProgram,
    operation: Gru,
    tensors: dict[str, npt.NDArray],
    real: dict[str, Doubles],
) -> None:
    unit = next(
        op for op in fixed.operations if isinstance(op, FixedGru) and op.h_next == operation.h_next
    )
    table, scale = fixed.table, fixed.table.scale
    x, h = real[operation.x], real[operation.h]
    from_x = np.split(x @ operation.w_input.T.astype(np.float64) + operation.b_input, 3, axis=-1)
    from_h = np.split(h @ operation.w_hidden.T.astype(np.float64) + operation.b_hidden, 3, axis=-1)
    r, z = (interpreter.activate("sigmoid", from_x[k] + from_h[k]) for k in (0, 1))
    n = np.tanh(from_x[2] + r * from_h[2])
    state = tensors[operation.h] * 2.0**-29
    wanted = n + z * (state - n)
    off_r, off_z = (
        0.5 * (table.error + _rounding(rows, fixed, tensors) / scale)
        for rows in (unit.reset, unit.update)
    )
    shift = unit.candidate.products[0].shift
    off_hidden = _rounding(unit.hidden, fixed, tensors) / (scale * 2.0 ** (shift + 1))
    off_sum = (_rounding(unit.candidate, fixed, tensors) + 2.0 * 2.0**-shift) / scale
    off_n = table.error + off_sum + off_hidden + (np.abs(from_h[2]) + off_hidden) * off_r
    off = off_n + (np.abs(state - n) + off_n) * off_z + 2.0**-28
    excess = np.abs(tensors[operation.h_next] * 2.0**-29 - wanted) - off
    assert excess.max() <= 0.0


def _check_lstm(
    fixed: FixedProgram,
    operation: Lstm,
    tensors: dict[str, npt.NDArray],
    real: dict[str, Doubles],
) -> None:
    unit = next(
        op for op in fixed.operations if isinstance(op, FixedLstm) and op.h_next == operation.h_next
    )
    table, lsb = fixed.table, 2.0 ** -(29 - unit.shift)
    total = real[operation.x] @ operation.w_input.T.astype(np.float64) + operation.bias
    total = total + real[operation.h] @ operation.w_hidden.T.astype(np.float64)
    gates = np.split(total, 4, axis=-1)
    i, f, o = (interpreter.activate("sigmoid", gates[k]) for k in (0, 1, 3))
    g, c = np.tanh(gates[2]), tensors[operation.c] * lsb
    off_i, off_f, off_g, off_o = (
        share * (table.error + _rounding(rows, fixed, tensors) / table.scale)
        for share, rows in (
            (0.5, unit.input),
            (0.5, unit.forget),
            (1, unit.new),
            (0.5, unit.output),
        )
    )
    off = np.abs(c) * off_f + off_i * (np.abs(g) + off_g) + i * off_g + 2.0 * lsb
    got = tensors[operation.c_next]
    inside = (got > -(2**29)) & (got < 2**29 - 1)
    excess = np.abs(got * lsb - (f * c + i * g)) - off
    assert excess[inside].max(initial=-1.0) <= 0.0
    cell = np.tanh(got * lsb)
    # The factor has half a unit of its own, over cells of 2^29 units.
    argument = (1.0 + 2.0**-4) / table.scale
    off_h = off_o + (o + off_o) * (table.error + argument) + 2.0**-28
    assert (np.abs(tensors[operation.h_next] * 2.0**-29 - o * cell) - off_h).max() <= 0.0


@pytest.mark.parametrize("part", ["reset", "update", "hidden", "candidate"])
def test_a_row_that_may_overflow_is_named(part: str) -> None:
    rng = np.random.default_rng(3)
    shapes = ((12, 3), (12, 4), (12,), (12,))
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    gru = Gru("observation", "h", "h_next", *arrays)
    head = Dense((("h_next", arrays[1][:2]),), arrays[2][:2], "action")
    tensors = {"observation": 3, "h": 4, "h_next": 4, "action": 2}
    program = Program(
        "unit",
        "observation",
        "action",
        (("h", "h_next"),),
        (gru, head),
        {name: Tensor(size) for name, size in tensors.items()},
    )
    fixed = quantised(program, 5)
    unit = next(op for op in fixed.operations if isinstance(op, FixedGru))
    rows: Rows = getattr(unit, part)
    bias = rows.bias.copy()
    bias[2] = 2**31 - 1 if rows.bias[2] > 0 else -(2**31) + 1
    worse = replace(unit, **{part: replace(rows, bias=bias)})
    operations = tuple(worse if op is unit else op for op in fixed.operations)
    with pytest.raises(UserError, match=f"h_next {part} row 2: .*smaller"):
        quantisation.require_no_overflow(replace(fixed, operations=operations))
