"""Passes over hand-made programs."""

from dataclasses import replace

import numpy as np

from edgerl.toolchain.interpreter import run
from edgerl.toolchain.ir import Activate, Binary, Lstm, Operation, Program, Tensor, renamed
from edgerl.toolchain.passes import dead_code, in_order, named

N = 3
X = np.linspace(-1.0, 1.0, N)


def program(*operations: Operation) -> Program:
    names = ("x", "a", "b", "c", "y")
    return Program("p", "x", "y", (), operations, {name: Tensor(N) for name in names})


TANH, SINE = Activate("tanh", "x", "a"), Activate("sin", "a", "b")
UNUSED, PRODUCT = Activate("cos", "b", "c"), Binary("mul", "a", "b", "y")


def test_dead_code() -> None:
    small = dead_code(program(TANH, SINE, UNUSED, PRODUCT))
    assert small.operations == (TANH, SINE, PRODUCT)
    assert set(small.tensors) == {"x", "a", "b", "y"}


def test_in_order() -> None:
    ordered = in_order(program(PRODUCT, SINE, TANH))
    assert ordered is not None and ordered.operations == (TANH, SINE, PRODUCT)
    np.testing.assert_allclose(run(ordered, X, ())[0], np.tanh(X) * np.sin(np.tanh(X)))
    assert in_order(ordered) == ordered


def test_circles_have_no_order() -> None:
    circle = program(Activate("tanh", "b", "a"), SINE, PRODUCT)
    assert in_order(circle) is None


def test_named_keeps_the_ends() -> None:
    fresh = named(dead_code(program(TANH, SINE, PRODUCT)))
    assert [op.y for op in fresh.operations] == ["tanh_0", "sin_1", "y"]
    assert set(fresh.tensors) == {"x", "tanh_0", "sin_1", "y"}
    np.testing.assert_array_equal(run(fresh, X, ())[0], run(program(TANH, SINE, PRODUCT), X, ())[0])


def test_named_avoids_the_names_of_states() -> None:
    held = replace(program(TANH, SINE, PRODUCT), states=(("tanh_0", "sin_1"),))
    names = [op.y for op in named(held).operations]
    assert len(set(names) | {"tanh_0", "sin_1"}) == 5


def test_renamed_reaches_every_field() -> None:
    w, u, b = np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(4)
    lstm = Lstm("x", "h", "c", "i", "d", w, u, b)
    new = renamed(lstm, {name: name.upper() for name in "xhcid"})
    assert isinstance(new, Lstm)
    assert (new.x, new.h, new.c, new.h_next, new.c_next) == ("X", "H", "C", "I", "D")
