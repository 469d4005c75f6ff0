"""Emission: a Program, or a quantised one, becomes a C package.

Python decides (plan, numerics, which kernels), templates hold the C. Every package carries its
portable twin; a core with an assembly family gets that as well, chosen by the core's predefined
macros, with the same order of arithmetic and so the same bits.
"""

from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import ir
from edgerl.toolchain.emit import functions
from edgerl.toolchain.emit.assembly import layout
from edgerl.toolchain.emit.contract import Contract, contract, groups
from edgerl.toolchain.emit.integer.assembly import dsp_layout
from edgerl.toolchain.emit.integer.blocks import HALVES
from edgerl.toolchain.emit.integer.context import INTEGER_VERSION, integer_context
from edgerl.toolchain.emit.integer.mve import mve_layout
from edgerl.toolchain.emit.integer.packing import Packing
from edgerl.toolchain.emit.integer.plan import IntegerPlan
from edgerl.toolchain.emit.integer.planning import integer_plan
from edgerl.toolchain.emit.memory import naming
from edgerl.toolchain.emit.packing import SIGMOID_SCALE, TANH_SCALE, checked_constants
from edgerl.toolchain.emit.plan import DenseStep, Plan, SparseStep, VectorStep, plan
from edgerl.toolchain.emit.rendering import cfloat, render
from edgerl.toolchain.emit.sparse import Writings
from edgerl.toolchain.emit.tables import table
from edgerl.toolchain.quantisation.program import FixedProgram

# Grows when the order or form of the arithmetic changes: old golden vectors then stop matching.
NUMERICS_VERSION = 1

# What the assembly of integer programs needs besides the context of the C, by family.
INTEGER_LAYOUTS = {"cortex_m_dsp": dsp_layout, "mve": mve_layout}


@dataclass(frozen=True)
class Golden:
    """Vectors compiled into the package: observations [T, n] float32 from reset, and the bit
    patterns [T, m] uint32 of the actions."""

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Package:
    """An emitted controller: file names with their text, and the numerics they implement."""

    name: str
    files: dict[str, str]
    numerics: str
    plan: Plan | IntegerPlan
    fused: bool
    assembly: str
    state_bytes: int


def emit(
    policy: Policy,
    program: ir.Program | FixedProgram,
    *,
    fused: bool = False,
    assembly: str = "",
    golden: Golden | None = None,
    writings: Writings | None = None,
) -> Package:
    """Emit `program` as a C package.

    `fused` writes every multiply-add of floats as one operation with one rounding; `assembly`
    names the kernel family to add (empty for portable C alone); `golden` are the self-test
    vectors, which are all zero until the caller has run the code once to know them; `writings`
    names the layers that are written sparse. Of floats these leave products with zero out, which
    shows where what would be multiplied is not finite or a sum is a negative zero: numerics -s.

    Raises UserError for an operation that no kernel computes and for weights that are not finite.
    """
    if isinstance(program, FixedProgram):
        fixed = integer_plan(program, _packing(program, assembly), writings)
        p: Plan | IntegerPlan = fixed
        numerics = f"{program.number_format}-{INTEGER_VERSION}"
        source, particular = "integer.c.j2", integer_context(policy.spec, fixed, assembly)
    else:
        floats = plan(program, writings)
        p = floats
        omits = any(isinstance(step, SparseStep) for step in floats.steps)
        numerics = f"f32-{'fma' if fused else 'mul'}-{NUMERICS_VERSION}{'-s' if omits else ''}"
        source = "package.c.j2"
        promised = contract(policy.spec, p.name.upper())
        particular = {
            "word": "float",
            "zero": "0.0f",
            "summed": "summed",
            **_guards(policy.spec, floats, promised, assembly),
            **_kernels(floats),
            **_addresses(floats),
            **_constants(floats),
        }
    promised = contract(policy.spec, p.name.upper())
    state_bytes = 4 * (p.state_size + (p.action_size if promised.holds else 0))
    context = {
        "p": p,
        "P": p.name.upper(),
        "spec": policy.spec,
        "contract": promised,
        "edgerl_version": version("edgerl"),
        "policy_sha256": policy.sha256(),
        "parameters": policy.parameters,
        "rate_hz": f"{policy.spec.rate_hz:g}",
        "numerics": numerics,
        "fused": fused,
        "assembly": assembly,
        "state_bytes": state_bytes,
        "feedback": _feedback(policy.spec),
        **_golden(p, golden),
        **particular,
    }
    files = {
        f"{p.name}.h": render("header.h.j2", context),
        f"{p.name}.c": render(source, context),
    }
    if assembly:
        guard = groups(policy.spec.observation_ranges())
        more = layout(p, guard) if isinstance(p, Plan) else INTEGER_LAYOUTS[assembly](p, guard)
        files[f"{p.name}_{assembly}.S"] = render(f"{assembly}.S.j2", {**context, **more})
    return Package(p.name, files, numerics, p, fused, assembly, state_bytes)


