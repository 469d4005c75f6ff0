"""Artifacts: whole or absent, the same for the same inputs, and nothing in them unlisted."""

import getpass
import json
import re
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerl.checking import check
from edgerl.errors import ToolError, UserError
from edgerl.pipeline import run
from edgerl.recipe import Check, Recipe, Source, TargetChoice
from edgerl.targets import target
from edgerl.toolchain.artifact import (
    build_id,
    published,
    read_artifact,
    require_free,
    write_aside,
    write_manifest,
)
from edgerl.toolchain.build import build_firmware, find
from edgerl.toolchain.compiling import identify
from edgerl.toolchain.emulators import QemuCore, UnicornCore
from edgerl.toolchain.emulators.requests import greeting_replies, greeting_requests
from edgerl.toolchain.manifest import MANIFEST, read_manifest

REPORTS = {"report.json", "report.html"}


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def artifact(small_artifact: Path, tmp_path: Path) -> Path:
    """An artifact to spoil."""
    return shutil.copytree(small_artifact, tmp_path / "artifact")


def test_the_manifest_lists_every_file(artifact):
    listed = set(read_artifact(artifact).manifest.files)
    assert names(artifact) == listed | REPORTS | {MANIFEST}
    assert listed == {
        "policy.onnx", "golden.bin", "firmware.elf", "firmware.bin", "sbom.cdx.json",
        "src/small.c", "src/small.h", "src/small_cortex_m_fpu.S",
    }  # fmt: skip


def test_any_change_of_any_file_is_refused_by_name(artifact):
    for name in read_artifact(artifact).manifest.files:
        path = artifact / name
        whole = path.read_bytes()
        for changed in (whole + b" ", whole[:-1], whole[:5] + bytes([whole[5] ^ 1]) + whole[6:]):
            path.write_bytes(changed)
            with pytest.raises(UserError, match=f"{re.escape(name)} was altered"):
                read_artifact(artifact)
        path.unlink()
        with pytest.raises(UserError, match=f"{re.escape(name)} is missing"):
            read_artifact(artifact)
        path.mkdir()
        with pytest.raises(UserError, match=f"{re.escape(name)} is missing"):
            read_artifact(artifact)
        path.rmdir()
        path.write_bytes(whole)
    read_artifact(artifact)


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "src/more.c", "src/.x", "deep/er/x"])
def test_any_added_file_is_refused_by_name(artifact, name):
    (artifact / name).parent.mkdir(parents=True, exist_ok=True)
    (artifact / name).write_text("x")
    with pytest.raises(UserError, match=f"{re.escape(name)} is not in the manifest"):
        read_artifact(artifact)


def test_links_are_no_files(artifact, tmp_path):
    whole = artifact / "src" / "small.c"
    outside = shutil.move(whole, tmp_path / "outside.c")
    try:
        whole.symlink_to(outside)
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.raises(UserError, match=r"src/small\.c was altered"):
        read_artifact(artifact)
    whole.unlink()
    shutil.move(outside, whole)
    (artifact / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="linked is not in the manifest"):
        read_artifact(artifact)


def test_reports_may_come_and_go(artifact):
    (artifact / "report.json").write_text("{}")
    (artifact / "report.html").unlink()
    (artifact / "manifest.sig").write_text("signed")
    read_artifact(artifact)


@given(data=st.data())
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_manifest_ends_in_anything_but_a_user_error(small_artifact, tmp_path, data):
    """One value of the manifest replaced or removed, at any depth."""
    rows = json.loads((small_artifact / MANIFEST).read_text())
    place = rows
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        break
    scalars = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text("aZ0./é", max_size=5)
    )
    before = place.pop(key)
    if data.draw(st.booleans()):
        value = data.draw(scalars | st.lists(scalars, max_size=3) | st.just({"a": 1}))
        place[key] = value
        if repr(value) == repr(before):
            return
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / MANIFEST).write_text(json.dumps(rows))
    try:
        read_manifest(folder)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '{"build_id": "x"}',
        "[" * 100_000,
        '{"schema": 2, "build_id": 1}',
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / MANIFEST))):
        read_artifact(tmp_path)


