"""Measure: what the compiled program costs, counted on an emulated core and read from its image."""

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgerl.policies import Policy
from edgerl.toolchain.build import Footprint, Image, NoBound, footprint, worst_stack
from edgerl.toolchain.emit import Layer
from edgerl.toolchain.emulators import EmulatedCore, count
from edgerl.toolchain.golden import GoldenFile
from edgerl.toolchain.report.model import LayerCost, Measured

Floats = npt.NDArray[np.float32]
COUNTED_INPUTS = 1_024
_STEPS_COUNTED = 256
# A core without FPU takes up to a hundred times as many instructions a step, so it gets fewer.
SOFT_FLOAT_SHARE = 16


def extremes(policy: Policy) -> Floats:
    """Observations [k, n] at the corners of what a program may meet: both ends of every range,
    zeros, denormals, and the largest finite numbers."""
    ranges = np.array(policy.spec.observation_ranges(), np.float64)
    n = len(ranges)
    largest = float(np.finfo(np.float32).max)
    rows = [ranges[:, 0], ranges[:, 1], np.zeros(n), np.full(n, -0.0), np.full(n, 1e-42)]
    rows += [np.full(n, largest), np.full(n, -largest), np.where(np.arange(n) % 2, 1e30, -1e30)]
    return np.array(rows).astype(np.float32)


def sizes(image: Image) -> Measured:
    """What the image says without running it; no stack where the compiler's library hides it."""
    cost: Footprint = footprint(image)
    stack = None
    with contextlib.suppress(NoBound):
        stack = worst_stack(image, f"{image.name}_step").bytes
    return Measured(
        flash_bytes=cost.flash_bytes,
        ram_bytes=cost.state_bytes + cost.static_ram_bytes,
        state_bytes=cost.state_bytes,
        stack_bytes=stack,
        code_bytes=cost.code_bytes,
        weight_bytes=cost.weight_bytes,
        table_bytes=cost.table_bytes,
        library_bytes=cost.library_bytes,
    )


def counted(
    policy: Policy,
    layers: Sequence[Layer],
    core: EmulatedCore,
    golden: GoldenFile,
    static: Measured,
    *,
    soft_float: bool,
) -> Measured:
    """`static` with what running on `core` adds: instructions, modelled cycles, painted stack.

    Instructions of `_evaluate` are counted over at least a thousand inputs, extremes among them,
    with `soft_float`, where floats are computed in software, over a sixteenth of that; the
    overhead of `_step` is the difference of the largest counts, of which floats in software leave
    nothing to see.
    """
    share = SOFT_FLOAT_SHARE if soft_float else 1
    plain = golden.evaluate.observations[: COUNTED_INPUTS // share - len(extremes(policy))]
    evaluate = count(core, np.concatenate([plain, extremes(policy)]), "evaluate")
    faulty = golden.traces[1].observations[: _STEPS_COUNTED // share]
    stepped = np.concatenate([faulty, extremes(policy)])
    step = count(core, stepped, "step")
    costs = tuple(
        LayerCost(
            name=layer.name,
            operation=layer.operation,
            shape=layer.shape,
            instructions=_rounded(evaluate.by_layer.get(layer.symbol)),
            weight_bytes=layer.weight_bytes,
        )
        for layer in layers
    )
    return Measured(
        **{
            **vars(static),
            "instructions": evaluate.spread,
            "step_overhead_instructions": (
                None if soft_float else step.spread.max - evaluate.spread.max
            ),
            "cycles_model": evaluate.cycles_model,
            "stack_painted_bytes": core.stack_used(stepped),
            "layers": costs,
        }
    )


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
