"""Emission: a Program becomes a C package.

Python decides (plan, numerics, which kernels), templates hold the C. Every package carries its
portable twin; a core with an assembly family gets that as well, chosen by the core's predefined
macros, with the same order of arithmetic and so the same bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import jinja2
import numpy as np
import numpy.typing as npt

from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain import ir
from edgerl.toolchain.emit import plan as planning
from edgerl.toolchain.emit.plan import Plan, Slot, Step, VectorStep
from edgerl.toolchain.emit.tables import table

# Grows when the order or form of the arithmetic changes: old golden vectors then stop matching.
NUMERICS_VERSION = 1

# Assembly families by the name a core row gives, with the condition that the core can run it.
ASSEMBLY_CONDITIONS = {
    "cortex_m_fpu": "defined(__thumb2__) && defined(__ARM_FEATURE_DSP) && defined(__ARM_FP)"
    " && (__ARM_FP & 4) && defined(__ARM_FEATURE_FMA)"
}
_BASE_POINTERS = {
    "observation": "obs",
    "action": "act",
    "state": "state",
    "next": "next",
    "scratch": "scratch",
}
# A row of more blocks of sixteen than this is accumulated in a loop.
_LOOP_FROM = 8
_SPILL_FLOATS = 2 * planning.TILE


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


@dataclass(frozen=True)
class _Group:
    """Consecutive elements with one valid range."""

    first: int
    count: int
    low: float
    high: float

    @property
    def symmetric(self) -> bool:
        return self.low == -self.high

    @property
    def bits(self) -> int:
        return int(np.float32(self.high).view(np.uint32))


@dataclass(frozen=True)
class _Run:
    """Consecutive elements with one value."""

    first: int
    count: int
    value: float


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

    Raises UserError for an operation that no kernel computes.
    """
    spec = policy.spec
    p = planning.plan(program)
    holds = "hold" in (spec.non_finite, spec.out_of_range)
    state_bytes = 4 * (p.state_size + (p.action_size if holds else 0))
    numerics = f"f32-{'fma' if fused else 'mul'}-{NUMERICS_VERSION}"
    if golden is None:
        golden = Golden(
            np.zeros((1, p.observation_size), np.float32), np.zeros((1, p.action_size), np.uint32)
        )
    guard_groups = _groups(spec.observation_ranges())
    action_groups = _groups(spec.action_ranges())
    matrix_steps = [s for s in p.steps if not isinstance(s, VectorStep)]
    vector_operations = {s.operation for s in p.steps if isinstance(s, VectorStep)}
    context = {
        "p": p,
        "P": p.name.upper(),
        "spec": spec,
        "edgerl_version": version("edgerl"),
        "policy_sha256": policy.sha256(),
        "parameters": policy.parameters,
        "rate_hz": f"{spec.rate_hz:g}",
        "numerics": numerics,
        "fused": fused,
        "state_bytes": state_bytes,
        "state_names": ", ".join(s.name for s in spec.state),
        "holds": holds,
        "feedback": _FEEDBACK[spec.feedback],
        "rejection": "repeats the last good action" if holds else "yields the fallback action",
        "rejecting": _rejecting(spec, p.name.upper()),
        "safe_action": spec.safe_action(),
        "safe_action_runs": _value_runs(spec.safe_action()),
        "observation_rows": _rows(spec.observation),
        "action_rows": _rows(spec.action),
        "guard_groups": guard_groups,
        "guard_in_assembly": all(g.symmetric for g in guard_groups),
        "guard_chunks": _guard_chunks(guard_groups),
        "finite_chunks": _chunks(p.observation_size, 16),
        "action_groups": action_groups,
        "tables": [table(curve) for curve in p.curves],
        "vector_curves": bool(vector_operations & set(planning._ACTIVATION_CURVES)),
        "matrix_steps": matrix_steps,
        "heights": _heights(matrix_steps),
        "cell_heights": _heights(s for s in p.steps if s.kind in ("gru", "lstm")),
        "gru_heights": _heights(s for s in p.steps if s.kind == "gru"),
        "lstm_heights": _heights(s for s in p.steps if s.kind == "lstm"),
        "tile_curves": any(_uses_tanh(s) for s in matrix_steps),
        "tanh_scale": int(planning.TANH_SCALE),
        "sigmoid_scale": int(planning.SIGMOID_SCALE),
        "scale": {curve: int(table(curve).scale) for curve in p.curves},
        "needs": _needs(p, guard_groups, action_groups),
        "golden_steps": len(golden.observations),
        "golden_observations": golden.observations,
        "golden_actions": golden.actions,
        "assembly": assembly,
        "assembly_condition": ASSEMBLY_CONDITIONS.get(assembly, ""),
    }
    files = {
        f"{p.name}.h": _render("header.h.j2", context),
        f"{p.name}.c": _render("package.c.j2", context),
    }
    if assembly:
        files[f"{p.name}_{assembly}.S"] = _render(
            f"{assembly}.S.j2", {**context, **_assembly_layout(p, matrix_steps)}
        )
    return Package(p.name, files, numerics, p, fused, assembly, state_bytes)


