"""What certificates say of a linked image: proved, measured, or not applicable and why."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgerl.targets.model import target
from edgerl.toolchain.build import Image, footprint
from edgerl.toolchain.certify import image as certifying
from edgerl.toolchain.certify.image import float_routines, of_image
from edgerl.toolchain.certify.paths import walk
from edgerl.toolchain.emulators import UnicornCore, count
from edgerl.toolchain.report.model import Measured, Spread

Build = Callable[..., Image]
# A call graph has no bound where a table of jumps could lead anywhere.
PLAIN = "-fno-jump-tables"
SEEN = np.random.default_rng(8).normal(size=(20, 8)).astype(np.float32)


def counted(image: Image, core: str) -> Measured:
    return Measured(instructions=count(UnicornCore(image, target(core)), SEEN).spread)


@pytest.mark.parametrize("core", ["cortex-m0plus", "rv32imc"])
def test_a_way_that_no_data_decide_is_proved(core: str, build: Build) -> None:
    image = build(core, "zig", PLAIN)
    said = of_image(image, counted(image, core), no_float=True)
    for name in ("no_data_branch", "constant_instructions", "no_float", "no_outside_calls"):
        assert (said[name].value, said[name].kind) == (True, "proved"), name
    assert "way_evaluate" in said["no_data_branch"].method


def test_counts_that_a_walk_contradicts_fail(build: Build) -> None:
    image = build("cortex-m0plus", "zig", PLAIN)
    steps = walk(image, "way_evaluate").instructions
    for least, most in ((steps - 1, steps), (steps + 1, steps + 1)):
        said = of_image(image, Measured(instructions=Spread(least, most, float(most))))
        constant = said["constant_instructions"]
        assert (constant.value, constant.kind) == (False, "measured")


@pytest.mark.parametrize(("spread", "held"), [((7, 7), True), ((7, 8), False)])
def test_what_is_not_shown_is_measured(
    spread: tuple[int, int], held: bool, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build("cortex-m0plus", "zig", PLAIN)
    elsewhere = {"way_evaluate": "way_counted"}
    monkeypatch.setattr(certifying, "walk", lambda i, root: walk(i, elsewhere.get(root, root)))
    said = of_image(image, Measured(instructions=Spread(*spread, 7.0)))
    for name in ("no_data_branch", "constant_instructions"):
        assert (said[name].value, said[name].kind) == (held, "measured"), name
    assert "not shown, b" in said["no_data_branch"].method
    assert "way_counted+0x" in said["no_data_branch"].method
    alone = of_image(image, Measured())["no_data_branch"]
    assert (alone.value, alone.kind) == (None, "not_applicable")


def test_a_core_without_a_model_is_said(build: Build) -> None:
    image = replace(build("cortex-m4f", "zig"), architecture="aarch64")
    why = certifying._walked(image, "way_evaluate")
    assert why == "instructions of aarch64 are not modelled"


def test_floats_are_found(build: Build, images: Callable[..., Image]) -> None:
    """In instructions where the core has them, among the library's routines where it has not."""
    hard = of_image(images("cortex-m4f", "zig"), Measured(), no_float=True)["no_float"]
    assert (hard.value, hard.kind) == (False, "proved") and "of floats v" in hard.method
    soft = images("cortex-m0plus", "zig")
    assert any("mul" in routine for routine in float_routines(footprint(soft)))
    said = of_image(soft, Measured(), no_float=True)
    assert said["no_float"].value is False
    assert said["no_data_branch"].kind == "not_applicable"
    assert "floats in software" in said["no_data_branch"].method
    assert float_routines(footprint(build("cortex-m0plus", "zig", PLAIN))) == ()


@pytest.mark.parametrize(
    ("name", "of_floats"),
    [
        ("__aeabi_fadd", True), ("__aeabi_dcmplt", True), ("__aeabi_cfcmple", True),
        ("__aeabi_ui2f", True), ("__aeabi_l2d", True), ("__aeabi_f2iz", True),
        ("__mulsf3", True), ("__floatunsisf", True), ("__fixsfsi", True), ("__unorddf2", True),
        ("__extendhfsf2", True), ("__aeabi_uidiv", False), ("__aeabi_lmul", False),
        ("__aeabi_memcpy", False), ("__muldi3", False), ("__clzsi2", False), ("__divsi3", False),
    ],
)  # fmt: skip
def test_routines_of_floats_are_known_by_name(name: str, of_floats: bool, build: Build) -> None:
    cost = replace(footprint(build("cortex-m0plus", "zig")), library_symbols=frozenset({name}))
    assert float_routines(cost) == ((name,) if of_floats else ())
