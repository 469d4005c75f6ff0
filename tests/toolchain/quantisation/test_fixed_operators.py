"""Every operator beside layers and gated units: rewritten without loss, in integers as defined,
within its proved range, and close to the float program."""

from dataclasses import replace

import numpy as np
import pytest
from fixed_steps import Singles, fixed_step, float_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_fixed import Builder, observations

from edgerl.errors import UserError
from edgerl.toolchain import interpreter, ir, quantisation
from edgerl.toolchain.quantisation import FixedProgram, proof
from edgerl.toolchain.quantisation.program import (
    FixedArgMax,
    FixedClip,
    FixedDense,
    FixedGather,
    FixedMultiply,
)
from edgerl.toolchain.quantisation.rewriting import layer_names, prepared
from edgerl.toolchain.quantisation.support import require_supported

KINDS = ("linear", "sum", "clip", "activate", "mul", "min", "max", "dense", "gather", "history")
DRAWN = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class Operators(Builder):
    """Adds one operator to a program."""

    def add(self, kind: str, number: int, x: str) -> str:
        """The operator on x; what it makes."""
        y, size = f"{kind}_{number}", self.size(x)
        ones = np.ones(size, np.float32)
        self.tensors[y] = ir.Tensor(size)
        match kind:
            case "linear":
                scale = self.normal(size, scale=1.0) + np.sign(self.normal(size, scale=1.0))
                op: ir.Operation = ir.Linear(((x, scale),), self.normal(size, scale=0.5), y)
            case "sum":
                other = self.dense(f"{y}_other", (x,), size, "tanh")
                op = ir.Linear(((x, 0.5 * ones), (other, -ones)), 0.1 * ones, y)
            case "clip":
                low = -np.abs(self.normal(size, scale=1.0)) - np.float32(0.2)
                high = -low[::-1].copy()
                high[0] = np.inf
                op = ir.Clip(x, low, high, y)
            case "activate":
                names = ("relu", "tanh", "elu", "softplus", "abs", "hard_swish", "sin")
                op = ir.Activate(str(self.rng.choice(names)), x, y)  # type: ignore[arg-type]  # drawn from its values
            case "mul" | "min" | "max":
                other = self.dense(f"{y}_other", (x,), size, "sigmoid")
                op = ir.Binary(kind, x, other, y)
            case "gather":
                picks = tuple((0, int(j)) for j in self.rng.permutation(size))
                op = ir.Gather((x,), picks, y)
            case "history":
                before, after = f"{y}_past", f"{y}_past_next"
                self.tensors[before] = self.tensors[after] = ir.Tensor(2 * size)
                self.states.append((before, after))
                shifted = [(0, size + j) for j in range(size)] + [(1, j) for j in range(size)]
                self.operations.append(ir.Gather((before, x), tuple(shifted), after))
                w = self.normal(size, 2 * size, scale=0.4)
                op = ir.Dense(((before, w), (x, np.eye(size, dtype=np.float32))), 0.1 * ones, y)
            case _:
                return self.dense(y, (x,), int(self.rng.integers(1, 9)), None)
        self.operations.append(op)
        return y

    def finished(self, end: str, x: str) -> ir.Program:
        """The program whose action is made of x."""
        size = self.size(x)
        self.tensors["action"] = ir.Tensor(1 if end == "argmax" else size)
        ones = np.ones(size, np.float32)
        match end:
            case "argmax":
                op: ir.Operation = ir.ArgMax(x, "action")
            case "limits":
                self.dense("values", (x,), size, None)
                op = ir.Clip("values", -ones, 0.5 * ones, "action")
            case "gather":
                op = ir.Gather((x,), tuple((0, j) for j in reversed(range(size))), "action")
            case "fed back":
                self.dense("action", (x,), size, "tanh")
                self.tensors["last"] = self.tensors["last_next"] = ir.Tensor(size)
                self.states.append(("last", "last_next"))
                op = ir.Clip("action", -0.5 * ones, 0.5 * ones, "last_next")
            case _:
                op = ir.Linear(((x, 2.0 * ones),), 0.25 * ones, "action")
        self.operations.append(op)
        states, operations = tuple(self.states), tuple(self.operations)
        return ir.Program("random", "observation", "action", states, operations, self.tensors)


@st.composite
def programs(draw: st.DrawFn) -> tuple[ir.Program, int]:
    """A program of such operators, and the seed of its numbers."""
    seed = draw(st.integers(0, 2**32 - 1))
    build = Operators(np.random.default_rng(seed))
    build.tensors["observation"] = ir.Tensor(draw(st.integers(1, 8)))
    x = "observation"
    for number, kind in enumerate(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))):
        x = build.add(kind, number, x)
    end = draw(st.sampled_from(["argmax", "limits", "gather", "fed back", "linear"]))
    return build.finished(end, x), seed


def flown(program: ir.Program, seed: int) -> Singles:
    return observations(program, seed, 32, 16)


