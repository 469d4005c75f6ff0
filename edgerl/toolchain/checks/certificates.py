"""Certificates: statements about the program, each with how it is known."""

from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import Footprint, Image, NoBound, footprint, worst_stack
from edgerl.toolchain.compiling import identify
from edgerl.toolchain.emulators import UnicornCore
from edgerl.toolchain.emulators.requests import greeting_replies, greeting_requests
from edgerl.toolchain.report.model import Certificate, Measured, Spread


def certificates(image: Image, measured: Measured) -> dict[str, Certificate]:
    """What can be said of a linked image and of its counted runs."""
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
    }
    if measured.instructions is not None:
        certified["constant_instructions"] = _constant(measured.instructions, cost)
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
            painted <= stack.bytes, "measured", f"painting found {painted} B used"
        )
    return certified


def _constant(spread: Spread, cost: Footprint) -> Certificate:
    """Whether every input takes the same number of instructions; where floats are emulated
    nothing is claimed, since those routines look at their operands."""
    counted = f"counted {spread.min} to {spread.max}"
    if cost.library_symbols:
        why = "floats in software take paths that depend on the data"
        return Certificate(None, "not_applicable", f"{why}: {counted}, extremes included")
    return Certificate(
        spread.min == spread.max,
        "measured",
        f"{counted} over more than 1000 inputs, extremes included",
    )


def of_firmware(artifact: Artifact, rebuilt: Image, core: UnicornCore) -> dict[str, Certificate]:
    """Whether the shipped firmware is what its artifact says: it runs on `core` from reset, and
    `rebuilt` was built from the artifact's own sources.

    Another version of the compiler may well give other bytes, so then nothing is said of them.
    """
    manifest = artifact.manifest
    stated, self_test = greeting_replies(core.run_main(greeting_requests()))
    sources = identify(
        artifact.folder, manifest.target, manifest.compiler.version, manifest.compiler.flags
    )
    certified = {
        "build_id": Certificate(
            stated == sources == manifest.build_id,
            "measured",
            f"the running firmware states {stated[:12]}…, its sources give {sources[:12]}…, the "
            f"manifest has {manifest.build_id[:12]}…",
        ),
        "self_test": Certificate(
            self_test == 0, "measured", f"called on {core.name}; status {self_test}"
        ),
    }
    if rebuilt.compiler == manifest.compiler.version:
        shipped = artifact.folder / "firmware.elf"
        certified["reproducible"] = Certificate(
            rebuilt.elf.read_bytes() == shipped.read_bytes(),
            "measured",
            "built again from src/: the same bytes",
        )
    return certified
