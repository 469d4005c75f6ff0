"""What the two networks of the benchmark table cost on the Crazyflie's core (zig, -O2), held to
what was reached."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from random_programs import Builder

from edgerl.policies import Policy, load
from edgerl.policies.raptor import spec as raptor_spec
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import build_firmware, find, footprint
from edgerl.toolchain.emit import Golden, emit
from edgerl.toolchain.emulators import UnicornCore, count
from edgerl.toolchain.lowering import lower

TARGET = target("crazyflie21")
GOLDEN = Golden(np.zeros((4, 22), np.float32), np.zeros((4, 4), np.uint32))


@dataclass(frozen=True)
class Form:
    """How the package is written, and the most that it may cost."""

    fused: bool
    assembly: str
    instructions: int
    flash: int
    cycles: int | None = None


FUSED, UNFUSED, PORTABLE = (True, "cortex_m_fpu"), (False, "cortex_m_fpu"), (True, "")
RAPTOR = [
    Form(*FUSED, instructions=2_719, flash=12_490),
    Form(*UNFUSED, instructions=4_847, flash=13_290, cycles=7_675),
    Form(*PORTABLE, instructions=5_917, flash=13_300),
]
MLP = [
    Form(*FUSED, instructions=7_464, flash=27_600),
    Form(*UNFUSED, instructions=13_620, flash=28_320, cycles=21_323),
    Form(*PORTABLE, instructions=15_999, flash=27_600),
]


def mlp() -> tuple[Policy, ir.Program]:
    """22-64-64-4, tanh after every layer, RAPTOR's signals, a fallback and so no state."""
    b = Builder(7)
    observation = x = b.tensor(22)
    b.values[x] = 1.0
    for size in (64, 64, 4):
        x = b.dense([x], size, "tanh", 1.0)
    spec = raptor_spec().model_copy(update={"name": "mlp", "state": (), "non_finite": "fallback"})
    program = b.program(observation, x)
    return Policy(load("raptor").graph, spec), ir.Program(**{**vars(program), "name": "mlp"})


@pytest.mark.parametrize("form", RAPTOR, ids=["fused", "unfused", "portable"])
def test_raptor(form: Form, tmp_path: Path) -> None:
    policy = load("raptor")
    measure(policy, lower(policy), form, tmp_path)


@pytest.mark.parametrize("form", MLP, ids=["fused", "unfused", "portable"])
def test_mlp(form: Form, tmp_path: Path) -> None:
    measure(*mlp(), form, tmp_path)


def measure(policy: Policy, program: ir.Program, form: Form, folder: Path) -> None:
    made = emit(policy, program, fused=form.fused, assembly=form.assembly, golden=GOLDEN)
    for name, text in made.files.items():
        (folder / name).write_text(text)
    compiler = find("zig", TARGET.core)
    image = build_firmware(folder, made.name, TARGET, compiler, folder / "out", build_id="0" * 64)
    core = UnicornCore(image, TARGET)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(32, 22)).astype(np.float32) * 3.0
    observations[::5, 3] = np.nan
    evaluate, step = count(core, observations), count(core, observations, "step")
    assert evaluate.spread.min == evaluate.spread.max <= form.instructions
    assert step.spread.min == step.spread.max
    if form.cycles is not None:
        assert evaluate.cycles_model is not None
        assert evaluate.cycles_model <= form.cycles
    cost = footprint(image)
    assert cost.flash_bytes <= form.flash
    assert cost.static_ram_bytes == 0
    assert cost.undefined_symbols == frozenset()
    assert cost.state_bytes == (80 if policy.spec.state else 1)
    if form.assembly:
        assert step.spread.max - evaluate.spread.max <= 197
