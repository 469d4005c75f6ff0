"""Inspection: what a policy is, before anything is compiled."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgerl.policies import Policy, load
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


def inspect(
    source: str | Path,
    spec: Path | None = None,
    layers: Path | None = None,
    vecnormalize: Path | None = None,
) -> Inspection:
    """Load and lower `source` and say what it is. Raises UserError and ToolError."""
    return inspection_of(load(source, spec, layers=layers, vecnormalize=vecnormalize))


def inspection_of(policy: Policy) -> Inspection:
    """What a policy is, lowered as it would be compiled. Raises UserError."""
    program = lower(policy, integers=True)
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