def test_two_compiles_give_the_same_bytes(small_policy, small_artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied = shutil.copyfile(small_policy, tmp_path / "small.onnx")
    choice = TargetChoice(name="cortex-m4f", fma="on", output=Path("another/place"))
    folder = run(Recipe(source=Source(policy=copied.name), target=choice)).artifact.folder
    assert names(folder) == names(small_artifact)
    for name in names(folder) - REPORTS:
        assert (folder / name).read_bytes() == (small_artifact / name).read_bytes(), name


def test_no_file_knows_the_machine_or_the_time(small_artifact, raptor, tmp_path):
    places = {str(Path.home()), str(Path(__file__).parents[2]), tempfile.gettempdir(), "/pytest-"}
    places |= {f"/{getpass.getuser()}/", socket.gethostname() + "."}
    secrets = [place.encode() for place in places if len(place) > 3]
    times = re.compile(rb"20[2-9]\d-[01]\d-[0-3]\d[T ]\d\d:\d\d|\b\d\d:\d\d:\d\d\b")
    for folder in (small_artifact, raptor.artifact.folder):
        for name in names(folder):
            content = (folder / name).read_bytes()
            assert not [s for s in secrets if s in content], name
            assert not times.search(content), name


def test_the_running_firmware_states_the_manifests_build_id(small_artifact, tmp_path):
    artifact = read_artifact(small_artifact)
    board = target("cortex-m4f")
    compiler = find("zig", board.core)
    wanted = artifact.manifest.build_id
    image = build_firmware(
        artifact.source, artifact.name, board, compiler, tmp_path, build_id=wanted
    )
    assert image.elf.read_bytes() == (small_artifact / "firmware.elf").read_bytes()
    core = UnicornCore(image, board)
    assert greeting_replies(core.run_main(greeting_requests())) == (wanted, 0)
    try:
        machine = QemuCore(image, board)
    except ToolError:
        return
    assert machine.greet() == (wanted, 0)


def test_the_build_id_is_of_everything_that_goes_in(artifact):
    manifest = read_artifact(artifact).manifest
    compiler = manifest.compiler

    def identity(goal=manifest.target, version=compiler.version, flags=compiler.flags) -> str:
        return identify(artifact, goal, version, flags)

    assert identity() == manifest.build_id
    slower = manifest.target.model_copy(update={"clock_hz": 1})
    others = {identity(goal=slower), identity(version="zig 0"), identity(flags=("-O3",))}
    for name in ("policy.onnx", "golden.bin", "src/small.c", "src/small.h"):
        whole = (artifact / name).read_bytes()
        (artifact / name).write_bytes(whole + b"\n")
        others.add(identity())
        (artifact / name).write_bytes(whole)
    assert len(others | {manifest.build_id}) == 8


def test_build_ids_keep_parts_apart():
    one = build_id({"a": b"bc", "d": b""})
    assert one == build_id({"d": b"", "a": b"bc"})
    assert len({one, build_id({"a": b"b", "cd": b""}), build_id({"ab": b"c", "d": b""})}) == 3


# Publishing


def test_what_fails_leaves_nothing(tmp_path):
    for error in (ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), published(tmp_path / "new" / "a") as aside:
            (aside / "half").write_text("x")
            raise error
    assert list((tmp_path / "new").iterdir()) == []


def test_what_fails_leaves_the_artifact_that_stood_there(artifact):
    before = {name: (artifact / name).read_bytes() for name in names(artifact)}
    with pytest.raises(KeyboardInterrupt), published(artifact) as aside:
        (aside / "half").write_text("x")
        raise KeyboardInterrupt
    assert {name: (artifact / name).read_bytes() for name in names(artifact)} == before
    assert [p.name for p in artifact.parent.iterdir()] == ["artifact"]


def test_an_interrupted_exchange_brings_the_old_one_back(artifact, monkeypatch):
    before = names(artifact)
    exchange, calls = Path.replace, []

    def once(path: Path, new: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return exchange(path, new)

    monkeypatch.setattr(Path, "replace", once)
    with pytest.raises(KeyboardInterrupt), published(artifact) as aside:
        (aside / "half").write_text("x")
    assert names(artifact) == before
    assert [p.name for p in artifact.parent.iterdir()] == ["artifact"]


def test_an_artifact_is_replaced_whole(artifact):
    with published(artifact) as aside:
        (aside / "new").write_text("x")
    assert names(artifact) == {"new"}
    assert [p.name for p in artifact.parent.iterdir()] == ["artifact"]


def test_what_is_free(artifact, tmp_path):
    require_free(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty")
    require_free(artifact)
    (artifact / "src" / "mine.c").write_text("mine")
    with pytest.raises(UserError, match=r"mine\.c: is no part of the artifact"):
        require_free(artifact)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="stands in the way"):
        require_free(tmp_path / "file")


def test_one_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_aside(path, "new \ud800")
    assert path.read_text() == "old"
    write_aside(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(UserError, match="cannot be written"):
        write_aside(tmp_path / "absent" / "report.json", "x")


# Parts that are whole, but of different artifacts


def relisted(artifact: Path) -> Path:
    """The folder with a manifest that lists what now lies there."""
    write_manifest(artifact, read_manifest(artifact))
    return artifact


def test_golden_traces_of_another_artifact_are_refused(artifact, recurrent_artifact):
    shutil.copyfile(recurrent_artifact / "golden.bin", artifact / "golden.bin")
    with pytest.raises(UserError, match=r"golden\.bin: of another artifact"):
        check(read_artifact(relisted(artifact)), Check(cross_check=False))


def test_a_policy_of_another_artifact_is_refused(artifact, recurrent_artifact):
    shutil.copyfile(recurrent_artifact / "policy.onnx", artifact / "policy.onnx")
    with pytest.raises(UserError, match=r"policy\.onnx: of another artifact"):
        check(read_artifact(relisted(artifact)), Check(cross_check=False))


def test_firmware_that_is_none_is_refused(artifact):
    (artifact / "firmware.elf").write_bytes(b"no firmware")
    with pytest.raises(ToolError, match=r"firmware\.elf: not a readable ELF file"):
        check(read_artifact(relisted(artifact)), Check(cross_check=False))


def test_sources_that_are_gone_are_refused(artifact):
    (artifact / "src" / "small.h").unlink()
    with pytest.raises(UserError, match=r"no small\.h"):
        check(read_artifact(relisted(artifact)), Check(cross_check=False))
