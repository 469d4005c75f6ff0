"""Schedule: from a flow of bases and forms to a Program's operations and tensors.

A form is written out only when something needs it as a vector: an operand of a non-linear
operation or of a matrix product, the action, a next state. A product whose rows are each
used by one form is fused into that form (bias, second source, activation); any other product
is computed once and shared.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from edgerl.errors import UserError
from edgerl.toolchain.ir import (
    Activate,
    Dense,
    Gather,
    Given,
    Linear,
    Operation,
    Program,
    Tensor,
    Vector,
    renamed,
)
from edgerl.toolchain.lowering.flow import Flow, Input, Part, Product, Result, Step, Sum, operands
from edgerl.toolchain.lowering.forms import Doubles, Form, Indices, Key, Mask, Term
from edgerl.toolchain.lowering.quantised import RangedForm, given_ranges

_ONLY_WITHIN = {
    "erf": "is supported only within a GELU, x * (1 + erf(x / sqrt 2))",
    "positive": "compares run-time values, which is supported only within a softplus",
}


def schedule(
    flow: Flow,
    name: str,
    observation: str,
    action: Form,
    states: Iterable[tuple[str, Form]],
    ranged: Iterable[RangedForm] = (),
) -> Program:
    """Place a flow's live part in execution order.

    `states` gives for each state input the form that follows it; their names, with and without
    `_next`, must differ from each other. Of the `ranged` forms, those that became tensors give
    them their ranges. Raises UserError when the action needs a function that is supported only
    as part of a larger one.
    """
    states = tuple(states)
    writer = _Writer(flow, [action, *(form for _, form in states)])
    for number in sorted(writer.live):
        writer.place(number)
    ends = {"action": action, **{f"{state}_next": form for state, form in states}}
    for wanted, form in ends.items():
        writer.output(wanted, form)
    operations, tensors = writer.finished()
    program = Program(
        name=name,
        observation=observation,
        action="action",
        states=tuple((state, f"{state}_next") for state, _ in states),
        operations=operations,
        tensors=tensors,
    )
    found = {writer.holder(given.form): given for given in ranged}
    ranges = given_ranges(program, {tensor: given for tensor, given in found.items() if tensor})
    return replace(program, given=Given(ranges))


def _live(flow: Flow, outputs: list[Form]) -> set[int]:
    """The inputs, and every base that an output depends on."""
    live = {k for k, base in enumerate(flow.bases) if isinstance(base, Input)}
    wanted = [term.base for form in outputs for term in form.terms]
    while wanted:
        number = wanted.pop()
        if number not in live:
            live.add(number)
            base = flow.bases[number]
            wanted.extend(term.base for form in operands(base) for term in form.terms)
            if isinstance(base, Result):
                wanted.append(base.step)
    return live


class _Writer:
    """The growing program. Bases are placed in order, so every operand exists when read."""

    def __init__(self, flow: Flow, outputs: list[Form]) -> None:
        self.flow = flow
        self.live = _live(flow, outputs)
        self._operations: list[Operation] = []
        self._tensors: dict[str, Tensor] = {}
        forms = [*outputs, *(f for b in sorted(self.live) for f in operands(flow.bases[b]))]
        self._uses = Counter(form.key for form in forms)
        distinct = list({form.key: form for form in forms}.values())
        self._fused = self._choose_fused(distinct)
        self._biases = self._choose_biases(distinct)
        self._bases: dict[int, str] = {}
        self._results: dict[tuple[int, str], str] = {}
        self._written: dict[Key, str] = {}
        self._inputs = {b.name for b in flow.bases if isinstance(b, Input)}
        self._renames: dict[str, str] = {}

    def _choose_fused(self, forms: list[Form]) -> set[int]:
        """Products that have no row in two places, so that fusing repeats no arithmetic."""
        uses: dict[int, Indices] = {}
        for form in forms:
            for term in form.terms:
                base = self.flow.bases[term.base]
                if isinstance(base, Product):
                    count = uses.setdefault(term.base, np.zeros(base.size, dtype=np.int64))
                    np.add.at(count, term.index[term.rows], 1)
        return {number for number, count in uses.items() if count.max() <= 1}

    def _choose_biases(self, forms: list[Form]) -> dict[int, Doubles]:
        """For each shared product the bias that its users, the plainest first, would add."""
        biases: dict[int, Doubles] = {}
        open_rows: dict[int, Indices] = {}
        for form in sorted(forms, key=lambda f: (len(f.terms), -f.size)):
            for term in form.terms:
                base = self.flow.bases[term.base]
                if not isinstance(base, Product) or term.base in self._fused:
                    continue
                bias = biases.setdefault(term.base, np.zeros(base.size))
                undecided = open_rows.setdefault(term.base, np.ones(base.size, dtype=np.int64))
                rows = (term.scale == 1.0) & (undecided[term.index] == 1)
                bias[term.index[rows]] = form.bias[rows]
                undecided[term.index[rows]] = 0
        return biases

    def place(self, number: int) -> None:
        """Write the operation of one base; nothing for an input or a fused product."""
        match self.flow.bases[number]:
            case Input(name, size):
                self._tensors[name] = Tensor(size)
                self._bases[number] = name
            case Product() as product:
                sources = [(self.write(f), m.astype(np.float32)) for f, m in product.factors]
                if number not in self._fused:
                    self._bases[number] = y = self._new(product.size)
                    bias = self._biases[number].astype(np.float32)
                    self._operations.append(Dense(tuple(sources), bias, y))
            case Sum(form, _):
                self._bases[number] = self.write(form)
            case Step() as step:
                self._place_step(number, step)
            case Result(of, field, _):
                self._bases[number] = self._results[of, field]
            case Part(kind=kind, label=label):
                raise UserError(f"{label}: {_ONLY_WITHIN[kind]}")

    def _place_step(self, number: int, step: Step) -> None:
        read: dict[str, Any] = {field: self.write(form) for field, form in step.inputs}
        if isinstance(step.template, Activate):
            form = step.inputs[0][1]
            if self._fuse(step.template, form, read["x"]):
                self._bases[number] = read["x"]
                return
        results: dict[str, Any] = {field: self._new(size) for field, size in step.results}
        for field, name in results.items():
            self._results[number, field] = name
        self._bases[number] = results[step.results[0][0]]
        self._operations.append(replace(step.template, **read, **results))

    def _fuse(self, template: Activate, form: Form, x: str) -> bool:
        """Put an activation into the Dense just written for nothing else, if that is so."""
        last = self._operations[-1] if self._operations else None
        private = self._uses[form.key] == 1 and self._settled(form).key in self._written
        if not (private and isinstance(last, Dense) and last.y == x):
            return False
        self._operations[-1] = replace(last, activation=template.activation, alpha=template.alpha)
        del self._written[self._settled(form).key]
        return True

    def holder(self, form: Form) -> str | None:
        """The tensor that holds a form in the end, None where none does."""
        number = form.whole()
        name = self._written.get(self._settled(form).key)
        if number in self._bases and self.flow.bases[number].size == form.size:
            name = self._bases[number]
        return self._renames.get(name, name) if name else None

    def write(self, form: Form) -> str:
        """The tensor that holds a form, written now if it is not yet there."""
        return self._write(self._settled(form))

    def _settled(self, form: Form) -> Form:
        """The form over shared products as they are written: with their biases."""
        for term in form.terms:
            if term.base in self._biases:
                form = form.shifted(-term.scale * self._biases[term.base][term.index])
        return form

    def _write(self, form: Form) -> str:
        if form.key in self._written:
            return self._written[form.key]
        number = form.whole()
        if number in self._bases and self.flow.bases[number].size == form.size:
            return self._bases[number]
        y = self._written[form.key] = self._new(form.size)
        copies = self._copied_rows(form)
        groups = self._groups(form, ~copies)
        if len(groups) == 1 and not copies.any():
            self._combine(form, y)
        else:
            self._collect(form, copies, groups, y)
        return y

    def _copied_rows(self, form: Form) -> Mask:
        """The rows that are one element of a tensor, unchanged."""
        owners, plain = np.zeros(form.size, dtype=np.int64), np.zeros(form.size, dtype=bool)
        for term in form.terms:
            owners += term.rows
            if term.base not in self._fused:
                plain |= term.scale == 1.0
        return np.equal(owners, 1) & plain & np.equal(form.bias, 0.0)

    def _groups(self, form: Form, rows: Mask) -> list[Indices]:
        """The given rows, sorted by the tensors they are computed from."""
        columns: dict[object, Mask] = {}
        for term in form.terms:
            base = self.flow.bases[term.base]
            key: object = term.key
            if isinstance(base, Product) and term.base in self._fused:
                key = tuple(self.write(factor) for factor, _ in base.factors)
            columns[key] = columns.get(key, np.zeros(form.size, dtype=bool)) | term.rows
        members: dict[bytes, list[int]] = {}
        signatures = np.array(list(columns.values()), dtype=bool).reshape(-1, form.size).T
        for row in np.flatnonzero(rows):
            members.setdefault(signatures[row].tobytes(), []).append(int(row))
        return [np.array(group, dtype=np.int64) for group in members.values()]

    def _collect(self, form: Form, copies: Mask, groups: list[Indices], y: str) -> None:
        """Write a form whose rows come from several places: each group, then all together."""
        sources: dict[str, int] = {}
        picks: list[tuple[int, int]] = [(0, 0)] * form.size
        for group in groups:
            part = self._new(len(group))
            self._combine(form.take(group), part)
            place = sources.setdefault(part, len(sources))
            for k, row in enumerate(group):
                picks[row] = (place, k)
        for term in form.terms:
            for row in np.flatnonzero(copies & term.rows):
                place = sources.setdefault(self._bases[term.base], len(sources))
                picks[row] = (place, int(term.index[row]))
        self._operations.append(Gather(tuple(sources), tuple(picks), y))

    def _combine(self, form: Form, y: str) -> None:
        """Write a form whose rows all come from the same tensors: Dense, Linear or both."""
        weights: dict[str, Doubles] = {}
        rest: list[Term] = []
        for term in form.terms:
            base = self.flow.bases[term.base]
            if not (isinstance(base, Product) and term.base in self._fused):
                rest.append(term)
                continue
            for factor, matrix in base.factors:
                x = self.write(factor)
                part = term.scale[:, np.newaxis] * matrix[term.index]
                weights[x] = weights[x] + part if x in weights else part
        linear: list[Term] = []
        first: tuple[tuple[str, Vector], ...] = ()
        for term in rest:
            x = self._bases[term.base]
            if x in weights:
                weights[x][np.arange(form.size), term.index] += term.scale
            else:
                linear.append(term)
        bias = form.bias.astype(np.float32)
        if weights:
            sources = tuple((x, w.astype(np.float32)) for x, w in weights.items())
            product = self._new(form.size) if linear else y
            self._operations.append(Dense(sources, bias, product))
            if not linear:
                return
            first = ((product, np.ones(form.size, dtype=np.float32)),)
            bias = np.zeros_like(bias)
        terms = tuple((self._gathered(t), t.scale.astype(np.float32)) for t in linear)
        self._operations.append(Linear((*first, *terms), bias, y))

    def _gathered(self, term: Term) -> str:
        """The elements that a term picks, as a vector."""
        rows = len(term.index)
        return self._write(Form((Term(term.base, term.index, np.ones(rows)),), np.zeros(rows)))

    def output(self, wanted: str, form: Form) -> None:
        """Let a form leave the step as tensor `wanted`, one that an operation writes and that
        leaves once, so that a caller's buffer can take it."""
        tensor = self.write(form)
        if tensor in self._inputs or tensor in self._renames:
            copy = self._new(form.size)
            picks = tuple((0, k) for k in range(form.size))
            self._operations.append(Gather((tensor,), picks, copy))
            tensor = copy
        self._renames[tensor] = wanted

    def finished(self) -> tuple[tuple[Operation, ...], dict[str, Tensor]]:
        """All operations and tensors, the outputs under their own names."""
        tensors = {self._renames.get(name, name): t for name, t in self._tensors.items()}
        return tuple(renamed(op, self._renames) for op in self._operations), tensors

    def _new(self, size: int) -> str:
        name = f"{len(self._tensors)}_"
        self._tensors[name] = Tensor(size)
        return name
