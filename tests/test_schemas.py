"""Schemas for editors: what they take is what edgerl takes, and the copies are the current ones."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from edgerl import cli
from edgerl.errors import UserError
from edgerl.policies.vocabulary import VOCABULARY
from edgerl.schemas import DRAFT, SCHEMAS, schema_of, text
from edgerl.targets import targets

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"spec": "spec.md", "recipe": "recipes.md", "board": "boards.md"}

GOOD = {
    "spec": [
        'name = "a"\n[[observation]]\nname = "thrust"\n[[action]]\nname = "motor"\nsize = 4',
        'name = "a"\nrate_hz = 50\n[[observation]]\nname = "mine"\nsize = 2\nrange = [0, 1.5]\n'
        '[[action]]\nname = "thrust"\n[[state]]\nname = "h"\nsize = 3',
    ],
    "recipe": [
        '[source]\npolicy = "raptor"\n[target]\nname = "pico"\n[check]\nlimits = { ram_bytes = 9 }',
        '[source]\npolicy = "a.onnx"\nspec = "a.toml"\n[target]\nname = "boards/mine.toml"',
    ],
    "board": [
        'name = "a"\ncore = "cortex-m7"\nflash = { base = 0, size = 1024 }\n'
        "ram = { base = 0x20000000, size = 1024 }",
        'name = "a"\ncore = "aarch64"\n',
    ],
    "layers": ['[[layer]]\nkind = "dense"\nweight = "w"\n'],
}
BAD = {
    "spec": [
        'name = "a"\n[[observation]]\nname = "mine"\n[[action]]\nname = "motor"\nsize = 4',
        'name = "a"\n[[observation]]\nname = "thrust"\n[[action]]\nname = "motor"',
        'name = "a"\n[[observation]]\nsize = 1\n[[action]]\nname = "thrust"',
        'name = "a b"\n[[observation]]\nname = "thrust"\n[[action]]\nname = "thrust"',
        'name = "a"\nrate = 5\n[[observation]]\nname = "thrust"\n[[action]]\nname = "thrust"',
        'name = "a"\n[[observation]]\nname = "thrust"\nrange = [1]\n[[action]]\nname = "thrust"',
        'name = "a"\nobservation = []\n[[action]]\nname = "thrust"',
    ],
    "recipe": [
        '[source]\npolicy = "raptor"\n[target]\nname = "picco"',
        '[source]\npolicy = "raptor"\n[target]\nname = "pico"\n[check]\nlimits = { rum_bytes = 9 }',
        '[target]\nname = "pico"',
    ],
    "board": [
        'name = "a"\ncore = "cortex-m7"',
        'name = "a"\ncore = "cortex-m8"',
        'name = "a"\ncore = "cortex-m7"\nflash = { base = 0 }\nram = { base = 9, size = 9 }',
        'core = "aarch64"',
    ],
    "layers": ['[[layer]]\nkind = "dense"\n', '[[layer]]\nkind = "magic"\n'],
}


def accepts(kind: str, document: object) -> bool:
    return jsonschema.Draft7Validator(schema_of(kind)).is_valid(document)


@pytest.mark.parametrize("kind", SCHEMAS)
class TestSchema:
    def test_is_a_schema(self, kind):
        made = schema_of(kind)
        assert made["$schema"] == DRAFT and made["title"] == SCHEMAS[kind].title
        jsonschema.Draft7Validator.check_schema(made)

    def test_the_committed_copy_is_what_the_command_prints(self, kind, capsys):
        assert cli.run(["schema", kind]) == 0
        printed = capsys.readouterr().out
        path = DOCS / "schemas" / f"{kind}.json"
        assert path.read_text(encoding="utf-8") == printed, (
            f"edgerl schema {kind} > docs/schemas/{kind}.json"
        )

    def test_every_key_is_described(self, kind):
        made = schema_of(kind)
        tables = [made, *made.get("$defs", {}).values()]
        for table in tables:
            for name, key in table.get("properties", {}).items():
                if "." not in name and key.get("type") != "number":
                    assert key.get("description"), f"{table.get('title')}: {name}"

    def test_says_nothing_that_draft_7_or_toml_lacks(self, kind):
        made = text(schema_of(kind))
        assert '"null"' not in made and "prefixItems" not in made
        for part in re.findall(r'\{[^{}]*"\$ref"[^{}]*\}', made):
            assert len(json.loads(part)) == 1

    def test_takes_good_files_and_no_others(self, kind):
        for document in GOOD[kind]:
            rows = tomllib.loads(document)
            assert accepts(kind, rows), document
            SCHEMAS[kind].model.model_validate(rows)
        for document in BAD[kind]:
            assert not accepts(kind, tomllib.loads(document)), document


@pytest.mark.parametrize(("kind", "page"), PAGES.items())
def test_the_examples_of_the_documentation_fit(kind, page):
    """Every example that names its schema is read by edgerl and by the schema alike."""
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    named = [block for block in blocks if block.startswith("#:schema")]
    assert named
    for block in named:
        assert block.partition("\n")[0] == f"#:schema ./{kind}.schema.json"
        rows = tomllib.loads(block)
        assert accepts(kind, rows)
        SCHEMAS[kind].model.model_validate(rows)


def test_editors_complete_names():
    signal = schema_of("spec")["$defs"]["Signal"]["properties"]["name"]["anyOf"][0]
    assert signal["enum"] == list(VOCABULARY)
    assert len(signal["x-taplo"]["docs"]["enumValues"]) == len(VOCABULARY)
    name = schema_of("recipe")["$defs"]["TargetChoice"]["properties"]["name"]["anyOf"][0]
    assert name["enum"] == list(targets())


def test_every_target_could_be_a_board_file():
    for row in targets().values():
        if row.core.architecture == "native":
            continue
        whole = row.model_dump(mode="json", exclude_defaults=True)
        assert accepts("board", {**whole, "core": row.core.name}), row.name


def test_an_unknown_kind_gets_the_nearest():
    with pytest.raises(UserError, match="unknown kind of file 'recipes'; did you mean 'recipe'"):
        schema_of("recipes")


def test_the_vocabulary_is_listed(capsys):
    assert cli.run(["vocabulary"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in VOCABULARY)
    assert cli.run(["vocabulary", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(VOCABULARY)
    assert all(set(row) == {"name", "size", "unit", "frame", "range", "about"} for row in rows)
