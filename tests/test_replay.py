"""A recorded log runs through an artifact with the bits it was recorded with, and the answers are
compared, counted and drawn; a bad log is one clear line."""

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import edgerl
from edgerl import cli
from edgerl.errors import UserError
from edgerl.pipeline import run
from edgerl.policies.plants import Hover, rollout
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.recipe import Recipe, Source, TargetChoice
from edgerl.recording import read_recording, spellings
from edgerl.toolchain.artifact import read_artifact
from edgerl.toolchain.build import build_host
from edgerl.toolchain.checks.closed_loop import stepper
from edgerl.toolchain.report.replay_page import _bands, _envelope

STEPS = 300
OBSERVED = [
    *(f"position_error[{i}]" for i in range(3)),
    *(f"rotation_matrix.{i}" for i in range(9)),
    *(f"linear_velocity_{i}" for i in range(3)),
    *(f"angular_velocity[{i}]" for i in range(3)),
    *(f"previous_action[{i}]" for i in range(4)),
]
MOTORS = [f"motor[{i}]" for i in range(4)]


def write(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def columns(path: Path) -> dict[str, list[str]]:
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    return dict(zip(header, zip(*rows, strict=True), strict=True))


def singles(texts: object) -> np.ndarray:
    return np.array([float(text) for text in texts], np.float64).astype(np.float32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAPTOR for the Crazyflie, not checked."""
    choice = TargetChoice(
        name="crazyflie21", fma="on", output=tmp_path_factory.mktemp("raptor") / "artifact"
    )
    return run(Recipe(source=Source(policy="raptor"), target=choice)).artifact.folder


@pytest.fixture(scope="module")
def flown(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, ...]:
    """Observations and actions of two flights in closed loop with the host twin."""
    opened = read_artifact(artifact)
    twin = build_host(opened.source, opened.name, tmp_path_factory.mktemp("host"))
    inner, seen, acted = stepper(twin, "step"), [], []

    def step(observations: np.ndarray) -> np.ndarray:
        actions = inner(observations)
        seen.append(observations.copy())
        acted.append(actions.copy())
        return actions

    quads, start = Hover().draw(2)
    rollout(quads, start, step, steps=STEPS, feedback="clamped")
    # One flight after the other, as a log has them.
    return tuple(np.concatenate([np.array(rows)[:, k] for k in range(2)]) for rows in (seen, acted))


@pytest.fixture
def log(flown: tuple[np.ndarray, ...], tmp_path: Path) -> Path:
    observations, actions = flown
    rows = [
        [repr(0.01 * k), *map(repr, seen), *map(repr, acted), int(k == STEPS), 3.7]
        for k, (seen, acted) in enumerate(zip(observations.tolist(), actions.tolist(), strict=True))
    ]
    return write(tmp_path / "flight.csv", ["time_s", *OBSERVED, *MOTORS, "reset", "battery"], rows)


@pytest.mark.parametrize("on", ["host", "emulated"])
def test_a_flight_comes_back_bit_for_bit(artifact, flown, log, tmp_path, on):
    replayed = edgerl.replay(
        log, artifact, on=on, output=tmp_path / "out", limits={"max_abs_difference": 0.0}
    )
    assert replayed.on == {"host": "host", "emulated": "zig/unicorn"}[on]
    assert (replayed.rows, replayed.resets, replayed.ok) == (2 * STEPS, 2, True)
    assert replayed.max_abs_difference == 0.0
    assert all(a.identical == a.compared == 2 * STEPS for a in replayed.actions)
    assert all(a.first_row is None for a in replayed.actions)
    assert replayed.notes == ("columns ignored: battery",)
    assert replayed.duration_s == pytest.approx(0.01 * (2 * STEPS - 1))
    written = columns(tmp_path / "out" / "actions.csv")
    assert list(written) == ["time_s", "reset", *MOTORS, "status"]
    for k, name in enumerate(MOTORS):
        bits = singles(written[name]).view(np.uint32)
        np.testing.assert_array_equal(bits, np.ascontiguousarray(flown[1][:, k]).view(np.uint32))
    assert [k for k, mark in enumerate(written["reset"]) if mark == "1"] == [0, STEPS]


def test_state_goes_from_row_to_row_and_a_reset_forgets_it(artifact, flown, log, tmp_path):
    forgetful = columns(log)
    del forgetful["reset"]
    path = write(tmp_path / "b.csv", list(forgetful), list(zip(*forgetful.values(), strict=True)))
    replayed = edgerl.replay(path, artifact, output=tmp_path / "out")
    assert replayed.resets == 1
    # The second flight began from reset; without the mark it does not.
    assert {a.first_row for a in replayed.actions} == {STEPS + 1}


def spoiled(log: Path, cells: dict[tuple[int, str], str]) -> Path:
    table = {name: list(values) for name, values in columns(log).items()}
    for (row, name), text in cells.items():
        table[name][row - 1] = text
    rows = list(zip(*table.values(), strict=True))
    return write(log.with_name("spoiled.csv"), list(table), rows)


def test_what_the_guard_objects_to_is_counted_and_named(artifact, log, tmp_path, capfd):
    path = spoiled(
        log,
        {
            (101, "linear_velocity_1"): "",
            (102, "linear_velocity_1"): "nan",
            (103, "rotation_matrix.0"): "-inf",
            (200, "position_error[2]"): "99",
            (50, "motor[1]"): "",
        },
    )
    arguments = ["replay", path, "--artifact", artifact, "-o", tmp_path / "out"]
    assert cli.run([*map(str, arguments), "--json"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["status"] == {
        "out_of_range": 1, "non_finite": 3, "saturated": 1, "held": 3, "fallback": 0,
    }  # fmt: skip
    first = data["first_flagged"]
    assert (first["row"], first["element"]) == (101, "linear_velocity[1]")
    assert [a["compared"] for a in data["actions"]] == [600, 599, 600, 600]
    # The rows that are held differ from those that were recorded, and the first of them is named.
    assert data["actions"][0]["first_row"] == 101
    assert data["max_abs_difference"] == max(a["max_abs_difference"] for a in data["actions"]) > 0
    written = columns(tmp_path / "out" / "actions.csv")
    assert [written["status"][row - 1] for row in (100, 101, 102, 103, 200)] == list("03331")
    held = {written["motor[0]"][row - 1] for row in (100, 101, 102, 103)}
    assert len(held) == 1

    assert cli.run([*map(str, arguments)]) == 0
    out = capfd.readouterr().out
    assert "the guard first objected at row 101: linear_velocity[1] is nan" in out
    assert "first above 0 at row 101" in out


def test_the_bare_network_has_no_guard(artifact, log, tmp_path):
    replayed = edgerl.replay(log, artifact, mode="evaluate", output=tmp_path / "out")
    assert not any(replayed.status.values())
    # A number against a NaN is as far away as can be, and no limit on it is held.
    path = spoiled(log, {(10, "position_error[0]"): "nan"})
    broken = edgerl.replay(
        path, artifact, mode="evaluate", output=tmp_path / "out",
        limits={"max_abs_difference": 1e9, "non_finite": 0},
    )  # fmt: skip
    assert math.isinf(broken.max_abs_difference) and not broken.ok
    assert broken.actions[0].first_row == 10
    assert broken.to_json()["max_abs_difference"] is None
    assert [limit.value for limit in broken.limits] == [math.inf, None]


def test_a_missed_limit_is_exit_code_one(artifact, log, tmp_path, capfd):
    path = spoiled(log, {(7, "motor[2]"): "0.25"})
    arguments = [str(a) for a in ("replay", path, "-a", artifact, "-o", tmp_path / "o", "--limit")]
    assert cli.run([*arguments, "max_abs_difference=10"]) == 0
    assert cli.run([*arguments, "max_abs_difference=1e-6"]) == 1
    out = capfd.readouterr().out
    assert "missed" in out and "first above 1e-06 at row 7" in out
    assert cli.run([*arguments, "out_of_range=0"]) == 0
    assert cli.run([*arguments, "max_difference=1"]) == 2
    assert "did you mean 'max_abs_difference'?" in capfd.readouterr().err
    bare = {n: v for n, v in columns(log).items() if n not in MOTORS}
    write(path, list(bare), list(zip(*bare.values(), strict=True)))
    assert cli.run([*arguments, "max_abs_difference=10"]) == 1


class Seen(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def test_the_page_stands_alone_and_has_a_plot_for_every_action(artifact, log, tmp_path):
    path = spoiled(log, {(100, "position_error[0]"): "", (200, "position_error[0]"): "99"}).rename(
        log.with_name("<b>&.csv")
    )
    edgerl.replay(path, artifact, output=tmp_path / "out")
    text = (tmp_path / "out" / "replay.html").read_text(encoding="utf-8")
    page = Seen(text)
    assert "<b>" not in text and "<b>&.csv" in page.words
    loading = {"script", "img", "link", "iframe", "object"}
    assert not loading & {tag for tag, _ in page.tags}
    assert not re.search(r"(?:src|href)=\"(?!#)", text) and "url(" not in text
    paths = [attributes for tag, attributes in page.tags if tag == "path"]
    drawn = [p.get("class") for p in paths if p["d"] not in ("M0 5H22", "M0 0H22V10H0Z")]
    for role in ("line s0", "line dashed s1", "band outside", "band broken"):
        assert drawn.count(role) == 4, role
    for word in ("motor[0] (fr)", "non finite", "columns ignored: battery", "time, s"):
        assert word in page.words
    assert str(tmp_path) not in text
    again = tmp_path / "again"
    edgerl.replay(path, artifact, output=again)
    assert (again / "replay.html").read_text(encoding="utf-8") == text


def test_long_logs_keep_their_excursions():
    across = np.arange(100_000.0)
    points = np.stack([across, np.zeros_like(across)], axis=1)
    points[77_777, 1], points[5, 1] = 9.0, -3.0
    points[50_000, 1] = np.nan
    few = _envelope(points)
    assert len(few) <= 4000 and (np.diff(few[:, 0]) >= 0.0).all()
    assert (np.nanmin(few[:, 1]), np.nanmax(few[:, 1])) == (-3.0, 9.0)
    np.testing.assert_array_equal(_envelope(points[:4000]), points[:4000])
    where = np.zeros(100_000, bool)
    where[::2] = True
    assert _bands(across / 25.0, where).count("M") == 1
    where[:] = False
    where[[3, 90_000]] = True
    assert _bands(across / 25.0, where).count("M") == 2


def test_time_that_does_not_rise_is_no_axis(artifact, log, tmp_path):
    replayed = edgerl.replay(spoiled(log, {(9, "time_s"): "0"}), artifact, output=tmp_path / "o")
    assert replayed.duration_s is None
    assert "time_s does not rise from row to row; plots are over rows" in replayed.notes
    slow = {n: v for n, v in columns(log).items()}
    slow["time_s"] = [repr(0.02 * k) for k in range(2 * STEPS)]
    path = write(tmp_path / "slow.csv", list(slow), list(zip(*slow.values(), strict=True)))
    replayed = edgerl.replay(path, artifact, output=tmp_path / "o")
    assert "the log has 50 rows a second, the policy runs at 100 Hz" in replayed.notes


SPEC = PolicySpec(
    name="toy",
    observation=(
        Signal(name="height", size=1),
        Signal(name="joint", size=2, labels=("hip", "knee")),
        Signal(name="joint_0", size=1),
    ),
    action=(Signal(name="joint", size=2, labels=("hip", "ankle")),),
)


def test_a_column_may_be_spelt_in_many_ways():
    meant = spellings(SPEC)
    for name in ("height", "observation.height", "height[0]", "height_0"):
        assert meant[name] == ("observation", 0)
    for name in ("joint[0]", "joint.0", "joint[hip]", "observation.joint.hip"):
        assert meant[name] == ("observation", 1)
    assert meant["joint_0"] == ("observation", 3)
    assert meant["knee"] == ("observation", 2) and meant["ankle"] == ("action", 1)
    assert meant["action.joint[1]"] == meant["joint[ankle]"] == ("action", 1)
    # Both have a hip, and both a joint_1.
    assert "hip" not in meant and "joint_1" not in meant


def recording(tmp_path: Path, text: str):
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode())
    return read_recording(path, SPEC)


GOOD = "height,joint[0],joint.1,joint_0\n"


def test_what_a_log_may_look_like(tmp_path):
    read = recording(
        tmp_path,
        "\ufeff" + GOOD.replace("\n", ' , reset,"x,y",ankle\r\n')
        + "1,2, 3 ,4e0,,?,\r\n\r\n,-nan,inf,1e300,TRUE,?,0.1\r\n",
    )  # fmt: skip
    expected = np.array([[1, 2, 3, 4], [np.nan, np.nan, np.inf, np.inf]], np.float32)
    np.testing.assert_array_equal(read.observations, expected)
    np.testing.assert_array_equal(read.actions[:, 1], np.array([np.nan, 0.1], np.float32))
    assert read.resets.tolist() == [True, True] and read.time_s is None
    assert np.isnan(read.actions[:, 0]).all() and read.ignored == ("x,y",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty; its first row must name the columns"),
        (GOOD, "has a header and no rows"),
        ("hight,joint[0],joint.1,joint_0\n1,2,3,4\n", "no column height; did you mean 'hight'?"),
        ("height,joint[0]\n1,2\n", "has no column joint[1]"),
        (GOOD.replace(",", ";") + "1;2;3;4\n", "columns must be separated by commas"),
        (GOOD.replace("\n", ",joint[hip]\n") + "1,2,3,4,5\n", "'joint[0]' and 'joint[hip]' are"),
        (GOOD + "1,2,3,4\n1,2,3\n", "line 3 has 3 cells, the header has 4"),
        (GOOD + "1,2,oops,4\n", "line 2, column joint.1: 'oops' is no number"),
        (GOOD.replace("\n", ",reset\n") + "1,2,3,4,2\n", "column reset: '2' is neither 0 nor 1"),
        (GOOD + '1,2,3,"4\n', "line 2: not CSV"),
        (GOOD + "1,2,3," + "4" * (1 << 20) + "\n", "a row of more than a million characters"),
        (GOOD + "1,2,3," + "4" * 200_000 + "\n", "not CSV (field larger"),
    ],
)
def test_a_bad_log_is_one_line(tmp_path, text, complaint):
    with pytest.raises(UserError) as caught:
        recording(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(str(tmp_path / "log.csv")) and complaint in line
    assert "\n" not in line and len(line) < 400


def test_a_log_has_bounds(tmp_path, monkeypatch):
    from edgerl import recording as module

    text = GOOD + "1,2,3,4\n" * 10
    monkeypatch.setattr(module, "MOST_ROWS", 9)
    with pytest.raises(UserError, match="has more than 9 rows; split the log"):
        recording(tmp_path, text)
    monkeypatch.setattr(module, "MOST_BYTES", 64)
    with pytest.raises(UserError, match="is larger than"):
        recording(tmp_path, text)


def test_a_log_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_recording(tmp_path / "none.csv", SPEC)
    with pytest.raises(UserError, match="cannot be read"):
        read_recording(tmp_path, SPEC)
    (tmp_path / "bits.csv").write_bytes(b"\xff\xfe\x00h")
    with pytest.raises(UserError, match=r"is no UTF-8 text"):
        read_recording(tmp_path / "bits.csv", SPEC)


def test_help_has_an_example(capfd):
    assert cli.run(["replay", "-h"]) == 0
    assert "Example:  edgerl replay flight.csv" in capfd.readouterr().out


def test_a_log_is_never_overwritten(artifact, log, tmp_path):
    mine = log.rename(tmp_path / "actions.csv")
    before = mine.read_bytes()
    with pytest.raises(UserError, match="would be overwritten"):
        edgerl.replay(mine, artifact, output=tmp_path)
    assert mine.read_bytes() == before


def test_a_target_without_an_emulated_core_says_so(small_policy, tmp_path):
    choice = TargetChoice(name="host", output=tmp_path / "a")
    folder = run(Recipe(source=Source(policy=str(small_policy)), target=choice)).artifact.folder
    path = write(tmp_path / "l.csv", [f"observation[{i}]" for i in range(3)], [[0, 0, 0]])
    with pytest.raises(UserError, match="no emulated core; replay on the host"):
        edgerl.replay(path, folder, on="emulated", output=tmp_path / "o")
    replayed = edgerl.replay(path, folder, output=tmp_path / "o")
    assert replayed.max_abs_difference is None and replayed.ok
    assert "nothing was compared" in (tmp_path / "o" / "replay.html").read_text(encoding="utf-8")
