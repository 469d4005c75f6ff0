"""Policies: where learned controllers come from and what they are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgerl.errors import UserError
from edgerl.policies import importers, onnx_file, raptor
from edgerl.policies.importers import Source
from edgerl.policies.memory import load_spec
from edgerl.policies.names import shown
from edgerl.policies.policy import Policy, Trace
from edgerl.policies.spec import PolicySpec, Signal, StateSignal
from edgerl.policies.vocabulary import doubts

__all__ = [
    "FAMILIES",
    "Family",
    "Policy",
    "PolicySpec",
    "Signal",
    "Source",
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


def load(
    source: Any,
    spec: str | Path | PolicySpec | None = None,
    *,
    layers: str | Path | None = None,
    vecnormalize: str | Path | None = None,
    example: Any = None,
    name: str | None = None,
) -> Policy:
    """Read a policy: a family's name (`raptor`), an `.onnx` file, a checkpoint that one of the
    importers knows, or a torch.nn.Module.

    `spec` (a TOML file or a PolicySpec) says what the numbers mean, in place of what the
    source itself says; `layers` and `vecnormalize` are files beside a checkpoint (see
    `importers.Source`); `example` is an observation for a module, torch.zeros(1, n), or a tuple
    of one and the states that it takes; `name` is the policy's where neither spec nor source
    names it, in place of the file's. Raises UserError when the source is unknown or wrong or
    the spec does not fit it, ToolError when a package that reading needs is missing.
    """
    given = spec if spec is None or isinstance(spec, PolicySpec) else load_spec(Path(spec))
    if example is None and isinstance(source, str | Path):
        policy = _loaded(source, given, _path(layers), _path(vecnormalize), name)
    else:
        from edgerl.policies.importers.module import from_module

        policy = from_module(source, example, given)
    signals = (*policy.spec.observation, *policy.spec.action)
    remarks = doubts(signal.name for signal in signals)
    return replace(policy, assumed=(*policy.assumed, *remarks))


def _loaded(
    source: str | Path,
    given: PolicySpec | None,
    layers: Path | None,
    vecnormalize: Path | None,
    name: str | None,
) -> Policy:
    family, path = FAMILIES.get(str(source)), Path(source)
    if family is not None or path.suffix.lower() == ".onnx":
        importers.refuse_beside(Source(path, layers, vecnormalize))
    if family is not None:
        return family.load(given)
    if path.suffix.lower() == ".onnx":
        return onnx_file.load(path, given, name)
    checkpoint = Source(path, layers, vecnormalize)
    if importers.importer_for(checkpoint) is None:
        near = get_close_matches(str(source), FAMILIES, n=1)
        names = f"{near[0]!r} (did you mean that?)" if near else ", ".join(sorted(FAMILIES))
        raise UserError(
            f"{shown(str(source))} is no policy: give {names}, an .onnx file, or a checkpoint "
            f"({', '.join(e for each in importers.IMPORTERS for e in each.suffixes)})"
        )
    return importers.read(checkpoint, given, name)


def _path(file: str | Path | None) -> Path | None:
    return None if file is None else Path(file)
