"""Importing: any checkpoint becomes the one `.onnx` file that a policy is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgerl.errors import UserError
from edgerl.inspection import Inspection, inspection_of
from edgerl.policies import Policy, load
from edgerl.policies.importers import NeedsLayers
from edgerl.policies.spec_text import spec_text
from edgerl.toolchain.artifact import write_aside


@dataclass(frozen=True)
class Imported:
    """What an import made: the file, and what is in it."""

    path: Path
    sha256: str
    facts: Inspection

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"file": str(self.path), "sha256": self.sha256, **self.facts.to_json()}


def bring(
    source: Path,
    output: Path | None = None,
    *,
    spec: Path | None = None,
    layers: Path | None = None,
    vecnormalize: Path | None = None,
) -> Imported:
    """Read `source` and save the policy in it as `output`, else as NAME.onnx here.

    Without a spec, or one in the source, the policy is called as its file.

    Raises UserError when the source holds no policy, when `output` is the source, or when bare
    weights come without a list of layers: then a list to fill in is written beside, as
    STEM.layers.toml, unless there is one.
    """
    name = None if output is None else output.stem
    policy = _loaded(source, spec, layers, vecnormalize, name)
    path = output or Path(f"{policy.name}.onnx")
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: a policy's file ends in .onnx")
    if output is None and path.exists() and not path.samefile(source):
        raise UserError(f"{path}: is there already; say with -o where the policy is to go")
    if path.exists() and path.samefile(source):
        raise UserError(f"{path}: is the source itself; choose another name with -o")
    # Lowered before it is saved: a file that nothing could compile is no use.
    facts = inspection_of(policy)
    try:
        policy.save(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return Imported(path, policy.sha256(), facts)


def write_spec(
    source: Path, path: Path, *, layers: Path | None = None, vecnormalize: Path | None = None
) -> Policy:
    """Write what is known of `source`'s signals as a spec file to fill in; the policy.

    Raises UserError when `path` is there already, and as `bring`.
    """
    if path.exists():
        raise UserError(f"{path}: is there already; choose another name")
    policy = _loaded(source, None, layers, vecnormalize)
    write_aside(path, spec_text(policy.spec, policy.assumed))
    return policy


def _loaded(
    source: Path,
    spec: Path | None,
    layers: Path | None,
    vecnormalize: Path | None,
    name: str | None = None,
) -> Policy:
    try:
        return load(source, spec, layers=layers, vecnormalize=vecnormalize, name=name)
    except NeedsLayers as error:
        path = Path(f"{source.stem}.layers.toml")
        if path.exists():
            raise UserError(f"{error}; fill in {path} and give --layers {path}") from error
        write_aside(path, error.template)
        raise UserError(
            f"{error}; wrote {path}: fill in every '?' and run again with --layers {path}"
        ) from error
