"""Sparse layers: which of a program's layers are better left without their zeros.

What a form costs nobody can tell before it is compiled, so each is: the whole program is built
with one layer written otherwise, its instructions are counted on an emulated core and its bytes
read from the image.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies import Policy
from edgerl.targets import Target
from edgerl.targets import target as find_target
from edgerl.toolchain import ir
from edgerl.toolchain.build import Compiler, build_firmware, footprint
from edgerl.toolchain.checks.measure import extremes
from edgerl.toolchain.emit import Package
from edgerl.toolchain.emit.sparse import HEIGHTS, Writings
from edgerl.toolchain.emulators import QemuCore, UnicornCore, count
from edgerl.toolchain.manifest import Cost, LayerChoice, Written
from edgerl.toolchain.quantisation.program import FixedDense, FixedProgram

Prefer = Literal["instructions", "flash"]
# What the program costs with layers so written; None where the target has no room for it.
CostOf = Callable[[Writings], Cost | None]

# Layers with fewer zeros are dense, whatever their other forms would cost.
LEAST_ZEROS = 0.25
_INPUTS = 8
_USUAL = 10.0  # observations that have no range are taken from so far around zero
_NO_BUILD = "0" * 64


def with_zeros(program: ir.Program | FixedProgram) -> tuple[str, ...]:
    """The dense layers with so many weights of zero that other forms are worth a try, by the
    tensors that they make."""
    return tuple(y for y, matrices in _matrices(program) if _zeros(matrices) >= LEAST_ZEROS)


def choose(layers: tuple[str, ...], cost_of: CostOf, prefer: Prefer) -> tuple[LayerChoice, ...]:
    """A form for each of `layers`, one after another, beside what was chosen before.

    Of forms that take no more bytes than the dense one, that with the fewest instructions; or the
    one with the fewest bytes, if flash is preferred. So the program never gets larger, nor does
    it get slower unless that was asked for.
    """
    taken: dict[str, Written] = {}
    chosen = []
    before = cost_of({}) if layers else None
    for layer in layers:
        found: dict[Written, Cost | None] = {"dense": before}
        for form in HEIGHTS:
            found[form] = cost_of(writings({**taken, layer: form}))
        tried = {form: cost for form, cost in found.items() if cost is not None}
        taken[layer] = _best(tried, prefer)
        before = tried.get(taken[layer])
        chosen.append(LayerChoice(layer=layer, written=taken[layer], tried=tried))
    return tuple(chosen)


def writings(forms: Mapping[str, Written]) -> Writings:
    """The layers that are not dense."""
    return {layer: form for layer, form in forms.items() if form != "dense"}


def _best(tried: dict[Written, Cost], prefer: Prefer) -> Written:
    dense = tried.get("dense")
    fit = [
        (cost.flash_bytes if prefer == "flash" else cost.instructions, cost.flash_bytes, form)
        for form, cost in tried.items()
        if dense is None or cost.flash_bytes <= dense.flash_bytes
    ]
    return min(fit, key=lambda row: row[:2])[2] if fit else "dense"


def costs_on(
    policy: Policy,
    target: Target,
    compiler: Compiler,
    emit: Callable[[Writings], Package],
) -> CostOf:
    """Costs as `target` has them, or the machine that stands in for it: instructions of
    `_evaluate`, the most over a few observations, and bytes of flash.

    The function raises ToolError when the compiler or the emulator fails.
    """
    relinked = target.verified_by == "relinked-stand-in" and target.stand_in
    goal = find_target(target.stand_in) if relinked and target.stand_in else target
    kind = QemuCore if goal.core.emulator == "qemu" else UnicornCore
    observations = _observations(policy)

    def cost_of(forms: Writings) -> Cost | None:
        package = emit(forms)
        with tempfile.TemporaryDirectory(prefix="edgerl-", ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch)
            for name, text in package.files.items():
                (folder / name).write_text(text, encoding="utf-8", newline="\n")
            try:
                image = build_firmware(
                    folder,
                    package.name,
                    goal,
                    compiler,
                    folder / "built",
                    build_id=_NO_BUILD,
                    portable=not package.assembly,
                )
            except UserError:  # it does not fit
                return None
            counted = count(kind(image, goal), observations)
            return Cost(instructions=counted.spread.max, flash_bytes=footprint(image).flash_bytes)

    return cost_of


def _observations(policy: Policy) -> npt.NDArray[np.float32]:
    low, high = np.clip(np.array(policy.spec.observation_ranges(), np.float64), -_USUAL, _USUAL).T
    usual = np.random.default_rng(0).uniform(low, high, (_INPUTS, low.size))
    return np.concatenate([extremes(policy), usual.astype(np.float32)])


def _matrices(
    program: ir.Program | FixedProgram,
) -> Iterator[tuple[str, list[npt.NDArray[np.generic]]]]:
    """The matrices of each dense layer."""
    for op in program.operations:
        match op:
            case ir.Dense():
                yield op.y, [weights for _, weights in op.sources]
            case FixedDense():
                yield op.y, [product.weights for product in op.rows.products]


def _zeros(matrices: list[npt.NDArray[np.generic]]) -> float:
    weights = sum(m.size for m in matrices)
    return sum(m.size - np.count_nonzero(m) for m in matrices) / weights if weights else 0.0
