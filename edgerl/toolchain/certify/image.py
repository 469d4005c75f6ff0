"""Of a linked image: what its code calls, keeps, pushes, and lets the data decide."""

import re

from edgerl.errors import ToolError
from edgerl.toolchain.build import Footprint, Image, NoBound, footprint, worst_stack
from edgerl.toolchain.build.disassembly import disassemble
from edgerl.toolchain.build.stack import code_spans
from edgerl.toolchain.certify.paths import Walk, walk
from edgerl.toolchain.report.model import Certificate, Measured, Spread

# Routines of a compiler's library that compute floats: the names of Arm's run-time ABI, and those
# that gcc gave them on every core.
_FLOAT_ROUTINE = re.compile(
    r"__aeabi_(c?[fdh]|u?[il]2[fd]).*"
    r"|__(add|sub|mul|div|neg|float|fix|extend|trunc|cmp|unord|eq|ne|lt|le|gt|ge|powi)\w*[hsdt]f\w*"
)
_FLOAT_INSTRUCTION = {"arm": re.compile(r"v|fld|fst"), "riscv": re.compile(r"f(?!ence)")}


def of_image(image: Image, measured: Measured, *, no_float: bool = False) -> dict[str, Certificate]:
    """What can be said of a linked image and of its counted runs; with `no_float` also that
    nothing of it computes with floats."""
    cost = footprint(image)
    outside = cost.undefined_symbols - cost.library_symbols
    listed = ", ".join(sorted(outside)) or "none"
    if cost.library_symbols:
        listed += f" but routines of the compiler ({', '.join(sorted(cost.library_symbols))})"
    certified = {
        "no_outside_calls": Certificate(
            not outside,
            "proved",
            f"undefined symbols of the package's objects: {listed}; so no heap, no libm",
        ),
        "no_static_data": Certificate(
            cost.static_ram_bytes == 0,
            "proved",
            f"writable sections of the package's objects hold {cost.static_ram_bytes} B",
        ),
        **_call_graph(image, measured),
        **_paths(image, measured.instructions, cost),
    }
    if no_float:
        certified["no_float"] = _no_float(image, cost)
    return certified


def _call_graph(image: Image, measured: Measured) -> dict[str, Certificate]:
    """What follows from who calls whom."""
    try:
        stack = worst_stack(image, f"{image.name}_step")
    except NoBound as error:
        unknown = Certificate(None, "not_applicable", str(error))
        return {"no_recursion": unknown, "stack_bytes": unknown}
    certified = {
        "no_recursion": Certificate(
            True, "proved", "the call graph of the linked image has no cycle and no pointer call"
        ),
        "stack_bytes": Certificate(
            stack.bytes, "proved", f"call graph, deepest path {' > '.join(stack.path)}"
        ),
    }
    painted = measured.stack_painted_bytes
    if painted is not None:
        certified["stack_within_bound"] = Certificate(
            painted <= stack.bytes, "measured", f"{painted} B were seen in use"
        )
    return certified


def _paths(image: Image, counted: Spread | None, cost: Footprint) -> dict[str, Certificate]:
    """Whether the data decide the way of a call. Where floats are emulated nothing is claimed of
    the network, since those routines look at their operands."""
    evaluate, step = (_walked(image, f"{image.name}_{mode}") for mode in ("evaluate", "step"))
    soft = float_routines(cost)
    certified = {}
    if soft:
        why = f"floats in software take paths that depend on the data: {', '.join(soft)}"
        certified["no_data_branch"] = Certificate(None, "not_applicable", why)
    else:
        certified["no_data_branch"] = _no_data_branch(evaluate, counted)
    certified["guard_no_data_branch"] = (
        _no_data_branch(step, None)
        if isinstance(step, Walk) and step.shown
        else Certificate(None, "not_applicable", f"in {image.name}_step: {_reason(step)}")
    )
    if counted is not None:
        certified["constant_instructions"] = _constant(evaluate, counted, soft)
    return certified


def _walked(image: Image, root: str) -> Walk | str:
    """The walk through a function, or why there is none."""
    try:
        return walk(image, root)
    except ToolError as error:
        return str(error)


def _reason(walked: Walk | str) -> str:
    return walked if isinstance(walked, str) else walked.unshown


def _no_data_branch(walked: Walk | str, counted: Spread | None) -> Certificate:
    if isinstance(walked, Walk) and walked.shown:
        return Certificate(
            True,
            "proved",
            f"every call of {walked.root} in the linked image fetches the same "
            f"{walked.instructions:,} instructions: constants, counters and pointers decide all "
            f"{walked.branches:,} branches, in {', '.join(walked.functions)}",
        )
    why = f"not shown, {_reason(walked)}"
    if counted is None:
        return Certificate(None, "not_applicable", why)
    return Certificate(
        counted.min == counted.max,
        "measured",
        f"{why}; {_counts(counted)}, which a branch with two ways of one length would not change",
    )


def _constant(walked: Walk | str, counted: Spread, soft: tuple[str, ...]) -> Certificate:
    """Whether every input takes the same number of instructions."""
    same = counted.min == counted.max
    if isinstance(walked, Walk) and walked.shown and same:
        agreed = walked.instructions == counted.max
        said = f"{walked.instructions:,} by a walk through the image; {_counts(counted)}"
        return Certificate(agreed, "proved" if agreed else "measured", said)
    if soft:
        why = "floats in software take paths that depend on the data"
        return Certificate(None, "not_applicable", f"{why}: {_counts(counted)}")
    return Certificate(same, "measured", f"{_counts(counted)}, over more than 1000 inputs")


def _counts(counted: Spread) -> str:
    return f"counted {counted.min} to {counted.max}, extremes included"


def float_routines(cost: Footprint) -> tuple[str, ...]:
    """Routines of the compiler's library that compute floats and that the package calls."""
    return tuple(sorted(s for s in cost.library_symbols if _FLOAT_ROUTINE.fullmatch(s)))


def _no_float(image: Image, cost: Footprint) -> Certificate:
    """Whether the package has neither an instruction nor calls a routine of floats."""
    found = list(float_routines(cost))
    of_floats = _FLOAT_INSTRUCTION.get(image.architecture)
    if of_floats is None:
        return Certificate(None, "not_applicable", f"{image.architecture} always has floats")
    own = {s.name for part in image.objects for s in part.symbols if s.kind == "function"}
    functions = [f for f in image.functions if f.name in own]
    for function in functions:
        for start, stop in code_spans(image, function):
            for i in disassemble(image.read(start, stop - start), start, image.architecture):
                if of_floats.match(i.mnemonic):
                    found.append(f"{i.mnemonic} at {i.address:#010x} ({image.place(i.address)})")
    said = found[0] if found else "none"
    return Certificate(
        not found,
        "proved",
        f"instructions of the package's {len(functions)} functions and the routines they call: "
        f"of floats {said}",
    )
