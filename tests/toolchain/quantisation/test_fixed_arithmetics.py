"""The arithmetics of 32 and 8 bits: proved at the corners, as exact as floats or as 8 bits are, and
a state that never stalls."""

import numpy as np
import pytest
from fixed_steps import Singles, difference, fixed_step, float_step
from hypothesis import HealthCheck, given, settings
from quantised import Quantised
from random_fixed import observations, programs

from edgerl.errors import UserError
from edgerl.policies.plants import Hover, fly
from edgerl.toolchain import golden, interpreter, quantisation
from edgerl.toolchain.ir import Dense, Gru, Lstm, Program, Tensor
from edgerl.toolchain.quantisation import FixedProgram, proof
from edgerl.toolchain.quantisation.cubic import cubic_table
from edgerl.toolchain.quantisation.program import FixedDense

WIDTHS = {"w32a32": 32, "w8a8": 8}
DRAWN = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("index_bits", range(5, 10))
def test_a_cubic_table_keeps_its_error_and_its_range(index_bits: int) -> None:
    table = cubic_table(index_bits)
    rng = np.random.default_rng(index_bits)
    cells = np.arange(-(1 << index_bits - 1), (1 << index_bits - 1) + 1) << 32 - index_bits
    v = np.concatenate([rng.integers(-(1 << 31), 1 << 31, 1 << 18), cells, cells - 1])
    v = v[(v >= -(1 << 31)) & (v < 1 << 31)]
    y = table.look_up(v)
    assert np.abs(y * 2.0**-30 - np.tanh(v / table.scale)).max() <= table.error
    assert max(1.0 - y.max() * 2.0**-30, 1.0 + y.min() * 2.0**-30) <= table.error
    assert table.ends[0] <= y.min() and y.max() <= table.ends[1]
    assert table.ends[0] > -(1 << 30) and table.ends[1] < 1 << 30