def quantised(program: ir.Program, seed: int) -> FixedProgram | None:
    """None where a product of powers, say, has outgrown int16 rows."""
    try:
        return quantisation.quantise(program, flown(program, seed))
    except UserError as refused:
        said = str(refused)
        known = ("zero on all of it", "int32 may overflow", "too steep", "int16 weights can scale")
        assert any(text in said for text in known), said
        return None


@DRAWN
@given(programs())
def test_rewriting_keeps_what_a_program_computes(drawn: tuple[ir.Program, int]) -> None:
    program, seed = drawn
    rewritten = prepared(program)
    require_supported(rewritten, 16)
    assert not any(isinstance(op, ir.Linear) for op in rewritten.operations)
    assert prepared(rewritten) is not None
    ours, theirs = float_step(rewritten), float_step(program)
    for seen in flown(program, seed)[:8]:
        expected = theirs(seen)
        off = np.abs(ours(seen) - expected)
        assert off.max() <= 1e-4 * max(1.0, float(np.abs(expected).max()))
    written = {ir.writes(op)[0] for op in rewritten.operations}
    assert written.issuperset(layer_names(program, rewritten))


@DRAWN
@given(programs())
def test_integers_stay_close_to_floats(drawn: tuple[ir.Program, int]) -> None:
    program, seed = drawn
    fixed = quantised(program, seed)
    if fixed is None:
        return
    ours, theirs = fixed_step(fixed), float_step(program)
    reach: dict[str, float] = {}
    states = interpreter.reset(program, (16,))
    worst = 0.0
    for seen in flown(program, seed):
        tensors = interpreter.trace(program, seen, states)
        states = tuple(tensors[after] for _, after in program.states)
        for name, value in tensors.items():
            reach[name] = max(reach.get(name, 0.0), float(np.abs(value).max()))
        expected = theirs(seen)
        got = ours(seen)
        if isinstance(program.operations[-1], ir.ArgMax):
            # Integers may decide otherwise only where the two best are as good as equal.
            values = tensors[program.operations[-1].x]
            picked = np.take_along_axis(values, got.astype(np.int64), axis=-1)
            off = values.max(axis=-1, keepdims=True) - picked
        else:
            off = np.abs(got - expected)
        worst = max(worst, float(off.max()))
    # A thousandth of the largest number there is at each step on the way.
    assert worst <= 2e-3 * len(program.operations) * max(1.0, *reach.values())


@DRAWN
@given(programs())
def test_all_is_as_defined_and_within_what_is_proved(drawn: tuple[ir.Program, int]) -> None:
    program, seed = drawn
    fixed = quantised(program, seed)
    if fixed is None:
        return
    assert quantisation.require_no_overflow(fixed) < 1.0
    ranges, _ = proof.propagated(fixed)
    rng = np.random.default_rng(seed)
    far = rng.choice(np.array([-np.inf, -9.0, 0.3, 1e30, np.nan]), size=(4, 16, fixed_size(fixed)))
    states = quantisation.reset(fixed, (16,))
    for seen in (*flown(program, seed)[:4], *far.astype(np.float32)):
        tensors = quantisation.trace(fixed, seen, states)
        states = tuple(tensors[after].astype(np.int32) for _, after in fixed.states)
        for name, possible in ranges.items():
            if name not in fixed.recurrent:
                assert (possible.low <= tensors[name]).all()
                assert (tensors[name] <= possible.high).all()
        for row in range(4):
            check_row(fixed, {name: value[row].tolist() for name, value in tensors.items()})


def fixed_size(fixed: FixedProgram) -> int:
    return len(fixed.operations[0].exponents)


