"""Manifest: what `manifest.json` says of an artifact, typed.

Everything that a check needs beside the files themselves: the policy's facts and spec, the
target row, how it was compiled, and a hash of every file.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgerl.documents import explain
from edgerl.errors import UserError
from edgerl.policies.spec import Identifier, Label, PolicySpec
from edgerl.targets import Target

SCHEMA = 1
MANIFEST = "manifest.json"
_MOST_BYTES = 16 << 20

Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicyEntry(_Row):
    """The policy's facts; `assumed` lists the defaults that nobody stated."""

    name: Identifier
    sha256: Digest
    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    licence: Label
    provenance: dict[str, str]
    assumed: tuple[str, ...]


class CompilerEntry(_Row):
    """The compiler of the firmware: its short name, its version, and the package's flags."""

    family: str
    version: str
    flags: tuple[str, ...]


Written = Literal["dense", "sparse", "block"]


class Cost(_Row):
    """What a whole program costs: instructions of a call, bytes of flash."""

    instructions: int = Field(ge=0)
    flash_bytes: int = Field(ge=0)


class LayerChoice(_Row):
    """How a layer with zeros is written, by the tensor it makes, and what the program cost with
    this layer written in each way that fits, layers before it as chosen, layers after it dense."""

    layer: str
    written: Written
    tried: dict[Written, Cost]

    @property
    def told(self) -> str:
        """In words."""
        costs = "; ".join(
            f"{written} {cost.instructions:,} instructions, {cost.flash_bytes:,} B"
            for written, cost in self.tried.items()
        )
        return f"layer {self.layer} is {self.written}, as the whole program takes: {costs}"


class Manifest(_Row):
    """The contents of manifest.json without its schema number.

    `fused` says whether multiply-adds are, `kernels` names the assembly family or is empty,
    `tools` are the Python packages that took part, and `files` has the SHA-256 of every file of
    the artifact but reports and signature. `layers` are those that were worth a choice.
    """

    policy: PolicyEntry
    spec: PolicySpec
    target: Target
    format: str
    numerics: str
    fused: bool
    kernels: str
    state_bytes: int = Field(ge=0)
    compiler: CompilerEntry
    build_id: Digest
    tools: dict[str, str]
    files: dict[str, Digest]
    layers: tuple[LayerChoice, ...] = ()

    @property
    def writings(self) -> dict[str, Literal["sparse", "block"]]:
        """The layers that are not dense, as emission takes them."""
        return {each.layer: each.written for each in self.layers if each.written != "dense"}

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.policy.name != self.spec.name:
            raise ValueError(f"policy {self.policy.name} has the spec of {self.spec.name}")
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain data, schema number included."""
        return {"schema": SCHEMA, **self.model_dump(mode="json")}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`.

    Raises UserError, naming file and key, when there is none, or none that this edgerl reads.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{folder}: no artifact ({MANIFEST}: {error.strerror})") from error
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest of edgerl (no JSON)") from error
    if not isinstance(rows, dict) or "build_id" not in rows:
        raise UserError(f"{path}: not a manifest of edgerl")
    schema = rows.pop("schema", None)
    if schema != SCHEMA:
        raise UserError(f"{path}: has schema {str(schema)[:20]}; this edgerl reads {SCHEMA}")
    try:
        return Manifest.model_validate(rows)
    except ValidationError as error:
        raise UserError(explain(error, str(path))) from error