def test_cubic_tables_improve_to_what_their_values_can_hold() -> None:
    errors = [cubic_table(bits).error for bits in range(5, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 3e-7 and errors[3] < 4e-8
    for bits in (4, 10):
        with pytest.raises(ValueError, match="cells"):
            cubic_table(bits)


def corners(program: Program, seed: int) -> Singles:
    """Every element as far out as can be, in many combinations, and whole of nothing."""
    rng = np.random.default_rng(seed)
    n = program.size(program.observation)
    far = rng.choice(np.array([-np.inf, -1e30, -7.9, 7.9, 1e30, np.inf, np.nan]), size=(12, 64, n))
    far[:, 0], far[:, 1], far[:, 2] = np.inf, -np.inf, np.nan
    return far.astype(np.float32)


@pytest.mark.parametrize("number_format", WIDTHS)
@DRAWN
@given(drawn=programs())
def test_nothing_leaves_int32_at_the_corners(
    number_format: str, drawn: tuple[Program, int]
) -> None:
    program, seed = drawn
    try:
        fixed = quantisation.quantise(program, observations(program, seed, 40, 8), number_format)
    except UserError as refused:
        assert "is zero on all of it" in str(refused)
        return
    assert fixed.width == WIDTHS[number_format]
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


@pytest.mark.parametrize("number_format", WIDTHS)
def test_the_bound_of_the_first_layer_is_met_exactly(number_format: str) -> None:
    rng = np.random.default_rng(1)
    w = rng.normal(size=(5, 9)).astype(np.float32)
    fixed = quantised_layers((Dense((("observation", w),), w[:, 0], "action"),), 9, number_format)
    (layer,) = (op for op in fixed.operations if isinstance(op, FixedDense))
    (product,) = layer.rows.products
    (stretch,) = quantisation.stretches(fixed)
    weights = product.weights.astype(np.int64)
    most = np.where(weights > 0, np.inf, -np.inf)
    for rows, expected in ((most, stretch.total.high), (-most, stretch.total.low)):
        seen = quantisation.trace(fixed, rows, ())[product.x]
        each = weights * seen
        each = each + (1 << 31) >> 32 if product.stored == 32 else each
        assert np.array_equal(each.sum(axis=1) + layer.rows.bias, expected)


def quantised_layers(layers: tuple[Dense, ...], inputs: int, number_format: str) -> FixedProgram:
    tensors = {"observation": Tensor(inputs)} | {op.y: Tensor(len(op.bias)) for op in layers}
    program = Program("net", "observation", "action", (), layers, tensors)
    seen = np.random.default_rng(0).normal(size=(512, inputs)).astype(np.float32)
    return quantisation.quantise(program, seen, number_format)


def perceptron(*sizes: int) -> Program:
    """Layers of these sizes with tanh; weights N(0, 1) over the root of the inputs."""
    rng = np.random.default_rng(7)
    names = ["observation", *(f"layer_{k}" for k in range(len(sizes) - 2)), "action"]
    layers = []
    for x, y, columns, rows in zip(names, names[1:], sizes, sizes[1:], strict=False):
        w = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        bias = (0.1 * rng.standard_normal(rows)).astype(np.float32)
        layers.append(Dense(((x, w),), bias, y, "tanh"))
    tensors = {name: Tensor(size) for name, size in zip(names, sizes, strict=True)}
    return Program("mlp", "observation", "action", (), tuple(layers), tensors)


@pytest.mark.parametrize(("number_format", "most"), [("w32a32", 3e-7), ("w8a8", 6e-2)])
def test_a_perceptron_is_as_close_as_its_bits_allow(number_format: str, most: float) -> None:
    program = perceptron(22, 64, 64, 4)
    seen = np.random.default_rng(8).standard_normal((3000, 22)).astype(np.float32)
    fixed = quantisation.quantise(program, seen[:1000], number_format)
    ours, _ = quantisation.run(fixed, seen[1000:], ())
    theirs, _ = interpreter.run(program, seen[1000:], ())
    assert np.abs(ours - theirs).max() <= most


@DRAWN
@given(programs())
def test_32_bits_are_as_close_as_floats(drawn: tuple[Program, int]) -> None:
    """Within a few times what single precision errs on the same observations."""
    program, seed = drawn
    seen = observations(program, seed, 40, 8)
    try:
        fixed = quantisation.quantise(program, seen, "w32a32")
    except UserError:
        return
    ours = quantisation.reset(fixed, (8,))
    wanted, singles = (interpreter.reset(program, (8,)) for _ in range(2))
    off, theirs = 0.0, 0.0
    for step in seen[:15]:
        action, ours = quantisation.run(fixed, step, ours)
        exact, wanted = interpreter.run(program, step, wanted)
        single, singles = interpreter.run(program, step, singles, np.float32)
        off = max(off, float(np.abs(action - exact).max()))
        theirs = max(theirs, float(np.abs(single - exact).max()))
    assert off <= 16.0 * theirs + 2e-6


@pytest.fixture(scope="module", params=list(WIDTHS))
def narrowed(request: pytest.FixtureRequest, raptor: Quantised) -> FixedProgram:
    """RAPTOR in either arithmetic, calibrated on flights."""
    spec = raptor.policy.spec
    return quantisation.quantise(raptor.program, raptor.flown[:300, :64], request.param, spec=spec)


def test_raptor_on_its_published_vectors(raptor: Quantised) -> None:
    trace, _ = golden.inputs(raptor.policy, "evaluate")
    seen, spec = (raptor.flown[:300, :64], trace[:2048]), raptor.policy.spec
    fixed = quantisation.quantise(raptor.program, seen, "w32a32", spec=spec)
    examples = raptor.policy.examples
    assert examples is not None
    assert difference(raptor.program, fixed, examples.observations).max() <= 1e-6
    step = fixed_step(fixed)
    given = np.stack([step(seen) for seen in examples.observations])
    assert np.abs(given - examples.actions).max() <= 1e-6


def test_raptor_does_not_drift(raptor: Quantised, narrowed: FixedProgram) -> None:
    held = np.repeat(raptor.flown[100:160:3, :8], 40, axis=0)
    errors = difference(raptor.program, narrowed, held)
    most = {"w32a32": 2e-6, "w8a8": 0.4}[narrowed.number_format]
    assert errors.max() <= most
    halves = errors.reshape(2, -1).max(axis=1)
    assert halves[1] <= 1.5 * halves[0]


def test_raptor_flies(raptor: Quantised, narrowed: FixedProgram) -> None:
    suite = Hover(episodes=128)
    ours = fly(suite, fixed_step(narrowed), feedback="clamped").metrics
    theirs = fly(suite, float_step(raptor.program), feedback="clamped").metrics
    assert abs(ours["survival"] - theirs["survival"]) <= 0.016
    assert ours["final_error_mean"] <= theirs["final_error_mean"] + 0.005


@pytest.mark.parametrize("number_format", WIDTHS)
@pytest.mark.parametrize("target", [-0.6, 0.3])
def test_a_state_never_stalls(number_format: str, target: float) -> None:
    """A slow unit arrives where it is going from wherever it starts."""
    zero = np.zeros((3, 1), np.float32)
    bias = np.array([0.0, 5.0, np.arctanh(target)], np.float32)
    gru = Gru("observation", "h", "h_next", zero, zero, bias, np.zeros(3, np.float32))
    head = Dense((("h_next", np.ones((1, 1), np.float32)),), np.zeros(1, np.float32), "action")
    tensors = {name: Tensor(1) for name in ("observation", "h", "h_next", "action")}
    program = Program("unit", "observation", "action", (("h", "h_next"),), (gru, head), tensors)
    noise = np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    fixed = quantisation.quantise(program, noise, number_format)
    starts = np.linspace(-1.0, 1.0, 17)[:, np.newaxis] * (2**29 - 2**16)
    states: tuple[np.ndarray, ...] = (starts.astype(np.int32),)
    for _ in range(2800):
        _, states = quantisation.run(fixed, np.zeros((17, 1), np.float32), states)
    share = 1.0 / (1.0 + np.exp(5.0))
    assert np.ptp(states[0]) <= 4.0 / share
    assert np.abs(states[0] * 2.0**-29 - target).max() <= 4.0 * fixed.table.error + 1e-6


def test_what_is_never_negative_uses_all_8_bits() -> None:
    rng = np.random.default_rng(2)
    first, last = (rng.normal(size=(6, 6)).astype(np.float32) for _ in range(2))
    zero = np.zeros(6, np.float32)
    for activation in ("relu", "sigmoid"):
        layers = (
            Dense((("observation", first),), zero, "hidden", activation),  # type: ignore[arg-type]  # one of its values
            Dense((("hidden", last),), zero, "action"),
        )
        fixed = quantised_layers(layers, 6, "w8a8")
        seen = np.random.default_rng(3).normal(size=(4096, 6))
        hidden = quantisation.trace(fixed, seen, ())["hidden"]
        assert hidden.min() <= -120 and hidden.max() >= 100
        read = fixed.halfwords["hidden"]
        real = (hidden + read.offset) * read.lsb
        exact = interpreter.activate(activation, seen @ first.T.astype(np.float64))  # type: ignore[arg-type]  # as above
        assert real.min() >= -0.01 and np.abs(real - exact).mean() <= 0.05
