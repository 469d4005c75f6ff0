"""Firmware: whether what was shipped is what its artifact says."""

from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import Image
from edgerl.toolchain.compiling import identify
from edgerl.toolchain.emulators import EmulatedCore
from edgerl.toolchain.emulators.requests import greeting_replies, greeting_requests
from edgerl.toolchain.report.model import Certificate


def of_firmware(artifact: Artifact, rebuilt: Image, core: EmulatedCore) -> dict[str, Certificate]:
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