def check_row(fixed: FixedProgram, tensors: dict[str, list[int]]) -> None:
    """The operators of one row of a step, once more in Python's own integers."""
    for op in fixed.operations:
        match op:
            case FixedClip(x, low, high, y):
                limited = zip(tensors[x], low.tolist(), high.tolist(), strict=True)
                assert tensors[y] == [min(max(v, a), b) for v, a, b in limited]
            case FixedMultiply(a, b, shift, y):
                half = (1 << shift) // 2
                products = [p * q + half for p, q in zip(tensors[a], tensors[b], strict=True)]
                assert all(-(2**31) <= p < 2**31 for p in products)
                assert tensors[y] == [min(max(p >> shift, -32768), 32767) for p in products]
            case FixedArgMax(x, y):
                assert tensors[y] == [tensors[x].index(max(tensors[x]))]
            case FixedGather(sources, picks, y):
                assert tensors[y] == [tensors[sources[k]][j] for k, j in picks]
            case FixedDense(rows, "curve", y, curve):
                table = fixed.curves[str(curve)]
                half = 1 << (table.argument_bits - 1)
                for k, start in enumerate(rows.bias.tolist()):
                    for product in rows.products:
                        terms = zip(product.weights[k].tolist(), tensors[product.x], strict=True)
                        start = start + sum(w * v for w, v in terms) >> product.shift
                    v = min(max(start, -half), half - 1)
                    word = int(table.words[(v >> 15) + len(table.words) // 2])
                    slope, offset = ((n & 0xFFFF) - ((n & 0x8000) << 1) for n in (word, v))
                    assert tensors[y][k] == word + slope * offset >> 16


@pytest.mark.parametrize("number_format", ["w16a16", "w32a32"])
def test_a_history_moves_along_without_loss(number_format: str) -> None:
    """An observation that a kept state carries is the one that was converted, to the last bit."""
    build = Operators(np.random.default_rng(0))
    build.tensors["observation"] = ir.Tensor(3)
    program = build.finished("limits", build.add("history", 0, "observation"))
    fixed = quantisation.quantise(program, flown(program, 1), number_format)
    states = quantisation.reset(fixed)
    converted = []
    for seen in flown(program, 2)[:6, 0]:
        tensors = quantisation.trace(fixed, seen, states)
        states = tuple(tensors[after].astype(np.int32) for _, after in fixed.states)
        converted.append(tensors["observation_fixed"].tolist())
        past = [[0, 0, 0], [0, 0, 0], *converted]
        assert states[0].tolist() == past[-2] + past[-1]


def test_a_state_of_two_layers_is_taken_apart() -> None:
    """Two LSTMs in one hidden and one cell state, as Isaac Lab exports them."""
    build = Operators(np.random.default_rng(0))
    for name, size in {"observation": 3, "h": 8, "c": 8, "h_next": 8, "c_next": 8}.items():
        build.tensors[name] = ir.Tensor(size)
    x = "observation"
    halves = [tuple((0, 4 * k + j) for j in range(4)) for k in (0, 1)]
    for k in (0, 1):
        for state in ("h", "c"):
            build.operations.append(ir.Gather((state,), halves[k], f"{state}{k}"))
        names = [f"{state}{k}{end}" for end in ("", "n") for state in ("h", "c")]
        build.tensors.update({name: ir.Tensor(4) for name in names})
        w = [build.normal(*shape, scale=0.6) for shape in ((16, build.size(x)), (16, 4), (16,))]
        build.operations.append(ir.Lstm(x, *names, *w))
        x = f"h{k}n"
    whole = tuple((k, j) for k in (0, 1) for j in range(4))
    for state in ("h", "c"):
        build.operations.append(ir.Gather((f"{state}0n", f"{state}1n"), whole, f"{state}_next"))
        build.states.append((state, f"{state}_next"))
    program = build.finished("limits", x)
    rewritten = prepared(program)
    assert [before for before, _ in rewritten.states] == ["h_0", "h_1", "c_0", "c_1"]
    assert not any(isinstance(op, ir.Gather) for op in rewritten.operations)
    fixed = quantisation.quantise(program, flown(program, 0))
    ours, theirs = fixed_step(fixed), float_step(program)
    assert max(np.abs(ours(seen) - theirs(seen)).max() for seen in flown(program, 0)) <= 3e-3
    assert fixed.recurrent == {name for pair in fixed.states for name in pair}


def test_the_largest_of_a_softmax_needs_no_softmax() -> None:
    build = Operators(np.random.default_rng(3))
    build.tensors["observation"] = ir.Tensor(4)
    build.tensors["chances"] = ir.Tensor(5)
    build.dense("values", ("observation",), 5, None)
    build.operations.append(ir.Softmax("values", "chances"))
    program = build.finished("argmax", "chances")
    fixed = quantisation.quantise(program, flown(program, 0))
    ours, theirs = fixed_step(fixed), float_step(program)
    for seen in flown(program, 1)[:8]:
        assert (ours(seen) == theirs(seen)).mean() > 0.98


def test_a_format_names_the_layers_that_there_were() -> None:
    """An activation apart and an action fed back change neither which layer is meant nor which
    layers are the first and the last."""
    build = Operators(np.random.default_rng(3))
    build.tensors["observation"] = ir.Tensor(4)
    build.dense("first", ("observation",), 6, "elu")
    build.dense("middle", ("first",), 6, "elu")
    program = build.finished("fed back", "middle")
    names = layer_names(program, prepared(program))
    assert sorted(names.values()) == ["action", "first", "middle"]
    fixed = quantisation.quantise(program, flown(program, 0), {"middle": "w8a16"})
    stored = {
        op.y: [product.stored for product in op.rows.products]
        for op in fixed.operations
        if isinstance(op, FixedDense)
    }
    assert stored.pop("middle") == [8]
    assert all(bits == 16 for row in stored.values() for bits in row)


def test_too_many_elements_for_a_diagonal_matrix() -> None:
    ones = np.ones(4096, np.float32)
    tensors = {name: ir.Tensor(4096) for name in ("observation", "h", "action")}
    operations = (
        ir.Activate("tanh", "observation", "h"),
        ir.Linear((("h", ones), ("observation", ones)), ones, "action"),
    )
    program = ir.Program("wide", "observation", "action", (), operations, tensors)
    with pytest.raises(UserError, match="element-wise operation on 4096 elements"):
        quantisation.quantise(replace(program), np.zeros((128, 4096), np.float32))
