"""Certificates: statements about the program, each with how it is known."""

from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import Image, footprint, worst_stack
from edgerl.toolchain.compiling import identify
from edgerl.toolchain.emulators import UnicornCore
from edgerl.toolchain.emulators.requests import greeting_replies, greeting_requests
from edgerl.toolchain.report.model import Certificate, Measured


def certificates(image: Image, measured: Measured) -> dict[str, Certificate]:
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
    return certified


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
        certified["reproducible"] = Certificate(
            rebuilt.elf.read_bytes() == core.image.elf.read_bytes(),
            "measured",
            "built again from src/: the same bytes",
        )
    return certified
