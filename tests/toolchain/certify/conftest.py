"""Images of a package whose code takes every kind of way, once a session."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from edgerl.targets.model import target
from edgerl.toolchain.build import Image, build_firmware, find

# (core, compiler, flags of the package) -> image
Build = Callable[..., Image]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The image of `way` by core, compiler and flags."""

    @cache
    def made(core: str, family: str, *flags: str) -> Image:
        if family == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
            pytest.skip("arm-none-eabi-gcc is not installed")
        goal = target(core)
        return build_firmware(
            Path(__file__).with_name("package"),
            "way",
            goal,
            find(family, goal.core),
            tmp_path_factory.mktemp(f"{core}-{family}"),
            build_id=bytes(32).hex(),
            portable=True,
            flags=flags,
        )

    return made
