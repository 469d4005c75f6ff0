"""RAPTOR's counts on the Crazyflie's core, held to the project's limits (zig, -O2)."""

from pathlib import Path

import numpy as np
import pytest

from edgerl.policies import load
from edgerl.targets import target
from edgerl.toolchain.build import build_firmware, find, footprint
from edgerl.toolchain.emit import emit
from edgerl.toolchain.emulators import UnicornCore, count
from edgerl.toolchain.lowering import lower

TARGET = target("crazyflie21")
# (fused, assembly) -> (instructions, modelled cycles, flash bytes); kB is 1024 B.
LIMITS = {
    (True, "cortex_m_fpu"): (2_900, None, 12.3 * 1024),
    (False, "cortex_m_fpu"): (None, 7_800, 14.2 * 1024),
    (True, ""): (6_000, None, 13 * 1024),
}


@pytest.mark.parametrize(("form", "limit"), LIMITS.items())
def test_raptor_within_its_limits(
    form: tuple[bool, str], limit: tuple[int | None, int | None, float], tmp_path: Path
) -> None:
    fused, assembly = form
    policy = load("raptor")
    made = emit(policy, lower(policy), fused=fused, assembly=assembly)
    for name, text in made.files.items():
        (tmp_path / name).write_text(text)
    image = build_firmware(
        tmp_path,
        "raptor",
        TARGET,
        find("zig", TARGET.core),
        tmp_path / "out",
        build_id="0" * 64,
        portable=not assembly,
    )
    core = UnicornCore(image, TARGET)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(64, 22)).astype(np.float32) * 3.0
    evaluate, step = count(core, observations), count(core, observations, "step")
    assert evaluate.spread.min == evaluate.spread.max
    instructions, cycles, flash = limit
    if instructions is not None:
        assert evaluate.spread.max <= instructions
    if cycles is not None:
        assert evaluate.cycles_model is not None
        assert evaluate.cycles_model <= cycles
    cost = footprint(image)
    assert cost.flash_bytes <= flash
    assert cost.static_ram_bytes == 0
    assert cost.state_bytes <= 136
    if assembly:
        assert step.spread.max - evaluate.spread.max <= 200
