"""Networks whose vectors need more stack than one instruction can take: the bound still holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from one_build import BOARD, policy_of
from random_programs import feedforward

from edgerl.toolchain.build import build_firmware, find, worst_stack
from edgerl.toolchain.emit import emit
from edgerl.toolchain.emulators import UnicornCore


@pytest.mark.parametrize("width", [1_100, 4_100, 17_000])
def test_stack_of_wide_layers(width: int, tmp_path: Path) -> None:
    """Frames of 4, 16 and 68 kB."""
    program = replace(feedforward((1, width, width // 4096 + 1, 1), "tanh"), name="wide")
    made = emit(policy_of(program), program, fused=True, assembly="cortex_m_fpu")
    for name, text in made.files.items():
        (tmp_path / name).write_text(text)
    lowered = made.files["wide_cortex_m_fpu.S"].count("sub.w sp, sp, #")
    assert lowered >= 2
    compiler = find("zig", BOARD.core)
    image = build_firmware(tmp_path, "wide", BOARD, compiler, tmp_path, build_id="0" * 64)
    bound = worst_stack(image, "wide_evaluate").bytes
    assert 4 * width <= bound <= 4 * width + 512
    used = UnicornCore(image, BOARD).stack_used(np.ones((2, 1), np.float32), "evaluate")
    assert bound - 8 <= used <= bound
