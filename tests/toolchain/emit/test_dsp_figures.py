"""What the two networks of the benchmark table cost in integers on a Cortex-M4F (zig, -O2), held
to what was reached."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from test_figures import GOLDEN, TARGET, mlp

from edgerl.policies import Policy, load
from edgerl.toolchain import ir
from edgerl.toolchain.build import build_firmware, find, footprint
from edgerl.toolchain.emit import emit
from edgerl.toolchain.emulators import UnicornCore, count
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation import quantise


@dataclass(frozen=True)
class Most:
    """The most that a package may cost."""

    instructions: int
    cycles: int
    flash: int
    step_overhead: int = 215


RAPTOR = {
    "w16a16": Most(1_870, 3_500, 7_560),
    "w8a16": Most(2_230, 3_530, 6_340),
    "w4a16": Most(2_840, 4_080, 3_820),
    "w32a32": Most(3_260, 6_290, 14_110),
}
MLP = {
    "w16a16": Most(4_990, 9_290, 14_300),
    "w8a16": Most(5_850, 9_200, 10_420),
    "w4a16": Most(7_430, 10_230, 5_900),
    "w32a32": Most(9_350, 17_850, 29_700),
}


@pytest.mark.parametrize("number_format", RAPTOR)
def test_raptor(number_format: str, tmp_path: Path) -> None:
    policy = load("raptor")
    measure(policy, lower(policy), number_format, RAPTOR[number_format], tmp_path)


@pytest.mark.parametrize("number_format", MLP)
def test_mlp(number_format: str, tmp_path: Path) -> None:
    measure(*mlp(), number_format, MLP[number_format], tmp_path)


def measure(
    policy: Policy, program: ir.Program, number_format: str, most: Most, folder: Path
) -> None:
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(256, 22)).astype(np.float32)
    fixed = quantise(program, observations, number_format, spec=policy.spec, index_bits=7)
    made = emit(policy, fixed, assembly="cortex_m_dsp", golden=GOLDEN)
    for name, text in made.files.items():
        (folder / name).write_text(text)
    compiler = find("zig", TARGET.core)
    image = build_firmware(folder, made.name, TARGET, compiler, folder / "out", build_id="0" * 64)
    core = UnicornCore(image, TARGET)
    seen = np.concatenate([3.0 * observations[:16], np.full((1, 22), np.nan, np.float32)])
    evaluate, step = count(core, seen), count(core, seen, "step")
    assert evaluate.spread.min == evaluate.spread.max <= most.instructions
    assert step.spread.min == step.spread.max
    assert step.spread.max - evaluate.spread.max <= most.step_overhead
    assert evaluate.cycles_model is not None
    assert evaluate.cycles_model <= most.cycles
    cost = footprint(image)
    assert cost.flash_bytes <= most.flash
    assert cost.static_ram_bytes == 0
    assert cost.undefined_symbols == frozenset()
