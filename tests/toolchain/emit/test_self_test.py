"""The self test passes on what was compiled, and fails once a bit of it has changed."""

from pathlib import Path

import numpy as np
import pytest
from one_build import on_core, on_host, package
from random_programs import Builder, recurrent

from edgerl.toolchain import ir
from edgerl.toolchain.build.disassembly import disassemble
from edgerl.toolchain.emit import Golden, Package
from edgerl.toolchain.emulators import UnicornCore

OK, FAILED = 0, 4
STEPS = 4
FLIPS = 40  # of each array of constants


def mixed() -> ir.Program:
    """Every array of constants is in use: weights, two tables, and vectors."""
    b = Builder(6)
    observation = x = b.tensor(6)
    b.values[x] = 4.0
    x = b.gru(b.dense([x], 9, "elu", 1.0), 5)
    return b.program(observation, b.linear([x], 5))


def with_golden(program: ir.Program, folder: Path) -> tuple[Package, int]:
    """The package with its own first answers as golden vectors, and the host's self test."""
    rng = np.random.default_rng(2)
    observations = rng.normal(size=(STEPS, program.size(program.observation))).astype(np.float32)
    draft = package(program, "draft", fused=True)
    twin = on_host([draft], folder / "draft")["draft"]
    actions = twin.trace(observations, np.zeros(STEPS, np.bool_), "evaluate").actions
    golden = Golden(observations, actions.view(np.uint32))
    made = package(program, "tested", fused=True, golden=golden)
    return made, on_host([made], folder / "host")["tested"].self_test()


@pytest.fixture(scope="module", params=["mixed", "gru"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    program = mixed() if request.param == "mixed" else recurrent(("gru",), 22, 16)
    package_, on_this_host = with_golden(program, tmp_path_factory.mktemp("golden"))
    assert on_this_host == OK
    return package_


@pytest.fixture(scope="module", params=["assembly", "portable"])
def core(
    request: pytest.FixtureRequest, made: Package, tmp_path_factory: pytest.TempPathFactory
) -> UnicornCore:
    portable = ["tested"] if request.param == "portable" else []
    folder = tmp_path_factory.mktemp(request.param)
    return on_core([made], folder, portable=portable).core("tested")


def self_test_with(core: UnicornCore, address: int, bit: int) -> int:
    """The answer while one bit of flash is flipped."""
    old = core.read(address, 1)
    core.write(address, bytes([old[0] ^ 1 << bit]))
    try:
        return core.call("tested_self_test")
    finally:
        core.write(address, old)


def test_nothing_changed(core: UnicornCore) -> None:
    assert core.call("tested_self_test") == OK


def test_every_flipped_bit_of_a_constant_is_noticed(core: UnicornCore, made: Package) -> None:
    rng = np.random.default_rng(3)
    arrays = ["tested_weights", *(f"tested_table_{curve}" for curve in made.plan.curves)]
    arrays += ["tested_weights_vector"] * bool(made.plan.constants.size)
    for name in arrays:
        symbol = core.image.symbol(name)
        places = [0, 8 * symbol.size - 1, *rng.integers(0, 8 * symbol.size, FLIPS)]
        for place in places:
            byte, bit = divmod(int(place), 8)
            assert self_test_with(core, symbol.address + byte, bit) == FAILED, (name, byte, bit)
    assert core.call("tested_self_test") == OK


def test_every_flipped_bit_of_an_expected_action_is_noticed(core: UnicornCore) -> None:
    symbol = core.image.symbol("tested_golden_actions")
    for place in np.random.default_rng(4).integers(0, 8 * symbol.size, FLIPS):
        byte, bit = divmod(int(place), 8)
        assert self_test_with(core, symbol.address + byte, bit) == FAILED, (byte, bit)


def test_a_changed_observation_is_noticed(core: UnicornCore) -> None:
    # The lowest bit of an exponent: the observation is twice or half of what it was.
    symbol = core.image.symbol("tested_golden_observations")
    for element in range(0, symbol.size // 4, 5):
        assert self_test_with(core, symbol.address + 4 * element + 2, 7) == FAILED, element


@pytest.mark.parametrize("function", ["tested_core", "gate8"])
def test_arithmetic_gone_wrong_is_noticed(function: str, tmp_path: Path) -> None:
    made, _ = with_golden(recurrent(("gru",), 22, 16), tmp_path)
    portable = [made.name] if function == "gate8" else []
    core = on_core([made], tmp_path / "core", portable=portable).core(made.name)
    symbol = core.image.symbol(function)
    body = disassemble(core.read(symbol.address, symbol.size), symbol.address)
    first = next(i for i in body if i.mnemonic.startswith("vfma"))
    # Bit 6 of its second half makes a VFMS of the VFMA.
    assert self_test_with(core, first.address + 2, 6) == FAILED
