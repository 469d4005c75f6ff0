"""Recipes: what they say, what is refused, and what an edited one computes again."""

import json
import shutil
from collections import Counter
from pathlib import Path

import onnx
import pytest
from graphs import Graph

import edgerl
from edgerl import checking, cli, pipeline
from edgerl.errors import UserError
from edgerl.recipe import Check, Recipe, load_recipe
from edgerl.stages import StageCache
from edgerl.toolchain.artifact import read_artifact

# Everything that a cached stage computes, by the module that calls it.
COMPUTED = {
    "counted": checking,
    "parity": checking,
    "against_onnxruntime": checking,
    "single_step_error": checking,
    "closed_loop": checking,
    "same_flights": checking,
}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each of them is called, from here on."""
    calls: Counter[str] = Counter()
    for name, module in COMPUTED.items():
        whole = getattr(module, name)

        def counting(*args: object, name: str = name, whole=whole, **more: object) -> object:
            calls[name] += 1
            return whole(*args, **more)

        monkeypatch.setattr(module, name, counting)
    return calls


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_recipe(tmp_path, small_policy, monkeypatch):
    folder = tmp_path / "project"
    recipe = write(
        folder / "recipe.toml",
        '[source]\npolicy = "nets/policy.onnx"\nspec = "spec.toml"\n'
        '[target]\nname = "host"\noutput = "out/artifact"\n',
    )
    (folder / "nets").mkdir()
    shutil.copyfile(small_policy, folder / "nets" / "policy.onnx")
    write(
        folder / "spec.toml",
        'name = "named"\n[[observation]]\nname = "joint_position"\nsize = 3\n'
        '[[action]]\nname = "torque"\nsize = 2\n',
    )
    monkeypatch.chdir(tmp_path)
    outcome = pipeline.run(load_recipe(Path("project/recipe.toml")))
    assert outcome.artifact.name == "named"
    assert outcome.artifact.folder == Path("project/out/artifact")
    assert load_recipe(recipe).check is None and not outcome.report.checked
    assert sorted(p.name for p in tmp_path.iterdir()) == ["project"]


def test_a_family_is_no_file(tmp_path):
    write(tmp_path / "raptor", "a file of that name")
    recipe = write(tmp_path / "r.toml", '[source]\npolicy = "raptor"\n[target]\nname = "host"\n')
    assert load_recipe(recipe).source.policy == "raptor"


def test_a_missing_policy_is_named_where_it_was_looked_for(tmp_path):
    text = '[source]\npolicy = "gone.onnx"\n[target]\nname = "host"\n'
    recipe = write(tmp_path / "a" / "r.toml", text)
    with pytest.raises(UserError, match=r"gone\.onnx: cannot be read") as error:
        pipeline.run(load_recipe(recipe))
    assert str(tmp_path / "a" / "gone.onnx") in str(error.value)


WHOLE = '[source]\npolicy = "raptor"\n[target]\nname = "host"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (WHOLE + "[chekc]\n", "chekc"),
        (WHOLE + 'colour = "red"\n', "target.colour"),
        (WHOLE + "[check]\nepisods = 4\n", "check.episods"),
        (WHOLE + "[check]\nepisodes = 0\n", "check.episodes"),
        (WHOLE + "[check]\nlimits = { flash = 1 }\n", "'flash'"),
        (WHOLE + "[check]\nlimits = { flash_bytes = nan }\n", "check.limits.flash_bytes"),
        (WHOLE + "[check]\nlimits = { flash_bytes = inf }\n", "check.limits.flash_bytes"),
        (WHOLE + "[check]\nlimits = { flash_bytes = -1 }\n", "check.limits.flash_bytes"),
        (WHOLE + 'compiler = "msvc"\n', "target.compiler"),
        (WHOLE + 'format = "w7a7"\n', "target.format"),
        ('[source]\npolicy = "raptor"\n', "target"),
        ('[target]\nname = "host"\n', "source"),
        ("source = 3\n", "source"),
        ("[source\n", "not TOML"),
        ("x = " + "[" * 5000 + "]" * 5000, "not TOML"),
        ("# " + "x" * (1 << 20), "larger than 1 MiB"),
    ],
    ids=lambda value: value[-30:] if isinstance(value, str) else "",
)
def test_what_is_no_recipe_is_refused_by_name(text, says, tmp_path):
    path = write(tmp_path / "r.toml", text)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    message = str(error.value)
    assert says in message and "\n" not in message
    assert str(path) in message or "limit" in message


def test_a_recipe_that_is_no_text(tmp_path):
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_recipe(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path)


def test_options_that_a_recipe_states_itself_are_refused(tmp_path, capsys):
    recipe = write(tmp_path / "r.toml", WHOLE)
    for option in (("-t", "host"), ("--fma", "on"), ("-o", "x"), ("--limit", "ram_bytes=1")):
        assert cli.run(["compile", str(recipe), *option]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and "is a recipe" in captured.err
        assert captured.err.count("\n") == 1


def test_check_can_be_asked_of_a_recipe_without_one(tmp_path, monkeypatch):
    recipe, asked = write(tmp_path / "r.toml", WHOLE), []

    def run(recipe: Recipe, *_: object) -> None:
        asked.append(recipe.check)
        raise UserError("seen")

    monkeypatch.setattr(pipeline, "run", run)
    cli.run(["compile", str(recipe)])
    cli.run(["compile", str(recipe), "--check"])
    write(recipe, WHOLE + "[check]\nepisodes = 7\n")
    cli.run(["compile", str(recipe), "--check"])
    assert asked == [None, Check(), Check(episodes=7)]


def test_an_edited_recipe_computes_only_what_changed(tmp_path, computed):
    cache = StageCache(tmp_path / "cache")

    def run(check: str) -> pipeline.Outcome:
        text = WHOLE + f'output = "out"\n[check]\n{check}\n'
        return pipeline.run(load_recipe(write(tmp_path / "r.toml", text)), cache=cache)

    first = run("episodes = 8")
    assert computed == {
        "parity": 1, "against_onnxruntime": 1, "single_step_error": 1,
        "closed_loop": 2,
    }  # fmt: skip
    computed.clear()
    again = run("episodes = 8\nlimits = { state_bytes = 1 }")
    assert computed == {}
    assert again.report.parity == first.report.parity
    assert again.report.closed_loop == first.report.closed_loop
    assert not again.report.ok
    more = run("episodes = 9")
    assert computed == {"closed_loop": 2}
    assert [flown.episodes for flown in more.report.closed_loop] == [9, 9]


def test_a_changed_policy_is_computed_anew(tmp_path, computed):
    cache, path = StageCache(tmp_path / "cache"), tmp_path / "p.onnx"
    text = '[source]\npolicy = "p.onnx"\n[target]\nname = "host"\noutput = "out"\n[check]\n'
    recipe = write(tmp_path / "r.toml", text)

    def save(scale: float) -> None:
        graph = Graph(seed=5)
        observation = ("observation", 2)
        action = graph.one("Mul", graph.dense(observation, 2)[0], graph.scalar(scale))
        onnx.save(graph.model(observation, (action, 2)), path)

    save(1.0)
    first = pipeline.run(load_recipe(recipe), cache=cache)
    computed.clear()
    pipeline.run(load_recipe(recipe), cache=cache)
    assert computed == {}
    save(2.0)
    second = pipeline.run(load_recipe(recipe), cache=cache)
    stages = ("parity", "against_onnxruntime", "single_step_error")
    assert computed == dict.fromkeys(stages, 1)
    assert second.artifact.manifest.build_id != first.artifact.manifest.build_id


def test_an_artifact_is_checked_without_a_cache_and_anywhere(
    recurrent_artifact, tmp_path, monkeypatch, computed
):
    monkeypatch.setenv("EDGERL_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("edgerl.toolchain.checks.measure.COUNTED_INPUTS", 64)
    moved = shutil.copytree(recurrent_artifact, tmp_path / "elsewhere" / "renamed")
    report = checking.check(read_artifact(moved), Check(cross_check=False))
    assert report.ok and report.parity.bit_exact
    assert computed["parity"] == computed["counted"] == 1


# The same from Python


def test_compile_and_check_from_python(recurrent_policy, tmp_path):
    outcome = edgerl.compile(
        recurrent_policy, target="host", output=str(tmp_path / "a"), limits={"state_bytes": 1}
    )
    # Limits ask for a check.
    assert outcome.artifact.folder == tmp_path / "a"
    assert outcome.report.checked and not outcome.report.ok
    assert [limit.name for limit in outcome.report.limits if not limit.held] == ["state_bytes"]
    report = edgerl.check(str(tmp_path / "a"), limits={"state_bytes": 1000})
    assert report.checked and report.ok and report.parity.bit_exact
    assert json.loads((tmp_path / "a" / "report.json").read_text())["ok"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"target": "nowhere"}, "unknown target"),
        ({"target": "host", "fma": "maybe"}, "target.fma"),
        ({"target": "host", "compiler": "msvc"}, "target.compiler"),
        ({"target": "host", "limits": {"speed": 1.0}}, "'speed'"),
        ({"target": "host", "limits": {"ram_bytes": float("nan")}}, "ram_bytes"),
        ({"target": "host", "spec": "missing.toml"}, "missing.toml"),
    ],
)
def test_mistakes_from_python_are_user_errors(more, says, small_policy, tmp_path):
    with pytest.raises(edgerl.UserError, match=says):
        edgerl.compile(small_policy, output=tmp_path / "a", **more)
    assert not (tmp_path / "a").exists()


def test_check_from_python_refuses_what_is_no_artifact(tmp_path):
    with pytest.raises(edgerl.UserError, match="no artifact"):
        edgerl.check(tmp_path)
    with pytest.raises(edgerl.UserError, match="'speed'"):
        edgerl.check(tmp_path, limits={"speed": 1.0})


def test_load_from_python(small_policy):
    policy = edgerl.load(small_policy)
    assert isinstance(policy, edgerl.Policy) and isinstance(policy.spec, edgerl.PolicySpec)
    assert policy.parameters == 3 * 4 + 4 + 4 * 2 + 2


def test_recipes_are_values():
    one, other = (
        Recipe.model_validate({"source": {"policy": "raptor"}, "target": {"name": "host"}})
        for _ in range(2)
    )
    assert one == other
    with pytest.raises(ValueError, match="frozen"):
        one.source = None
