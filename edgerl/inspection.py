"""Inspection: what a policy is, before anything is compiled."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgerl.policies import load
from edgerl.targets import Region, Target
from edgerl.toolchain.emit import describe, plan
from edgerl.toolchain.lowering import lower


@dataclass(frozen=True)
class SignalRow:
    """A named slice of observation, action or state."""

    kind: str
    index: str
    name: str
    unit: str
    frame: str
    range: str


@dataclass(frozen=True)
class LayerRow:
    """One step of the laid-out program."""

    layer: int
    what: str
    weights: int


@dataclass(frozen=True)
class Inspection:
    """Everything `edgerl inspect` shows."""

    name: str
    parameters: int
    macs: int
    rate_hz: float
    licence: str
    signals: tuple[SignalRow, ...]
    layers: tuple[LayerRow, ...]
    provenance: dict[str, str]
    assumed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def inspect(source: str | Path, spec: Path | None = None) -> Inspection:
    """Load and lower `source` and say what it is. Raises UserError and ToolError."""
    policy = load(source, spec)
    program = lower(policy)
    layout = plan(program)
    signals: list[SignalRow] = []
    for kind, group in (("observation", policy.spec.observation), ("action", policy.spec.action)):
        first = 0
        for s in group:
            index = str(first) if s.size == 1 else f"{first}..{first + s.size - 1}"
            limits = f"{s.range[0]:g} to {s.range[1]:g}"
            signals.append(SignalRow(kind, index, s.name, s.unit, s.frame, limits))
            first += s.size
    signals += [
        SignalRow("state", f"0..{s.size - 1}", s.name, "1", "", "") for s in policy.spec.state
    ]
    layers = tuple(
        LayerRow(s.index, describe(s), count)
        for s, count in zip(layout.steps, layout.weights_by_step, strict=True)
    )
    return Inspection(
        name=policy.name,
        parameters=policy.parameters,
        macs=program.macs,
        rate_hz=policy.spec.rate_hz,
        licence=policy.spec.licence,
        signals=tuple(signals),
        layers=layers,
        provenance=policy.provenance,
        assumed=policy.assumed,
    )


_VERIFIED = {
    "same-binary": "same-binary: checks run the shipped binary itself",
    "relinked-stand-in": "relinked-stand-in: checks run the same objects on a stand-in machine",
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
        "arithmetic": ", ".join(arithmetic) or "integers only",
        "kernels": f"assembly {core.kernels}, portable C" if core.kernels else "portable C",
        "clock": f"{row.clock_hz / 1e6:g} MHz" if row.clock_hz else "",
        "flash": _span(row.flash),
        "application": _span(row.application),
        "RAM": _span(row.ram),
        "cycle model": core.cycles,
        "zig flags": " ".join(core.zig),
        "gcc flags": " ".join(core.gcc),
        "emulators": ", ".join(
            name
            for name, has in (
                ("unicorn", core.unicorn),
                (f"QEMU {row.qemu_machine}", row.qemu_machine),
            )
            if has
        ),
        "verified by": _VERIFIED[row.verified_by],
    }
    return {name: text for name, text in facts.items() if text}


def _span(region: Region | None) -> str:
    if region is None:
        return ""
    return f"{region.size // 1024:,} kB at {region.base:#010x}"
