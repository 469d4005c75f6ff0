"""A hand-made C package of the emitted shape, and what is built from it, once a session."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgerl.targets.model import target
from edgerl.toolchain.build import HostTwin, Image, build_firmware, build_host, find

TEMPLATES = Path(__file__).parent / "build" / "package"
BUILD_ID = bytes(range(32)).hex()
# (target name, compiler name, portable) -> image
Images = Callable[..., Image]


def write_package(folder: Path) -> Path:
    """Write the package `net` to `folder`. Its weights are eighths, so that the golden action
    is exact in any arithmetic and can be computed here."""
    rng = np.random.default_rng(3)
    first = rng.integers(-8, 9, (8, 7)) / 8.0
    first_bias = rng.integers(-4, 5, 8) / 8.0
    second = rng.integers(-8, 9, (2, 8)) / 8.0
    second_bias = rng.integers(-4, 5, 2) / 8.0
    weights = np.concatenate([first_bias, first.T.ravel(), second_bias, second.T.ravel()])
    x = np.array([1.0, -0.5, 0.25, 0.0, 0.0, 0.0, 0.0])
    golden = second @ np.maximum(first @ x + first_bias, 0.0) + second_bias
    folder.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    for name in ("net.c", "net.h", "net_kernels.S"):
        text = environment.get_template(f"{name}.j2").render(
            weights=[float(w) for w in weights],
            golden=[int(b) for b in golden.astype(np.float32).view(np.uint32)],
        )
        (folder / name).write_text(text, newline="\n")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGERL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def twin(package: Path, tmp_path_factory: pytest.TempPathFactory) -> HostTwin:
    return build_host(package, "net", tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def images(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Firmware of `net` by target name, compiler name and whether it is the portable twin."""

    @cache
    def build(target_name: str, family: str, portable: bool = False) -> Image:
        board = target(target_name)
        if family == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
            pytest.skip("arm-none-eabi-gcc is not installed")
        return build_firmware(
            package,
            "net",
            board,
            find(family, board.core),
            tmp_path_factory.mktemp(f"{target_name}-{family}"),
            build_id=BUILD_ID,
            portable=portable,
        )

    return build


@pytest.fixture(scope="session")
def flight() -> tuple[np.ndarray, np.ndarray]:
    """3,000 observations and their reset marks; some values are tiny, huge or zero."""
    rng = np.random.default_rng(5)
    observations = rng.normal(size=(3000, 3)).astype(np.float32)
    observations[::97] *= np.float32(1e-38)
    observations[::101] *= np.float32(1e6)
    observations[::103] = 0.0
    return observations, rng.random(3000) < 0.01


@pytest.fixture(scope="session")
def qemu() -> None:
    """Skip where the second emulator is not installed."""
    if shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")
