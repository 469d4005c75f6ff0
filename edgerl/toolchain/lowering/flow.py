"""Flow: everything a policy computes at run time, as bases joined by affine forms.

A base is an input, a matrix product, a sum kept whole, or a result of a non-linear operation.
Equal computations are recorded once. Nothing is placed in memory here: which forms become
tensors, and where products are fused into their users, is decided by `schedule.py`.
"""

import hashlib
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from edgerl.errors import UserError
from edgerl.toolchain.ir import Activate, Activation, Binary, BinaryOperation, Clip, Operation
from edgerl.toolchain.lowering.forms import (
    Doubles,
    Form,
    Key,
    base_form,
    constant,
    ratio,
)

MOST_TERMS = 8
MOST_NUMBERS = 1 << 26
_SOFTPLUS_IS_LINEAR = 16.6  # ln(1 + e^x) - x < 2^-24 beyond


@dataclass(frozen=True)
class Input:
    """A vector that exists before the step: the observation or a state."""

    name: str
    size: int


@dataclass(frozen=True)
class Product:
    """Sum over factors of matrix @ form, without a bias."""

    factors: tuple[tuple[Form, Doubles], ...]
    size: int


@dataclass(frozen=True)
class Sum:
    """A form that its users share as one vector instead of repeating its terms."""

    form: Form
    size: int


@dataclass(frozen=True)
class Step:
    """A non-linear operation: `template` with its tensor names still open.

    `inputs` gives a form for each field of the template that names an operand; `results`
    gives a size for each field that names what it writes, the first of which is this base.
    """

    template: Operation
    inputs: tuple[tuple[str, Form], ...]
    results: tuple[tuple[str, int], ...]
    size: int


@dataclass(frozen=True)
class Result:
    """A further result (`field` of the template) of the step that base `step` is."""

    step: int
    field: str
    size: int


@dataclass(frozen=True)
class Part:
    """A function of a form that exists only inside a larger one: `erf` in a GELU, `positive`
    (is it > 0?) in a guarded softplus. `label` names the node for when it does not end there."""

    kind: Literal["erf", "positive"]
    form: Form
    size: int
    label: str


Base = Input | Product | Sum | Step | Result | Part


def operands(base: Base) -> tuple[Form, ...]:
    """The forms that a base is computed from."""
    match base:
        case Product(factors=factors):
            return tuple(form for form, _ in factors)
        case Sum(form=form) | Part(form=form):
            return (form,)
        case Step(inputs=inputs):
            return tuple(form for _, form in inputs)
        case _:
            return ()


