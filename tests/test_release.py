"""What is published: built, installed into an empty environment, and used from there."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, made from the source distribution, and that distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


def test_the_archives_hold_the_product_alone(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("edgerl/")}
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgerl").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert packed == here
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "tests/conftest.py"} <= names
    assert not {name for name in names if name.startswith((".venv", "build/", ".git/"))}
    assert wheel.stat().st_size < 1 << 20 and source.stat().st_size < 2 << 20


def test_the_version_is_in_the_changelog(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    version = wheel.name.split("-")[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_main_job_from_an_empty_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    binaries = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / ("python.exe" if os.name == "nt" else "python")
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[emu,raptor]", cwd=tmp_path)
    installed = run(python, "-m", "pip", "list", cwd=tmp_path)
    assert "torch " not in installed
    job = ("compile", "raptor", "--target", "crazyflie21", "--check", "--json")
    report = json.loads(run(binaries / "edgerl", *job, cwd=tmp_path))
    assert report["ok"] and report["parity"]["bit_exact"]
    assert report["measured"]["flash_bytes"] > 0
    assert (tmp_path / "build" / "raptor-crazyflie21-f32" / "firmware.elf").exists()
