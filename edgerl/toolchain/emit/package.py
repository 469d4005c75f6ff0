"""Emission: a Program becomes a C package.

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
from edgerl.toolchain.emit.memory import Slot
from edgerl.toolchain.emit.packing import SIGMOID_SCALE, TANH_SCALE
from edgerl.toolchain.emit.plan import DenseStep, Plan, VectorStep, plan
from edgerl.toolchain.emit.rendering import cfloat, render
from edgerl.toolchain.emit.tables import table

# Grows when the order or form of the arithmetic changes: old golden vectors then stop matching.
NUMERICS_VERSION = 1


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
    plan: Plan
    fused: bool
    assembly: str
    state_bytes: int


def emit(
    policy: Policy,
    program: ir.Program,
    *,
    fused: bool,
    assembly: str = "",
    golden: Golden | None = None,
) -> Package:
    """Emit `program` as a C package.

    `fused` writes every multiply-add as one operation with one rounding; `assembly` names the
    kernel family to add (empty for portable C alone); `golden` are the self-test vectors, which
    are all zero until the caller has run the code once to know them.

    Raises UserError for an operation that no kernel computes and for weights that are not finite.
    """
    p = plan(program)
    promised = contract(policy.spec, p.name.upper())
    state_bytes = 4 * (p.state_size + (p.action_size if promised.holds else 0))
    numerics = f"f32-{'fma' if fused else 'mul'}-{NUMERICS_VERSION}"
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
        **_guards(policy.spec, p, promised, assembly),
        **_kernels(p),
        **_addresses(p),
        **_golden(p, golden),
        **_constants(p),
    }
    files = {
        f"{p.name}.h": render("header.h.j2", context),
        f"{p.name}.c": render("package.c.j2", context),
    }
    if assembly:
        files[f"{p.name}_{assembly}.S"] = render(
            f"{assembly}.S.j2", {**context, **layout(p, groups(policy.spec.observation_ranges()))}
        )
    return Package(p.name, files, numerics, p, fused, assembly, state_bytes)


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
    """How C names what lies where. `work` is scratch with the next state behind it."""
    pointers = {
        "observation": ("obs", 0),
        "action": ("act", 0),
        "state": ("state", 0),
        "scratch": ("work", 0),
        "next": ("work", p.scratch_size),
    }

    def at(slot: Slot, extra: int | str = 0) -> str:
        base, start = pointers[slot.base]
        first = start + slot.offset
        if isinstance(extra, int):
            first, extra = first + extra, ""
        return " + ".join(str(part) for part in (base, first, extra) if part)

    def unused_arguments(step: VectorStep) -> list[str]:
        used = {pointers[slot.base][0] for slot in step.slots}
        return [name for name in ("state", "obs", "act", "work") if name not in used]

    return {
        "at": at,
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
    """All arrays of constants with their sum, as `summed` in C computes it."""
    arrays = {f"{p.name}_weights": p.weights, f"{p.name}_weights_vector": p.constants}
    arrays |= {f"{p.name}_table_{curve}": table(curve).coefficients for curve in p.curves}
    words = np.concatenate([values.reshape(-1) for values in arrays.values()]).view(np.uint32)
    # Rotated once for each word that follows.
    turns = (np.arange(words.size, dtype=np.uint32)[::-1]) % 32
    total = int(np.bitwise_xor.reduce(words << turns | words >> (32 - turns) % 32))
    present = [(name, values.size) for name, values in arrays.items() if values.size]
    return {"summed_constants": present, "constant_sum": total}


def _golden(p: Plan, golden: Golden | None) -> dict[str, object]:
    observations = golden.observations if golden else np.zeros((1, p.observation_size), np.float32)
    actions = golden.actions if golden else np.zeros((1, p.action_size), np.uint32)
    return {
        "golden_steps": len(observations),
        "golden_observations": observations,
        "golden_actions": actions,
    }
