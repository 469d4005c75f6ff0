"""Explanation: what a target is, what verifies it, and which of its tools are here."""

import shutil
from importlib.metadata import PackageNotFoundError, version

from edgerl.errors import ToolError
from edgerl.targets import Region, Target, target
from edgerl.toolchain.build import find

_COMPILERS = ("zig", "gcc")
_VERIFIED = {
    "same-binary": "same-binary: checks run the shipped image itself, at its own addresses",
    "relinked-stand-in": "relinked-stand-in: checks run the same sources, linked for a stand-in",
    "host-only": "host-only: checks run the portable twin on a host",
}


def explain_target(row: Target) -> dict[str, str]:
    """Everything that the row of a target says, in words by name; what it lacks is left out."""
    core = row.core
    arithmetic = [
        name for name, has in (("FPU", core.fpu), ("fused multiply-add", core.fma)) if has
    ]
    facts = {
        "target": row.name,
        "about": row.about,
        "core": f"{core.name}, {core.about}",
        "arithmetic": ", ".join(arithmetic) or _soft(row),
        "formats": ", ".join(core.formats),
        "kernels": ", ".join([*(f"{k}: {f}" for k, f in core.kernels.items()), "portable C"]),
        "clock": f"{row.clock_hz / 1e6:g} MHz" if row.clock_hz else "",
        **_memories(row),
        "source": row.source,
        "cycle model": core.cycles,
        "zig flags": " ".join(core.zig),
        "gcc flags": " ".join(core.gcc),
        "verified by": _VERIFIED[row.verified_by],
        "stand-in": _stand_in(row),
        **{name: _compiler(name, row) for name in _COMPILERS},
        "unicorn": _unicorn(row),
        "QEMU": _qemu(row),
    }
    return {name: text for name, text in facts.items() if text}


def _soft(row: Target) -> str:
    return "integers; floats in software" if "f32" in row.core.formats else "integers"


def _memories(row: Target) -> dict[str, str]:
    if row.core.hosting == "linux" and row.application and row.ram:
        return {"program": f"code at {row.application.base:#x}, data at {row.ram.base:#x}"}
    return {
        "flash": _span(row.flash),
        "application": _span(row.application),
        "RAM": _span(row.ram),
    }


def _span(region: Region | None) -> str:
    if region is None:
        return ""
    return f"{region.size // 1024:,} kB at {region.base:#010x}"


def _stand_in(row: Target) -> str:
    if not row.stand_in:
        return ""
    about = target(row.stand_in).about
    return f"{row.stand_in} ({about}), for which the same sources are linked anew"


def _compiler(name: str, row: Target) -> str:
    """Whether a compiler is here; nothing for one that is not told about the core."""
    core = row.built_for
    if core.architecture != "native" and not (core.zig if name == "zig" else core.gcc):
        return ""
    try:
        return f"here: {find(name, core).version}"
    except ToolError as error:
        return f"missing: {str(error).rpartition(': ')[2]}"


def _unicorn(row: Target) -> str:
    core = row.core
    if row.native or not core.unicorn:
        return ""
    note = f"; its model is that of {core.unicorn_note}" if core.unicorn_note else ""
    try:
        return f"here: {version('unicorn')}{note}"
    except PackageNotFoundError:
        return f"missing: pip install 'edgerl[emu]'{note}"


def _qemu(row: Target) -> str:
    """Whether QEMU is here, and what it runs."""
    program = row.core.qemu
    if row.native or not program:
        return ""
    runs = target(row.stand_in) if row.stand_in else row
    linux = row.core.hosting == "linux"
    what = "runs the program" if linux else f"machine {runs.qemu_machine}"
    if not linux and not runs.qemu_machine:
        return "has no machine for it"
    return f"{'here' if shutil.which(program) else 'missing'}: {program}, {what}"
