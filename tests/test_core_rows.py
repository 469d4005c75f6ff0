"""What a core's row decides for a compile, and which tools `doctor` names for it."""

import shutil
from pathlib import Path

import pytest

from edgerl.diagnosis import diagnose
from edgerl.errors import ToolError, UserError
from edgerl.pipeline import run
from edgerl.recipe import Check, Recipe, Source, TargetChoice
from edgerl.stages import Silence
from edgerl.targets.model import cores
from edgerl.toolchain.build import find


class Listener(Silence):
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def recipe(policy: Path, name: str, output: Path, fma: str = "auto") -> Recipe:
    choice = TargetChoice.model_validate({"name": name, "fma": fma, "output": output})
    return Recipe(source=Source(policy=str(policy)), target=choice)


def test_integer_core_refuses_floats(small_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^atmega2560 takes no f32: .*; formats it takes: w16a16, w8a16, w8a8$"
    ):
        run(recipe(small_policy, "atmega2560", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fma", ["auto", "on", "off"])
def test_core_without_fused_multiply_add(fma: str, small_policy: Path, tmp_path: Path) -> None:
    listener = Listener()
    outcome = run(recipe(small_policy, "x86-64", tmp_path / "out", fma), listener)
    assert outcome.artifact.manifest.numerics == "f32-mul-1"
    assert not outcome.artifact.manifest.fused
    told = ["x86-64 has no fused multiply-add: --fma on becomes off"]
    assert [line for line in listener.said if "fused" in line] == (told if fma == "on" else [])


def test_core_with_fused_multiply_add(small_policy: Path, tmp_path: Path) -> None:
    outcome = run(recipe(small_policy, "aarch64", tmp_path / "out"))
    assert outcome.artifact.manifest.fused
    assert (tmp_path / "out" / "firmware.elf").is_file()
    assert not (tmp_path / "out" / "firmware.bin").exists()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("nothing_installed")
def test_check_without_the_only_emulator(small_policy: Path, tmp_path: Path) -> None:
    asked = recipe(small_policy, "cortex-m55-mve", tmp_path / "out")
    with pytest.raises(
        ToolError,
        match=r"^a check for cortex-m55-mve needs the emulator QEMU, the only one of a "
        r"cortex-m55-mve; qemu-system-arm is not installed: apt-get install qemu-system-arm$",
    ):
        run(asked.model_copy(update={"check": Check(episodes=1)}))
    assert list(tmp_path.iterdir()) == []


def test_check_where_qemu_is_the_only_emulator(small_policy: Path, tmp_path: Path) -> None:
    asked = recipe(small_policy, "cortex-m55-mve", tmp_path / "out")
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
    report = run(asked.model_copy(update={"check": Check(episodes=1)})).report
    assert report.ok
    assert report.counter == "qemu, by basic block"
    assert report.parity is not None
    assert report.parity.between[:3] == ("golden.bin", "host", "zig/qemu")
    assert report.measured.instructions is not None
    assert report.measured.stack_painted_bytes is not None
    assert report.measured.stack_bytes is not None
    assert 0 < report.measured.stack_painted_bytes <= report.measured.stack_bytes


@pytest.mark.usefixtures("nothing_installed")
def test_doctor_names_every_tool_and_its_installation() -> None:
    missing = {tool.name: tool.install for tool in diagnose() if not tool.found}
    for core in cores().values():
        if core.gcc_prefix:
            package = core.gcc_prefix.rstrip("-").replace("_", "-")
            assert missing[f"{core.gcc_prefix}gcc"] == f"apt-get install gcc-{package}"
        if core.qemu:
            assert missing[core.qemu].startswith("apt-get install qemu-")


@pytest.mark.usefixtures("nothing_installed")
def test_missing_compiler_says_what_installs_it() -> None:
    expected: dict[str, str] = {
        "rv32imc": "gcc-riscv64-unknown-elf",
        "aarch64": "gcc-aarch64-linux-gnu",
        "x86-64": "gcc-x86-64-linux-gnu",
        "cortex-m0plus": "gcc-arm-none-eabi",
    }
    for name, package in expected.items():
        with pytest.raises(ToolError, match=f"apt-get install {package}$"):
            find("gcc", cores()[name])


def test_doctor_says_which_cores_a_tool_serves() -> None:
    adds = {tool.name: tool.adds for tool in diagnose()}
    assert adds["riscv64-unknown-elf-gcc"].endswith("rv32imc, rv32imafc")
    assert adds["qemu-aarch64"].endswith("aarch64")
    assert adds["qemu-system-arm"].endswith("cortex-m55; the only one of cortex-m55-mve")
