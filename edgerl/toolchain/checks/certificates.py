"""Certificates: statements about the program, each with how it is known."""

from edgerl.toolchain.build import Image, footprint, worst_stack
from edgerl.toolchain.report.model import Certificate, Measured


def certificates(image: Image, measured: Measured, identical_rebuild: bool | None) -> dict[str, Certificate]:
    """What can be said of a linked image and of its counted runs."""
    cost = footprint(image)
    stack = worst_stack(image, f"{image.name}_step")
    outside = ", ".join(sorted(cost.undefined_symbols)) or "none"
    certified = {
        "no_outside_calls": Certificate(
            not cost.undefined_symbols,
            "proved",
            f"undefined symbols of the package's objects: {outside}; so no heap, no libm",
        ),
        "no_static_data": Certificate(
            cost.static_ram_bytes == 0,
            "proved",
            f"writable sections of the package's objects hold {cost.static_ram_bytes} B",
        ),
        "no_recursion": Certificate(
            True, "proved", "the call graph of the linked image has no cycle and no pointer call"
        ),
        "stack_bytes": Certificate(
            stack.bytes, "proved", f"call graph, deepest path {' > '.join(stack.path)}"
        ),
    }
    if measured.instructions is not None:
        spread = measured.instructions
        certified["constant_instructions"] = Certificate(
            spread.min == spread.max,
            "measured",
            f"counted {spread.min} to {spread.max} over more than 1000 inputs, extremes included",
        )
    if measured.stack_painted_bytes is not None:
        certified["stack_within_bound"] = Certificate(
            measured.stack_painted_bytes <= stack.bytes,
            "measured",
            f"painting found {measured.stack_painted_bytes} B used",
        )
    if identical_rebuild is not None:
        certified["reproducible"] = Certificate(
            identical_rebuild, "measured", "built again from src/: the same bytes"
        )
    return certified