class Flow:
    """The bases of one policy, in an order in which they can be computed."""

    def __init__(self) -> None:
        self.bases: list[Base] = []
        self._known: dict[Key, int] = {}
        self._spent = 0

    def spend(self, numbers: int) -> None:
        """Count numbers that are going to be kept; UserError when a graph unrolls to more of
        them than any controller could need, so that memory stays bounded."""
        self._spent += numbers
        if self._spent > MOST_NUMBERS:
            raise UserError(f"the graph unrolls to more than {MOST_NUMBERS} numbers")

    def _add(self, base: Base, key: Key) -> Form:
        number = self._known.get(key)
        if number is None:
            number = len(self.bases)
            self.bases.append(base)
            self._known[key] = number
        return base_form(number, base.size)

    def base_of(self, form: Form) -> Base | None:
        """The base that a form is as a whole and unchanged, if it is one."""
        number = form.whole()
        if number is None or self.bases[number].size != form.size:
            return None
        return self.bases[number]

    def input(self, name: str, size: int) -> Form:
        """A vector that exists before the step."""
        return self._add(Input(name, size), ("input", name))

    def add(self, a: Form, b: Form) -> Form:
        """The sum; one with many terms is kept as a vector of its own."""
        total = a.plus(b)
        if len(total.terms) <= MOST_TERMS:
            return total
        return self._add(Sum(total, total.size), ("sum", total.key))

    def product(self, matrix: Doubles, form: Form) -> Form:
        """matrix @ form, the form's own arithmetic folded into the matrix where that makes
        no column more than there was."""
        self.spend(matrix.size)
        factors, bias = self.factors(matrix, form)
        if not factors:
            return constant(bias)
        key = ("product", *((f.key, _digest(m)) for f, m in factors))
        return self._add(Product(factors, len(bias)), key).shifted(bias)

    def factors(
        self, matrix: Doubles, form: Form
    ) -> tuple[tuple[tuple[Form, Doubles], ...], Doubles]:
        """matrix @ form as ((form, matrix)…, bias).

        A term that is alone in its columns, over a base no longer than those columns, is
        folded: observation scaling vanishes into the first layer and a concatenation becomes
        several sources. Matrix products are never folded into each other.
        """
        rows, bias = len(matrix), np.zeros(len(matrix))
        if not form.size:
            return (), bias
        owners = np.sum([t.rows for t in form.terms] or [np.zeros(form.size, bool)], axis=0)
        fixed = owners == 0
        bias += matrix[:, fixed] @ form.bias[fixed]
        found: dict[Key, tuple[Form, Doubles]] = {}

        def gather(part: Form, weights: Doubles) -> None:
            _, before = found.get(part.key, (part, np.zeros(())))
            found[part.key] = (part, before + weights)

        for term in form.terms:
            columns = term.rows & (owners == 1)
            base = self.bases[term.base]
            if not columns.any():
                continue
            if isinstance(base, Product) or base.size > columns.sum():
                gather(form.take(columns), matrix[:, columns])
                continue
            folded = np.zeros((base.size, rows))
            np.add.at(folded, term.index[columns], (matrix[:, columns] * term.scale[columns]).T)
            bias += matrix[:, columns] @ form.bias[columns]
            gather(base_form(term.base, base.size), folded.T)
        mixed = owners > 1
        if mixed.any():
            gather(form.take(mixed), matrix[:, mixed])
        return tuple(found.values()), bias

    def step(
        self, template: Operation, inputs: dict[str, Form], results: dict[str, int]
    ) -> tuple[Form, ...]:
        """Record a non-linear operation; one form for each of `results` (field -> size)."""
        key = ("step", *_content(template), *((n, f.key) for n, f in inputs.items()))
        (_, size), *further = results.items()
        step = Step(template, tuple(inputs.items()), tuple(results.items()), size)
        first = self._add(step, key)
        number = first.terms[0].base
        others = [
            self._add(Result(number, name, size), ("result", number, name))
            for name, size in further
        ]
        return (first, *others)

    def activate(self, activation: Activation, x: Form, alpha: float = 1.0) -> Form:
        """An element-wise function of one vector."""
        return self.step(Activate(activation, "", "", alpha), {"x": x}, {"y": x.size})[0]

    def binary(self, operation: BinaryOperation, a: Form, b: Form) -> Form:
        """An element-wise function of two vectors of one size."""
        return self.step(Binary(operation, "", "", ""), {"a": a, "b": b}, {"y": a.size})[0]

    def part(self, kind: Literal["erf", "positive"], x: Form, label: str) -> Form:
        """A function that must end up in a larger one (`label` names the node if not)."""
        return self._add(Part(kind, x, x.size, label), (kind, x.key))

    def choose(self, condition: Form, a: Form, b: Form) -> Form | None:
        """`a` where the condition is true, else `b`: known only for a softplus that is
        replaced by its asymptote, where both are equal in single precision anyway."""
        test = self.base_of(condition)
        if not isinstance(test, Part) or len(b.terms) != 1 or b.bias.any():
            return None
        kind, inner = self._activation(self.bases[b.terms[0].base])
        k = float(b.terms[0].scale[0])
        if kind != "softplus" or inner is None or not np.isclose(ratio(a, inner) or 0.0, k):
            return None
        if ratio(b, self.activate("softplus", inner)) is None:
            return None
        slope = ratio(Form(test.form.terms, np.zeros(a.size)), Form(inner.terms, np.zeros(a.size)))
        if slope is None or slope <= 0.0:
            return None
        switch = inner.bias - test.form.bias / slope
        return b if (switch >= _SOFTPLUS_IS_LINEAR).all() else None

    def clip(self, x: Form, low: Doubles, high: Doubles) -> Form:
        """min(max(x, low), high), one clip after another merged."""
        inner = self.base_of(x)
        if isinstance(inner, Step) and isinstance(inner.template, Clip):
            before, x = inner.template, inner.inputs[0][1]
            low, high = (
                np.minimum(np.maximum(before.low, low), high),
                np.minimum(np.maximum(before.high, low), high),
            )
        limit = np.finfo(np.float32)
        lowest, highest = (np.clip(v, limit.min, limit.max).astype(np.float32) for v in (low, high))
        if not lowest.any() and (highest == limit.max).all():
            return self.activate("relu", x)
        return self.step(Clip("", lowest, highest, ""), {"x": x}, {"y": x.size})[0]

    def multiply(self, a: Form, b: Form) -> Form:
        """The element-wise product of two run-time vectors; x * gate(x) is recognised."""
        if not a.terms or not b.terms:
            varying, fixed = (b, a) if not a.terms else (a, b)
            return varying.scaled(fixed.bias)
        if a.key == b.key:
            return self.activate("square", a)
        for x, gate in ((a, b), (b, a)):
            gated = self._gated(x, gate)
            if gated is not None:
                return gated
        return self.binary("mul", a, b)

    def divide(self, a: Form, b: Form) -> Form:
        """The element-wise quotient; x / (1 + |x|) is recognised."""
        if not b.terms:
            return a.scaled(1.0 / b.bias)
        if not a.terms:
            return self.activate("reciprocal", b).scaled(a.bias)
        if len(b.terms) == 1 and (b.bias == 1.0).all():
            kind, inner = self._activation(self.base_of(b.shifted(-b.bias)))
            if kind == "abs" and inner is not None and inner.key == a.key:
                return self.activate("softsign", a)
        return self.binary("div", a, b)

    def _gated(self, x: Form, gate: Form) -> Form | None:
        """SiLU, Mish and GELU written out: x times a gate that is computed from x itself."""
        if len(gate.terms) != 1:
            return None
        term = gate.terms[0]
        base = self.bases[term.base]
        k = float(term.scale[0])
        whole = base.size == gate.size and np.array_equal(term.index, np.arange(gate.size))
        if not whole or not (term.scale == k).all():
            return None
        if isinstance(base, Part) and base.kind == "erf":
            # x * (k + k erf(s x)) = 2 k x Phi(sqrt(2) s x), and gelu(u) = u Phi(u).
            if not np.allclose(gate.bias, k, rtol=1e-6, atol=0.0):
                return None
            s = ratio(base.form, x)
            return None if s is None else self._inner("gelu", x, s * np.sqrt(2.0), 2.0 * k)
        if gate.bias.any():
            return None
        kind, inner = self._activation(base)
        if inner is None:
            return None
        if kind == "sigmoid":
            s = ratio(inner, x)
            return None if s is None else self._inner("silu", x, s, k)
        below, innermost = self._activation(self.base_of(inner))
        if (kind, below) == ("tanh", "softplus") and innermost and innermost.key == x.key:
            return self._inner("mish", x, 1.0, k)
        return None

    @staticmethod
    def _activation(base: Base | None) -> tuple[Activation | None, Form | None]:
        """Which activation a base is, and of what."""
        if isinstance(base, Step) and isinstance(base.template, Activate):
            return base.template.activation, base.inputs[0][1]
        return None, None

    def _inner(self, activation: Activation, x: Form, s: float, k: float) -> Form:
        """k / s * activation(s x)."""
        s = _clean(s)
        inner = x if s == 1.0 else x.scaled(np.array([s]))
        return self.activate(activation, inner).scaled(np.array([_clean(k / s)]))


def _clean(factor: float) -> float:
    """A factor that is a power of two but for the rounding of its single-precision parts."""
    power = float(np.copysign(2.0 ** np.round(np.log2(abs(factor))), factor))
    return power if abs(factor / power - 1.0) < 1e-6 else factor


def _digest(matrix: Doubles) -> Key:
    content = np.ascontiguousarray(matrix).tobytes()
    return (matrix.shape, hashlib.blake2b(content, digest_size=16).digest())


def _content(template: Operation) -> Key:
    """What distinguishes one template from another."""
    parts: list[object] = [type(template).__name__]
    for entry in fields(template):
        value = getattr(template, entry.name)
        parts.append(_digest(value) if isinstance(value, np.ndarray) else value)
    return tuple(parts)