_FEEDBACK = {
    "raw": "Previous action: feed back what evaluate returned, unclamped.",
    "clamped": "Previous action: feed back what step returned (saturated).",
    "applied": "Previous action: feed back what the actuators were given in the end.",
}


def _rejecting(spec: PolicySpec, prefix: str) -> str:
    """The C expression of the status bits that reject an observation."""
    if spec.out_of_range == "saturate":
        return f"{prefix}_NON_FINITE"
    return f"({prefix}_NON_FINITE | {prefix}_OUT_OF_RANGE)"


def _needs(p: Plan, guard: list[_Group], action: list[_Group]) -> dict[str, bool]:
    """Which small C functions the package calls: a compiler warns of those it never does."""
    operations = {s.operation for s in p.steps if isinstance(s, VectorStep)}
    unit = bool(operations & {"hard_sigmoid", "hard_swish"})
    exponential = bool(operations & {"exp", "softmax"})
    asymmetric = not all(g.symmetric for g in (*guard, *action))
    between = unit or exponential or asymmetric or "clip" in operations
    rectified = bool(operations & {"relu", "elu", "selu", "softplus", "leaky_relu"})
    relu_tile = any(s.activation == "relu" for s in p.steps if isinstance(s, planning.DenseStep))
    return {
        "mac": exponential
        or bool(operations & ({"linear", "layer_norm"} | set(planning._ACTIVATION_CURVES))),
        "rectified": rectified,
        "rectified_tile": relu_tile and not rectified,
        "negative_part": bool(operations & {"elu", "selu", "leaky_relu"}),
        "negative_size": "softplus" in operations,
        "magnitude": bool(operations & {"softsign", "abs"}),
        "unit": unit,
        "exponential": exponential,
        "inverse_root": "layer_norm" in operations,
        "between": between,
        "ordered": between or bool(operations & {"min", "max"}),
        "within": any(g.symmetric for g in (*guard, *action)),
    }


def _uses_tanh(step: Step) -> bool:
    return step.kind in ("gru", "lstm") or (
        isinstance(step, planning.DenseStep) and step.activation in ("tanh", "sigmoid")
    )


def _heights(steps: Iterable[Step]) -> list[int]:
    found = {t for s in steps if not isinstance(s, VectorStep) for t in s.tiles}
    return sorted(found, reverse=True)


def _sources(step: Step) -> tuple[Slot, ...]:
    if isinstance(step, planning.DenseStep):
        return step.sources
    if isinstance(step, VectorStep):
        return ()
    return (step.x, step.h)


