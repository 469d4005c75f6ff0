"""What the templates of integer programs need besides the plan."""

from collections.abc import Sequence

import numpy as np

from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.emit import functions
from edgerl.toolchain.emit.contract import groups
from edgerl.toolchain.emit.integer.plan import (
    ArgMaxStep,
    CellStep,
    ClipStep,
    DenseStep,
    GatherStep,
    InputStep,
    IntegerPlan,
    MultiplyStep,
    OutputStep,
    PackStep,
    RowsPlan,
    SparseStep,
    Step,
)
from edgerl.toolchain.emit.memory import Base, Slot, naming
from edgerl.toolchain.emit.packing import checked_constants

# Grows when the order or form of the arithmetic changes: old golden vectors then stop matching.
INTEGER_VERSION = 1

# The kinds of small functions, in an order in which C can define them. Of some there is one for
# each number of bits, or for each table, which follows the name.
_KINDS = (
    "both", "dot", "pair", "four", "element", "put", "limited", "signed", "relu", "lifted",
    "upper_floor", "upper", "curve_", "integer", "single", "first_largest", "words_summed",
)  # fmt: skip
# Where a vector has bytes or whole words, not halves of words.
_APART: dict[int, dict[str, str]] = {
    4: {"both": "dot", "pair": "four"},
    2: {},
    1: {"both": "upper", "pair": "", "signed32": ""},
}
_ARGUMENTS: dict[Base, str] = {"state": "state", "observation": "obs"}
_STORED_TEXT = {32: "one column", 16: "two columns", 8: "four columns", 4: "eight columns"}


def integer_context(spec: PolicySpec, p: IntegerPlan, assembly: str) -> dict[str, object]:
    """Functions in use, the guard, how C names what lies where, and all constants."""
    guard, action = groups(spec.observation_ranges()), groups(spec.action_ranges())
    in_assembly = bool(assembly) and all(g.symmetric for g in guard)
    checks = {"all_within" if g.symmetric else "all_between" for g in guard}
    api = {"within" if g.symmetric else "between" for g in action} | {"bits_at"}
    edges = {"bits_at", "float_of"}
    left_to_c, edges_in_c = steps_in_c(p, assembly)
    small = _small_functions(p, left_to_c, edges_in_c)
    api |= edges if "single" in small["everywhere_functions"] else set()
    everywhere = functions.closure(api if in_assembly else api | checks)
    elsewhere = functions.closure(checks | edges) - everywhere
    if not assembly:
        everywhere, elsewhere = everywhere | elsewhere, set()
    arrays = {f"{p.name}_weights": p.weights, f"{p.name}_weights_sparse": p.sparse}
    arrays |= {
        f"{p.name}_table_{name}": table.words.view(np.uint32) for name, table in p.tables.items()
    }
    stored = sorted({int(name.split("_")[1]) for name in _kernels(p)}, reverse=True)
    return {
        "word": "int32_t",
        "zero": "0",
        "summed": "words_summed",
        "guard_groups": guard,
        "guard_in_assembly": in_assembly,
        "action_groups": action,
        "common_functions": functions.in_order(everywhere),
        "portable_functions": functions.in_order(elsewhere),
        **small,
        "left_to_c": left_to_c,
        "edges_in_c": edges_in_c,
        "called": [*left_to_c, *edges_in_c],
        "limits_always": any(
            step.kind in ("lstm", "clip") and (not assembly or number in left_to_c)
            for number, step in enumerate(p.steps)
        ),
        "limits_in_core": any(step.kind in ("lstm", "clip") for step in p.steps),
        "needs_tile": any(isinstance(s, DenseStep | CellStep) and s.looped for s in p.steps),
        "core_unused": [name for base, name in _ARGUMENTS.items() if base not in _read(p)],
        "at": naming(p.scratch_size),
        "at_element": lambda base, first: f"{base} + {first}" if first else base,
        "work_size": p.scratch_size + p.state_size,
        "stored_text": " or ".join(_STORED_TEXT[bits] for bits in stored),
        **checked_constants(arrays),
    }


def steps_in_c(p: IntegerPlan, assembly: str) -> tuple[list[int], list[int]]:
    """The steps that a family leaves to functions in C, sparse layers always, and those of which
    it leaves to C what touches floats where there is no FPU."""
    if assembly == "mve":
        rare = SparseStep | ClipStep | MultiplyStep | ArgMaxStep
        return [k for k, step in enumerate(p.steps) if isinstance(step, rare)], []
    if assembly != "cortex_m_dsp":
        return [k for k, step in enumerate(p.steps) if isinstance(step, SparseStep)], []
    left, edges = [], []
    for number, step in enumerate(p.steps):
        if isinstance(step, InputStep) or (
            isinstance(step, DenseStep) and step.exponent is not None
        ):
            edges.append(number)
        elif not isinstance(step, PackStep | DenseStep | CellStep):
            left.append(number)
    return left, edges


