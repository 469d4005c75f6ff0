"""Affine forms: their algebra is that of the vectors they stand for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgerl.toolchain.lowering.flow import MOST_TERMS, Flow
from edgerl.toolchain.lowering.forms import Form, base_form, constant, joined, ratio

BASES = (4, 3)
VALUES = [np.random.default_rng(k).normal(size=size) for k, size in enumerate(BASES)]


def value(form: Form) -> np.ndarray:
    total = form.bias.copy()
    for term in form.terms:
        total += term.scale * VALUES[term.base][term.index]
    return total


@st.composite
def pairs(draw) -> tuple[Form, np.ndarray]:
    """A form and the vector it must stand for, built together."""
    base = draw(st.integers(0, 1))
    form, vector = base_form(base, BASES[base]), VALUES[base]
    for _ in range(draw(st.integers(0, 6))):
        seed = np.random.default_rng(draw(st.integers(0, 1000)))
        size = form.size
        match draw(st.integers(0, 4)):
            case 0:
                rows = seed.integers(0, size, draw(st.integers(1, 6)))
                form, vector = form.take(rows), vector[rows]
            case 1:
                factor = seed.integers(-2, 3, size).astype(np.float64)
                form, vector = form.scaled(factor), vector * factor
            case 2:
                offset = seed.normal(size=size)
                form, vector = form.shifted(offset), vector + offset
            case 3:
                other = int(seed.integers(0, 2))
                rows = seed.integers(0, BASES[other], size)
                form = form.plus(base_form(other, BASES[other]).take(rows))
                vector = vector + VALUES[other][rows]
            case _:
                other = int(seed.integers(0, 2))
                form = joined([form, base_form(other, BASES[other]), constant(np.ones(1))])
                vector = np.concatenate([vector, VALUES[other], [1.0]])
    return form, vector


@given(pairs())
def test_forms_follow_their_vectors(pair: tuple[Form, np.ndarray]) -> None:
    form, vector = pair
    np.testing.assert_allclose(value(form), vector, rtol=1e-12, atol=1e-12)
    assert form.size == len(vector)
    number = form.whole()
    if number is not None:
        np.testing.assert_array_equal(vector, VALUES[number][: len(vector)])


@given(pairs(), st.floats(0.1, 10.0))
def test_ratio(pair: tuple[Form, np.ndarray], factor: float) -> None:
    form, _ = pair
    found = ratio(form.scaled(np.array([factor])), form)
    assert found is None if not form.terms else np.isclose(found, factor)
    assert ratio(form.shifted(np.ones(1)), form) is None or not form.terms


@given(pairs())
def test_equal_forms_have_equal_keys(pair: tuple[Form, np.ndarray]) -> None:
    form, _ = pair
    doubled = form.plus(form).scaled(np.array([0.5]))
    assert doubled.key == form.key
    assert form.plus(form.scaled(np.array([-1.0]))).terms == ()


@given(pairs(), st.integers(1, 5), st.integers(0, 1000))
def test_products_fold_without_growing(pair: tuple[Form, np.ndarray], rows: int, seed: int) -> None:
    """The factors of matrix @ form give its value and have no more columns than it had."""
    form, vector = pair
    flow = Flow()
    for size in BASES:
        flow.input(str(size), size)
    matrix = np.random.default_rng(seed).normal(size=(rows, form.size))
    factors, bias = flow.factors(matrix, form)
    total = bias + sum(weights @ value(part) for part, weights in factors)
    np.testing.assert_allclose(total, matrix @ vector, rtol=1e-9, atol=1e-9)
    assert sum(weights.shape[1] for _, weights in factors) <= form.size


def test_long_sums_are_kept_as_vectors() -> None:
    flow = Flow()
    total = flow.input("0", 2)
    for k in range(1, 30):
        total = flow.add(total, flow.input(str(k), 2))
        assert len(total.terms) <= MOST_TERMS + 1
