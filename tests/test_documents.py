"""Files that users write: what is said of a mistake in one."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from edgerl.documents import read_toml, validated
from edgerl.errors import UserError, suggestion
from edgerl.policies import load, load_spec
from edgerl.policies.vocabulary import VOCABULARY, doubts
from edgerl.recipe import Recipe

SPEC = """
name = "hover"
[[observation]]
name = "position_error"
[[observation]]
name = "battery"
size = 1
[[action]]
name = "motor"
size = 4
"""


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    length: int = Field(ge=1, lt=9, description="The length. In metres.")
    kind: Literal["red", "green"] = "red"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    inner: Inner | None = None
    several: tuple[Inner, ...] = Field(default=(), max_length=2)
    named: dict[str, Inner] = Field(default_factory=dict)
    pair: tuple[float, float] = (0.0, 1.0)
    flag: bool = False
    text: str = ""
    share: float = Field(default=0.5, gt=0.0, le=1.0, allow_inf_nan=False)


def said(rows: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        validated(Outer, rows, "file.toml")
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ({"iner": {}}, "iner: unknown key; did you mean 'inner'?"),
        ({"zzz": 1}, "zzz: unknown key; known: inner, several, named, pair, flag, text, share"),
        ({"inner": {"lengt": 1}}, "inner.lengt: unknown key; did you mean 'length'? (and 1 more)"),
        (
            {"several": [{"length": 1, "kid": 1}]},
            "several.0.kid: unknown key; did you mean 'kind'?",
        ),
        ({"named": {"a": {"length": 1, "x": 1}}}, "named.a.x: unknown key; known: length, kind"),
        ({"inner": {}}, "inner.length: missing; give the length"),
        ({"pair": [1]}, "pair.1: missing; the list ends too early"),
        ({"pair": [1, 2, 3]}, "pair: must have at most 2 entries, has 3"),
        ({"several": [{"length": 1}] * 3}, "several: must have at most 2 entries, has 3"),
        ({"inner": {"length": 0}}, "inner.length: must be at least 1, not 0"),
        ({"inner": {"length": 9}}, "inner.length: must be less than 9, not 9"),
        ({"inner": {"length": 1.5}}, "inner.length: must be a whole number, not 1.5"),
        ({"inner": {"length": "x"}}, "inner.length: must be a whole number, not 'x'"),
        ({"share": 0}, "share: must be more than 0.0, not 0"),
        ({"share": 2}, "share: must be at most 1.0, not 2"),
        ({"share": float("nan")}, "share: must be a finite number, not nan"),
        ({"share": "much"}, "share: must be a number, not 'much'"),
        ({"flag": "perhaps"}, "flag: must be true or false, not 'perhaps'"),
        ({"text": 3}, "text: must be text in quotes, not 3"),
        ({"text": True}, "text: must be text in quotes, not true"),
        ({"text": ["a"]}, "text: must be text in quotes, not a list"),
        ({"inner": 3}, "inner: must be a table, not 3"),
        ({"named": 3}, "named: must be a table, not 3"),
        ({"several": {"length": 1}}, "several: must be a list, not a table"),
        (
            {"inner": {"length": 1, "kind": "gren"}},
            "inner.kind: must be 'red' or 'green', not 'gren'",
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_a_mistake_is_told_in_our_own_words(rows, line):
    assert said(rows) == f"file.toml: {line}"


def test_a_long_or_unprintable_value_stays_one_short_line():
    assert len(said({"flag": "x" * 10_000})) < 150
    assert "\x1b" not in said({"\x1b[31m": 1})
    assert "\x1b" not in said({"flag": "\x1b[31m"})


def test_a_wrong_entry_does_not_make_its_list_too_short():
    row = validated(Outer, {"several": []}, "file.toml")
    assert row.several == ()
    assert said({"several": [{"length": 0}]}).endswith("not 0")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("size = 1", "size = 1\nrnage = [0, 1]", "observation.1.rnage: unknown key; did you mean"),
        ("size = 1", "", "observation.1.size: missing; give the number of elements"),
        ("size = 1", "sise = 1", "observation.1.sise: unknown key; did you mean 'size'?"),
        ("size = 4", "size = 4\nrange = [1, 0]", "action.0: range [1.0, 0.0] must be finite"),
        ('name = "hover"', 'name = "hover"\nfeedback = "claped"', "feedback: must be 'raw', '"),
        ('name = "hover"', 'name = "hover!"', "name: 'hover!' is not a usable name"),
        ('name = "hover"', 'name = "hover"\nrate = 5', "rate: unknown key; did you mean 'rate"),
        ("[[action]]", "[action]", "action: must be a list, not a table"),
    ],
)
def test_a_spec_is_refused_by_key(old, new, says, tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(SPEC.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_spec(path)
    line = str(caught.value).replace("action.0.range: range", "action.0: range")
    assert line.startswith(f"{path}: {says}")


def test_a_recipe_is_refused_by_key():
    rows = {"source": {"policy": "raptor"}, "target": {"nam": "host"}}
    with pytest.raises(UserError, match=r"r\.toml: target\.nam: unknown key; did you mean 'name'"):
        validated(Recipe, rows, "r.toml")


def test_reading(tmp_path):
    path = tmp_path / "x.toml"
    for content, says in (
        (b"a = ", "not TOML"),
        (b"a = '\xff'", "not UTF-8 text"),
        (b"#" * ((1 << 20) + 1), "larger than 1 MiB; that is no recipe"),
        (b"a = " + b"[" * 100_000, "not TOML"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=says):
            read_toml(path, "recipe")
    with pytest.raises(UserError, match="cannot be read"):
        read_toml(tmp_path, "recipe")
    path.write_bytes(b"a = 1")
    assert read_toml(path, "recipe") == {"a": 1}


def test_suggestions():
    assert suggestion("hoover", ["hover", "figure8"]) == "did you mean 'hover'?"
    assert suggestion("x", ["hover", "figure8"]) == "known: hover, figure8"


# Names near those of the vocabulary


@pytest.mark.parametrize("name", [*VOCABULARY, "battery", "motor_left", "left_motor", "sum"])
def test_no_doubt_about(name):
    assert doubts([name]) == ()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("linear_velocty", "linear_velocity"),
        ("joint_positions", "joint_position"),
        ("motors", "motor"),
        ("rotation_matrx", "rotation_matrix"),
    ],
)
def test_a_name_near_the_vocabulary_is_remarked(name, near):
    (remark,) = doubts([name])
    assert repr(name) in remark and repr(near) in remark


def test_a_loaded_policy_tells_its_doubts(small_policy: Path, tmp_path):
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'name = "a"\n[[observation]]\nname = "linear_acceleraton"\nsize = 3\n'
        '[[action]]\nname = "motor"\nsize = 2\n',
        encoding="utf-8",
    )
    assert any("'linear_acceleration'" in line for line in load(small_policy, spec).assumed)


def test_an_unknown_policy_gets_the_nearest():
    with pytest.raises(UserError, match=r"'raptr' is no policy: give 'raptor' \(did you mean that"):
        load("raptr")
