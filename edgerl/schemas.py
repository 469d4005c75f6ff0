"""Schemas: what spec, recipe, layer and board files may hold, as JSON Schema for editors.

They are generated from the very models that read the files, then told what only tables of names
know: the vocabulary, the targets, the cores. Draft 7, which editors of TOML understand.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from edgerl.errors import UserError, suggestion
from edgerl.policies import FAMILIES
from edgerl.policies.importers.layers.file import LayerList
from edgerl.policies.memory import NetworkSpec
from edgerl.policies.vocabulary import VOCABULARY
from edgerl.recipe import Recipe
from edgerl.targets import targets
from edgerl.targets.model import BoardRow, cores
from edgerl.toolchain.checks.limits import LIMITED

Json = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"


@dataclass(frozen=True)
class Schema:
    """A kind of file: its model, and what completes the model's own schema in place, if anything
    does."""

    name: str
    title: str
    model: type[BaseModel]
    complete: Callable[[Json], None] | None = None


def _complete_spec(schema: Json) -> None:
    """The vocabulary: its names, and what they bring. A range always has a default, a size
    those names have that mean vectors of one length."""
    sized = [name for name, known in VOCABULARY.items() if known.size is not None]
    about = {name: known.about for name, known in VOCABULARY.items()}
    for table in ("Signal", "NetworkSignal"):
        signal = schema["$defs"][table]
        _offer(signal["properties"]["name"], about)
        signal["required"] = ["name"]
        signal["if"] = {"properties": {"name": {"not": {"enum": sized}}}}
        signal["then"] = {"required": ["size"]}


def _complete_recipe(schema: Json) -> None:
    """The names of families, targets and figures."""
    tables = schema["$defs"]
    families = {family.name: family.about for family in FAMILIES.values()}
    _offer(tables["Source"]["properties"]["policy"], families)
    about = {row.name: row.about for row in targets().values()}
    board_file = r"\.[Tt][Oo][Mm][Ll]$"
    _offer(tables["TargetChoice"]["properties"]["name"], about, pattern=board_file)
    limits = tables["Check"]["properties"]["limits"]
    bound = limits.pop("additionalProperties")
    limits |= {
        "properties": {figure: bound for figure in LIMITED},
        "additionalProperties": False,
    }


def _complete_board(schema: Json) -> None:
    """The names of cores and targets, and which cores need memories."""
    properties = schema["properties"]
    own = {core.name: core.about for core in cores().values() if core.architecture != "native"}
    _close(properties["core"], own)
    _close(properties["stand_in"], {row.name: row.about for row in targets().values()})
    mapped = [
        name
        for name in own
        if name in targets() and targets()[name].flash and cores()[name].hosting != "linux"
    ]
    schema["if"] = {"properties": {"core": {"enum": mapped}}, "required": ["core"]}
    schema["then"] = {"required": ["flash", "ram"]}


SCHEMAS: dict[str, Schema] = {
    row.name: row
    for row in (
        Schema("spec", "Spec: what a policy's numbers mean", NetworkSpec, _complete_spec),
        Schema("recipe", "Recipe: a pipeline of edgerl", Recipe, _complete_recipe),
        Schema("layers", "Layer list: how weights make a network", LayerList),
        Schema("board", "Board: where a policy runs", BoardRow, _complete_board),
    )
}


def schema_of(kind: str) -> Json:
    """The JSON schema of the files called `kind`. UserError, with the nearest name, for others."""
    row = SCHEMAS.get(kind)
    if row is None:
        raise UserError(f"unknown kind of file {kind[:60]!r}; {suggestion(kind, SCHEMAS)}")
    schema = row.model.model_json_schema(schema_generator=_Draft7)
    if row.complete:
        row.complete(schema)
    described = {"$schema": DRAFT, **schema, "title": row.title}
    _separate_references(described)
    return described


def text(schema: Json) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=1) + "\n"


class _Draft7(GenerateJsonSchema):
    """Pydantic's schema in the words of draft 7 and of TOML, which has no null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Of what may be left out: the schema of what is there."""
        return self.generate_inner(schema["schema"])

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        """A list; one of fixed length has like elements here."""
        made = super().tuple_schema(schema)
        if "prefixItems" in made:
            first, *rest = made.pop("prefixItems")
            assert all(each == first for each in rest)
            made["items"] = first
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default, unless it is null or empty: those say only that the key may be left out."""
        made = super().default_schema(schema)
        if made.get("default") in (None, "", [], {}):
            made.pop("default", None)
        return made


def _offer(key: Json, names: dict[str, str], **others: str) -> None:
    """Let an editor complete `names` in the text `key`, which may hold other text too."""
    rest = {"type": key.pop("type"), **others}
    if "pattern" in key:
        rest["pattern"] = key.pop("pattern")
    key["anyOf"] = [_choice(names), rest]


def _close(key: Json, names: dict[str, str]) -> None:
    """Allow only `names` in the text `key`."""
    key |= _choice(names)


def _choice(names: dict[str, str]) -> Json:
    return {"enum": list(names), "x-taplo": {"docs": {"enumValues": list(names.values())}}}


def _separate_references(part: Any) -> None:
    """In draft 7 a `$ref` hides what stands beside it."""
    if isinstance(part, dict):
        if "$ref" in part and len(part) > 1:
            part["allOf"] = [{"$ref": part.pop("$ref")}]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            _separate_references(each)
