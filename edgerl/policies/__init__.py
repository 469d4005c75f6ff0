"""Policies: where learned controllers come from and what they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import UserError
from edgerl.policies import onnx_file, raptor
from edgerl.policies.names import shown
from edgerl.policies.policy import Policy, Trace
from edgerl.policies.spec import PolicySpec, Signal, StateSignal, load_spec

__all__ = [
    "FAMILIES",
    "Family",
    "Policy",
    "PolicySpec",
    "Signal",
    "StateSignal",
    "Trace",
    "load",
    "load_spec",
    "policies",
]


@dataclass(frozen=True)
class Family:
    """A published policy that edgerl loads by name; `load` takes a spec in place of its own."""

    name: str
    about: str
    load: Callable[[PolicySpec | None], Policy]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "raptor",
            "foundation policy for quadrotors, 2084 parameters (package foundation-policy)",
            raptor.load,
        ),
    )
}


def policies() -> tuple[Family, ...]:
    """Every policy that has a name, in alphabetical order."""
    return tuple(FAMILIES[name] for name in sorted(FAMILIES))


def load(source: str | Path, spec: str | Path | PolicySpec | None = None) -> Policy:
    """Read a policy: a family's name (`raptor`) or an `.onnx` file.

    `spec` (a TOML file or a PolicySpec) says what the numbers mean, in place of what the
    source itself says. Raises UserError when the source is unknown or wrong or the spec does
    not fit it, ToolError when a package that a family needs is missing.
    """
    given = spec if spec is None or isinstance(spec, PolicySpec) else load_spec(Path(spec))
    family = FAMILIES.get(str(source))
    if family is not None:
        return family.load(given)
    if Path(source).suffix.lower() == ".onnx":
        return onnx_file.load(Path(source), given)
    known = ", ".join(sorted(FAMILIES))
    raise UserError(f"{shown(str(source))} is no policy: give {known}, or an .onnx file")