def _assembly_layout(p: Plan, steps: list[Step]) -> dict[str, object]:
    """What the assembly template needs besides: the stack frame and the kernel bodies in use."""
    spills = _SPILL_FLOATS if any(s.kind != "dense" for s in steps) else 0
    scratch_at = 8  # after the act and result pointers
    next_at = scratch_at + 4 * p.scratch_size
    spill_at = next_at + 4 * p.state_size
    frame = -(-(spill_at + 4 * spills) // 8) * 8
    lengths: dict[int, set[int]] = {}
    for s in steps:
        assert not isinstance(s, VectorStep)
        for T in s.tiles:
            for source in _sources(s):
                whole = 16 if T == planning.TILE else 8
                needed = {source.size % whole, whole * (source.size >= whole)} - {0}
                lengths.setdefault(T, set()).update(needed)
    tanh = {t for s in steps if _uses_tanh(s) and not isinstance(s, VectorStep) for t in s.tiles}
    middle = -table("tanh").first * 16 if "tanh" in p.curves else None
    return {
        "frame": frame,
        "scratch_at": scratch_at,
        "next_at": next_at,
        "spill_at": spill_at,
        "state_chunks": _chunks(p.state_size, 32),
        "mac_bodies": [(T, sorted(n)) for T, n in sorted(lengths.items(), reverse=True)],
        "tanh_tiles": sorted(tanh),
        "table_middle": middle,
        "loop_from": _LOOP_FROM,
    }


def _groups(ranges: list[tuple[float, float]]) -> list[_Group]:
    groups: list[_Group] = []
    for k, (low, high) in enumerate(ranges):
        last = groups[-1] if groups else None
        if last and (last.low, last.high) == (low, high):
            groups[-1] = _Group(last.first, last.count + 1, low, high)
        else:
            groups.append(_Group(k, 1, low, high))
    return groups


def _guard_chunks(groups: list[_Group]) -> list[list[tuple[_Group, bool]]]:
    """Elements in loads of eight: each with its group, and whether it is the group's first."""
    elements = [(g, k == 0) for g in groups for k in range(g.count)]
    return [elements[k : k + 8] for k in range(0, len(elements), 8)]


def _value_runs(values: tuple[float, ...]) -> list[_Run]:
    runs: list[_Run] = []
    for k, value in enumerate(values):
        if runs and runs[-1].value == value:
            runs[-1] = _Run(runs[-1].first, runs[-1].count + 1, value)
        else:
            runs.append(_Run(k, 1, value))
    return runs


def _chunks(total: int, most: int) -> list[int]:
    return [most] * (total // most) + [total % most] * (total % most > 0)


def _rows(signals: tuple[Signal, ...]) -> list[str]:
    rows = []
    first = 0
    for s in signals:
        where = str(first) if s.size == 1 else f"{first}..{first + s.size - 1}"
        low, high = s.range
        limits = f"+-{high:g}" if low == -high else f"{low:g} to {high:g}"
        labels = f"  ({', '.join(s.labels)})" if s.labels else ""
        rows.append(f"{where:<8} {s.name:<23} {s.unit:<10} {s.frame:<16} {limits}{labels}")
        first += s.size
    return rows


def _cfloat(value: float) -> str:
    """A float32 as a C literal that reads back exactly, in C and C++ alike."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if any(c in text for c in ".e") else f"{text}.0f"


def _cword(value: float | np.uint32) -> str:
    bits = value if isinstance(value, np.uint32) else np.float32(value).view(np.uint32)
    return f"0x{int(bits):08X}u"


def _corder(value: float) -> str:
    """The unsigned number that stands where float32 `value` stands among all floats."""
    bits = int(np.float32(value).view(np.uint32))
    return f"0x{(bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000)):08X}u"


def _pointer(slot: Slot) -> str:
    base = _BASE_POINTERS[slot.base]
    return f"{base} + {slot.offset}" if slot.offset else base


def describe(step: Step) -> str:
    """One line about a step, for comments and reports."""
    if isinstance(step, planning.DenseStep):
        inputs = " + ".join(str(s.size) for s in step.sources)
        after = "" if step.activation == "none" else f", {step.activation}"
        return f"dense {inputs} -> {step.y.size}{after}"
    if isinstance(step, VectorStep):
        return f"{step.operation.replace('_', ' ')} {step.y.size}"
    return f"{step.kind} {step.x.size} -> {step.y.size}"


def _input_name(step: VectorStep, k: int) -> str:
    return "ab"[k] if len(step.inputs) <= 2 else f"x{k}"


def _unused_bases(step: VectorStep) -> list[str]:
    used = {s.base for s in (*step.inputs, step.y)}
    return [pointer for base, pointer in _BASE_POINTERS.items() if base not in used]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgerl.toolchain.emit"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(
        cfloat=_cfloat,
        cfloats=lambda values: ", ".join(map(_cfloat, values)),
        cword=_cword,
        cwords=lambda values: ", ".join(map(_cword, values)),
        rows_of=lambda values, n: [values[k : k + n] for k in range(0, len(values), n)],
        corder=_corder,
        pointer=_pointer,
        describe=describe,
        input_name=_input_name,
        unused_bases=_unused_bases,
    )
    return environment


def _render(template: str, context: dict[str, object]) -> str:
    return _environment().get_template(template).render(context)