def _packing(program: FixedProgram, assembly: str) -> Packing | None:
    """How vectors and weights lie, where a family has it other than portable C: in blocks where
    the kernels have vector registers."""
    return HALVES if assembly == "mve" and program.width == 16 else None


def _feedback(spec: PolicySpec) -> str:
    """What the caller has to feed back, if the policy observes its previous action."""
    observed = any(signal.name == "previous_action" for signal in spec.observation)
    return _FEEDBACK[spec.feedback] if observed else ""


_FEEDBACK = {
    "raw": "Previous action: feed back what evaluate returned, unclamped.",
    "clamped": "Previous action: feed back what step returned (saturated).",
    "applied": "Previous action: feed back what the actuators were given in the end.",
}


def _guards(spec: PolicySpec, p: Plan, promised: Contract, assembly: str) -> dict[str, object]:
    """The guard, the saturation, and which small functions stand where."""
    guard, action = groups(spec.observation_ranges()), groups(spec.action_ranges())
    in_assembly = bool(assembly) and all(g.symmetric for g in guard)
    checks = {"all_within" if g.symmetric else "all_between" for g in guard}
    api = {"within" if g.symmetric else "between" for g in action} | {"bits_at"}
    if p.weights.size or p.constants.size or p.curves:
        api.add("summed")
    everywhere = functions.common(p, api=api if in_assembly else api | checks)
    elsewhere = functions.portable(p, guard=checks) - everywhere
    if not assembly:
        everywhere, elsewhere = everywhere | elsewhere, set()
    return {
        "guard_groups": guard,
        "guard_in_assembly": in_assembly,
        "action_groups": action,
        "common_functions": functions.in_order(everywhere),
        "portable_functions": functions.in_order(elsewhere),
    }


def _kernels(p: Plan) -> dict[str, object]:
    """Steps, tables and the tile heights for which there must be a kernel."""
    matrix = [s for s in p.steps if not isinstance(s, VectorStep)]
    tables = {curve: table(curve) for curve in p.curves}

    def heights(*kinds: str) -> list[int]:
        return sorted({t for s in matrix if s.kind in kinds for t in s.tiles}, reverse=True)

    return {
        "vector_list": [s for s in p.steps if isinstance(s, VectorStep)],
        "heights": heights("dense", "gru", "lstm"),
        "cell_heights": heights("gru", "lstm"),
        "gru_heights": heights("gru"),
        "lstm_heights": heights("lstm"),
        "tile_curves": any(functions.reads_tanh(s) for s in matrix),
        "needs_tile": any(s.looped for s in matrix),
        "needs_index": p.state_size > 0
        or any(isinstance(s, DenseStep) and s.activation != "tanh" for s in matrix),
        "tables": tables,
        "tanh_scale": cfloat(TANH_SCALE),
        "sigmoid_scale": cfloat(SIGMOID_SCALE),
        "scale": {curve: cfloat(t.scale) for curve, t in tables.items()},
    }


def _addresses(p: Plan) -> dict[str, object]:
    """How C names what lies where."""
    pointers = {"observation": "obs", "action": "act", "state": "state"}

    def unused_arguments(step: VectorStep) -> list[str]:
        used = {pointers.get(slot.base, "work") for slot in step.slots}
        return [name for name in ("state", "obs", "act", "work") if name not in used]

    return {
        "at": naming(p.scratch_size),
        "at_element": lambda base, first: f"{base} + {first}" if first else base,
        "unused_arguments": unused_arguments,
        "core_unused": _core_unused(p),
        "work_size": p.scratch_size + p.state_size,
    }


def _core_unused(p: Plan) -> list[str]:
    """Arguments that the portable core has no use for; vector steps are handed all but one."""
    if any(isinstance(s, VectorStep) for s in p.steps):
        used = {"observation", "state"}
    else:
        used = {slot.base for s in p.steps for slot in s.slots}
    unused = [
        name for base, name in (("state", "state"), ("observation", "obs")) if base not in used
    ]
    return unused if p.state_size else [*unused, "result"]


def _constants(p: Plan) -> dict[str, object]:
    """All arrays of constants, and their sum."""
    arrays = {f"{p.name}_weights": p.weights, f"{p.name}_weights_vector": p.constants}
    arrays |= {f"{p.name}_table_{curve}": table(curve).coefficients for curve in p.curves}
    return checked_constants(arrays)


def _golden(p: Plan | IntegerPlan, golden: Golden | None) -> dict[str, object]:
    observations = golden.observations if golden else np.zeros((1, p.observation_size), np.float32)
    actions = golden.actions if golden else np.zeros((1, p.action_size), np.uint32)
    return {
        "golden_steps": len(observations),
        "golden_observations": observations,
        "golden_actions": actions,
    }
