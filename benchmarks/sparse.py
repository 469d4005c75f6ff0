"""Sparse layers measured: an MLP 22-64-64-4 with more and more weights of zero, written dense,
sparse and in blocks for Cortex-M4F, and as `edgerl compile` chooses.

    python -m benchmarks.sparse

prints one row a network: instructions of a step and bytes of flash of each form.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx

from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import Compiler, find
from edgerl.toolchain.compiling import AnyProgram, form_for
from edgerl.toolchain.emit import Package, emit
from edgerl.toolchain.emit.sparse import HEIGHTS, Writings
from edgerl.toolchain.manifest import Cost
from edgerl.toolchain.quantisation import quantise
from edgerl.toolchain.sparsity import choose, costs_on, with_zeros, writings

SIZES = (22, 64, 64, 4)
ZEROS = (0.0, 0.5, 0.8, 0.9, 0.95)
FORMATS = ("f32", "w16a16", "w8a16")
CORE = target("cortex-m4f")


@dataclass(frozen=True)
class Row:
    """What one network costs, by form; `chosen` are the forms of its layers."""

    number_format: str
    zeros: float
    costs: dict[str, Cost]
    chosen: tuple[str, ...]


def network(zeros: float) -> ir.Program:
    """The MLP, each weight zero with probability `zeros`."""
    rng = np.random.default_rng(0)
    tensors, operations = ("o", "h1", "h2", "a"), []
    for k, (columns, rows) in enumerate(pairwise(SIZES)):
        weights = rng.normal(size=(rows, columns)) / np.sqrt(columns)
        weights[rng.random(weights.shape) < zeros] = 0.0
        bias = rng.normal(size=rows, scale=0.1).astype(np.float32)
        source = (tensors[k], weights.astype(np.float32))
        operations.append(ir.Dense((source,), bias, tensors[k + 1], "relu" if rows > 4 else None))
    shapes = {tensor: ir.Tensor(size) for tensor, size in zip(tensors, SIZES, strict=True)}
    return ir.Program("mlp", "o", "a", (), tuple(operations), shapes)


def rows() -> Iterator[Row]:
    """Every format at every share of zeros."""
    ends = (-8.0, 8.0)
    spec = PolicySpec(
        name="mlp",
        observation=(Signal(name="seen", size=SIZES[0], range=ends),),
        action=(Signal(name="done", size=SIZES[-1], range=ends),),
    )
    policy, compiler = Policy(onnx.ModelProto(), spec), find("zig", CORE.core)
    recording = np.random.default_rng(1).normal(size=(256, SIZES[0])).astype(np.float32)
    for number_format in FORMATS:
        for zeros in ZEROS:
            program: AnyProgram = network(zeros)
            if number_format != "f32":
                program = quantise(network(zeros), recording, number_format, spec=spec)
            yield _row(policy, program, number_format, zeros, compiler)


def _row(
    policy: Policy, program: AnyProgram, number_format: str, zeros: float, compiler: Compiler
) -> Row:
    form = form_for(CORE, program, "auto", "auto")

    def written(forms: Writings) -> Package:
        return emit(policy, program, fused=form.fused, assembly=form.assembly, writings=forms)

    cost_of = costs_on(policy, CORE, compiler, written)
    layers = with_zeros(program)
    every = {"dense": cost_of({})}
    every |= {name: cost_of(dict.fromkeys(layers, name)) for name in HEIGHTS if layers}
    chosen = choose(layers, cost_of, "instructions")
    if chosen:
        every["chosen"] = cost_of(writings({each.layer: each.written for each in chosen}))
    costs = {name: cost for name, cost in every.items() if cost is not None}
    return Row(number_format, zeros, costs, tuple(each.written for each in chosen))


def main() -> None:
    """Print the rows as a table."""
    for row in rows():
        costs = "; ".join(
            f"{name} {cost.instructions:,} / {cost.flash_bytes:,} B"
            for name, cost in row.costs.items()
        )
        print(f"{row.number_format} {row.zeros:.0%}: {costs} {' '.join(row.chosen)}", flush=True)


if __name__ == "__main__":
    main()