def _small_functions(
    p: IntegerPlan, left_to_c: Sequence[int], edges_in_c: Sequence[int]
) -> dict[str, list[str]]:
    """The small functions in three parts, of which a build has the first, two or all."""
    edges = [p.steps[k] for k in edges_in_c]
    conversions = _functions(p, [step for step in edges if isinstance(step, InputStep)])
    conversions |= {"single"} if any(isinstance(step, DenseStep) for step in edges) else set()
    left = _functions(p, [p.steps[k] for k in left_to_c]) | {"words_summed"}
    return {
        "everywhere_functions": _in_order(left),
        "edge_functions": _in_order(conversions - left),
        "integer_functions": [
            *_in_order(_functions(p, p.steps) - left - conversions),
            *_kernels(p),
        ],
    }


def _read(p: IntegerPlan) -> set[Base]:
    """The bases of all vectors that steps read or write."""
    fields = [value for step in p.steps for value in vars(step).values()]
    rows = [r for step in p.steps if isinstance(step, CellStep) for r in step.gates.values()]
    rows += [step.rows for step in p.steps if isinstance(step, DenseStep | SparseStep)]
    sources = [source.x for each in rows for source in each.sources]
    gathered = [x for step in p.steps if isinstance(step, GatherStep) for x in step.sources]
    slots = [value for value in (*fields, *sources, *gathered) if isinstance(value, Slot)]
    return {slot.base for slot in slots}


def _functions(p: IntegerPlan, steps: Sequence[Step]) -> set[str]:
    """The small functions that steps call."""
    stored = "pair" if p.packing.per_word == 2 else "put"
    wanted: set[str] = {_lifting(p, lift) for step in steps for lift in _lifts(step) if lift}
    for step in steps:
        match step:
            case InputStep():
                wanted |= {stored, f"signed{step.bits}", f"integer{step.bits + step.guard}"}
            case PackStep():
                wanted |= {stored}
            case DenseStep() | SparseStep():
                wanted |= {*_of_rows(step.rows), *_of_form(step)}
            case CellStep():
                rows = [name for each in step.gates.values() for name in _of_rows(each)]
                wanted |= {*rows, "curve_tanh", "upper", "upper_floor"}
                wanted |= {"pair"} if step.packed or step.c_packed else set()
                wanted |= {"limited"} if step.kind == "lstm" else set()
            case GatherStep():
                wanted |= {"element", "put"}
            case ClipStep():
                wanted |= {"limited"} if step.wide else {"limited", "element", "put"}
            case MultiplyStep():
                wanted |= {"element", "put", f"signed{step.bits}"}
            case ArgMaxStep():
                wanted |= {"first_largest", "pair"}
            case OutputStep():
                wanted |= {"single"} if step.wide else {"single", "element"}
    for name in tuple(wanted):
        if name.startswith("curve_"):
            wanted.add(f"signed{p.tables[name.removeprefix('curve_')].argument_bits}")
        if name.startswith("integer"):
            wanted.add(f"signed{name.removeprefix('integer')}")
    if any(name.startswith(("signed", "relu")) for name in wanted):
        wanted.add("limited")
    apart = _APART[p.packing.per_word]
    if not apart:
        return wanted
    return {apart.get(name, name) for name in wanted} - {""}


def _in_order(names: set[str]) -> list[str]:
    """Each before its callers."""
    return sorted(names, key=lambda name: (_place(name), name))


def _lifts(step: Step) -> list[int]:
    """How far a step shifts up what it accumulates, and the argument of a cell."""
    match step:
        case DenseStep(rows=rows) | SparseStep(rows=rows):
            return [rows.lift]
        case CellStep(gates=parts, lift=lift):
            return [lift, *(rows.lift for rows in parts.values())]
        case _:
            return []


def _lifting(p: IntegerPlan, lift: int) -> str:
    """What saturates before a shift up: words to fewer bits, which one instruction does."""
    return f"signed{32 - lift}" if p.packing.per_word == 1 else "lifted"


def _of_rows(rows: RowsPlan) -> set[str]:
    names = {"both"}
    names |= {"upper"} if rows.scaled else set()
    return names


def _of_form(step: DenseStep | SparseStep) -> set[str]:
    names = {f"curve_{step.table}"} if step.table else set()
    names |= {"single"} if step.exponent is not None else set()
    if not step.form.startswith("wide"):
        names.add("pair")
    if step.form == "signed":
        names.add(f"signed{step.bits}")
    if step.form == "relu":
        names.add(f"relu{step.bits - 1}")
    return names


def _place(name: str) -> int:
    """Where a small function stands among all: by the longest kind that its name begins with."""
    return max(
        (k for k, kind in enumerate(_KINDS) if name.startswith(kind)), key=lambda k: len(_KINDS[k])
    )


def _kernels(p: IntegerPlan) -> list[str]:
    """The accumulations in use: tile height and bits of a stored weight."""
    found: set[tuple[int, int]] = set()
    for step in p.steps:
        if isinstance(step, DenseStep | CellStep):
            rows = [step.rows] if isinstance(step, DenseStep) else list(step.gates.values())
            found |= {(T, s.stored) for T in step.tiles for r in rows for s in r.sources}
    return [f"mac{T}_{stored}" for T, stored in sorted(found, reverse=True)]
