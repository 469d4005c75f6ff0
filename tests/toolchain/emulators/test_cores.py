"""Every core that the rows know: the same bits from host, emulators and compilers, the same
counts and stack from two emulators, and claims that go no further than what was seen."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import Graph

from edgerl.errors import ToolError
from edgerl.policies import Policy, load
from edgerl.targets.model import FORMATS, cores, target, targets
from edgerl.toolchain.build import (
    Image,
    Mode,
    NoBound,
    build_firmware,
    find,
    first_difference,
    footprint,
    worst_stack,
)
from edgerl.toolchain.certify.image import of_image
from edgerl.toolchain.checks.measure import sizes
from edgerl.toolchain.compiling import Form, emitted
from edgerl.toolchain.emit import Package
from edgerl.toolchain.emulators import (
    EmulatedCore,
    Program,
    QemuCore,
    Runner,
    UnicornCore,
    count,
    runs_here,
)
from edgerl.toolchain.emulators.requests import greeting_replies, greeting_requests
from edgerl.toolchain.golden import GoldenFile
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.report.model import Measured

BUILD_ID = bytes(range(32)).hex()
CORES = [name for name, core in cores().items() if core.zig]
POLICIES = ["raptor", "dense"]
FAMILIES = ["zig", "gcc"]
# A core that emulates floats takes up to a hundred times as long.
STEPS, SOFT_STEPS = 2_000, 120
Emit = Callable[[str, bool, str], tuple[Package, GoldenFile]]
Build = Callable[[str, str, str], tuple[Image, GoldenFile]]


def chain(folder: Path, name: str, operators: list[str]) -> Policy:
    """A policy with dense layers between `operators`, each on six elements."""
    graph = Graph(seed=4)
    x = graph.dense(("observation", 3), 6)
    for operator in operators:
        more: tuple[str, ...] = ()
        if operator == "Clip":
            more = (graph.scalar(-0.5), graph.scalar(0.6))
        elif operator in ("Max", "Min"):
            more = (graph.dense(("observation", 3), 6)[0],)
        x = graph.dense((graph.one(operator, x[0], *more), 6), 6)
    path = folder / f"{name}.onnx"
    onnx.save(graph.model(("observation", 3), graph.dense(x, 2)), path)
    return load(str(path))


@pytest.fixture(scope="module")
def policies(small_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    folder = tmp_path_factory.mktemp("chains")
    choices = ["Clip", "Max", "Min", "Softmax", "Exp", "Elu", "Softplus", "Mish", "HardSigmoid"]
    return {
        "raptor": load("raptor"),
        "dense": load(str(small_policy)),
        "choices": chain(folder, "choices", choices),
        "division": chain(folder, "division", ["Softsign"]),
    }


@pytest.fixture(scope="module")
def emit_once(policies: dict[str, Policy]) -> Emit:
    """Package and golden traces of a policy in one form."""

    @cache
    def made(policy: str, fused: bool, assembly: str) -> tuple[Package, GoldenFile]:
        return emitted(policies[policy], lower(policies[policy]), Form(fused, assembly))

    return made


@pytest.fixture(scope="module")
def build(emit_once: Emit, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A policy's image for the bare target of a core, and its golden traces."""

    @cache
    def made(policy: str, name: str, family: str) -> tuple[Image, GoldenFile]:
        core = cores()[name]
        package, golden = emit_once(policy, core.fma, core.kernels.get("f32", ""))
        try:
            compiler = find(family, core)
        except ToolError as error:
            pytest.skip(str(error))
        folder = tmp_path_factory.mktemp(f"{name}-{family}-{policy}")
        for file, text in package.files.items():
            (folder / file).write_text(text, newline="\n")
        image = build_firmware(
            folder,
            package.name,
            target(name),
            compiler,
            folder / "out",
            build_id=BUILD_ID,
            portable="f32" not in core.kernels,
        )
        steps = STEPS if core.fpu else SOFT_STEPS
        return image, replace(golden, traces=tuple(t.first(steps) for t in golden.traces))

    return made


def core_of(image: Image, name: str) -> EmulatedCore:
    """The image on the emulator that counts for its core."""
    board = target(name)
    if board.core.emulator == "unicorn":
        return UnicornCore(image, board)
    if not shutil.which(board.core.qemu):
        pytest.skip(f"{board.core.qemu} is not installed")
    return QemuCore(image, board)


def second(image: Image, name: str) -> QemuCore:
    """The image in QEMU where that is the second emulator of its core."""
    board = target(name)
    if board.core.emulator == "qemu":
        pytest.skip(f"{name} has one emulator alone")
    if not shutil.which(board.core.qemu):
        pytest.skip(f"{board.core.qemu} is not installed")
    return QemuCore(image, board)


def runners(image: Image, name: str) -> list[Runner]:
    """Everything here that runs the image."""
    board = target(name)
    found: list[Runner] = [core_of(image, name)]
    if board.core.emulator == "unicorn" and shutil.which(board.core.qemu):
        found.append(QemuCore(image, board))
    if runs_here(board.core):
        found.append(Program(image))
    return found


def test_every_core_that_compiles_can_be_run() -> None:
    for name in CORES:
        core = cores()[name]
        assert core.qemu, name
        assert core.unicorn or core.mve, name
        assert core.gcc_prefix, name
        assert targets()[name].core == core
        assert targets()[name].verified_by == "same-binary"
        assert core.formats == FORMATS


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CORES)
def test_golden_bits(name: str, family: str, policy: str, build: Build) -> None:
    image, golden = build(policy, name, family)
    for runner in runners(image, name):
        for trace in golden.traces:
            assert len(trace.resets) >= SOFT_STEPS
            run = runner.trace(trace.observations, trace.resets, trace.mode)
            difference = first_difference(trace.expected, run)
            assert difference is None, (runner.name, trace.mode, difference)
    guarded = golden.traces[1]
    assert guarded.expected.status.any(), "no fault in the guarded trace"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CORES)
def test_image_tells_who_it_is_and_tests_itself(name: str, family: str, build: Build) -> None:
    image, _ = build("raptor", name, family)
    core = core_of(image, name)
    assert greeting_replies(core.run_main(greeting_requests())) == (BUILD_ID, 0)
    if isinstance(core, UnicornCore):
        assert core.call(f"{image.name}_self_test") & 0xFFFFFFFF == 0
    for runner in runners(image, name):
        if isinstance(runner, QemuCore | Program):
            assert runner.greet() == (BUILD_ID, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CORES)
def test_two_emulators_count_the_same(name: str, family: str, build: Build) -> None:
    image, golden = build("raptor", name, family)
    fpu = cores()[name].fpu
    observations = golden.evaluate.observations[: 100 if fpu else 6]
    core = core_of(image, name)
    ours = count(core, observations)
    assert sum(ours.by_function.values()) == pytest.approx(ours.spread.mean)
    if fpu:
        assert ours.spread.min == ours.spread.max
    else:
        assert ours.spread.min < ours.spread.max
    # What is disassembled is what QEMU has executed, also where it is the only emulator.
    other = core if isinstance(core, QemuCore) else second(image, name)
    theirs = other.count(observations)
    assert (ours.instructions == theirs).all(), (ours.instructions, theirs)


@pytest.mark.parametrize("mode", ["evaluate", "step"])
@pytest.mark.parametrize("name", CORES)
def test_two_emulators_see_the_same_path_and_stack(name: str, mode: Mode, build: Build) -> None:
    image, golden = build("raptor", name, "zig")
    observations = golden.traces[1].observations[: 20 if cores()[name].fpu else 3]
    qemu, core = second(image, name), core_of(image, name)
    ours, theirs = count(core, observations, mode), count(qemu, observations, mode)
    assert (ours.instructions == theirs.instructions).all()
    assert ours.by_function == theirs.by_function
    assert ours.by_layer == theirs.by_layer
    assert core.stack_used(observations, mode) == qemu.stack_used(observations, mode)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CORES)
def test_painting_stays_within_the_call_graph(name: str, family: str, build: Build) -> None:
    image, golden = build("raptor", name, family)
    core = core_of(image, name)
    modes: tuple[Mode, Mode] = ("evaluate", "step")
    for mode in modes:
        bound = worst_stack(image, f"{image.name}_{mode}").bytes
        used = core.stack_used(golden.traces[1].observations[:10], mode)
        # A frame may hold padding that nothing touches.
        assert bound - 32 <= used <= bound


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CORES)
def test_run_time_library_is_counted_and_named(name: str, family: str, build: Build) -> None:
    image, golden = build("raptor", name, family)
    cost, core = footprint(image), cores()[name]
    own = cost.code_bytes + cost.weight_bytes + cost.table_bytes + cost.constant_bytes
    assert cost.flash_bytes == own + cost.library_bytes
    assert cost.undefined_symbols == cost.library_symbols
    found = count(core_of(image, name), golden.evaluate.observations[:3])
    said = of_image(image, Measured(**{**vars(sizes(image)), "instructions": found.spread}))
    assert said["no_outside_calls"].value is True
    constant = said["constant_instructions"]
    if core.fpu:
        assert (cost.library_bytes, cost.library_symbols) == (0, frozenset())
        walked = core.architecture in ("arm", "riscv")
        assert (constant.value, constant.kind) == (True, "proved" if walked else "measured")
    else:
        # A product and a sum of floats, in no more than the library needs for them.
        assert 500 < cost.library_bytes < 5_000
        assert len(cost.library_symbols) >= 2
        assert (constant.value, constant.kind) == (None, "not_applicable")
        assert f"{found.spread.min} to {found.spread.max}" in constant.method


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in CORES if cores()[name].fpu])
def test_no_branch_depends_on_data(name: str, family: str, build: Build) -> None:
    """Operators that choose between values do so without a branch, whatever the core has."""
    image, _ = build("choices", name, family)
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(60, 3)) * rng.choice([0.01, 1.0, 10.0, 1e30], (60, 1))
    found = count(core_of(image, name), rows.astype(np.float32))
    assert found.spread.min == found.spread.max


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in CORES if not cores()[name].fpu])
def test_division_in_software(name: str, family: str, build: Build) -> None:
    """A library that hides where it jumps has no bound, and nothing is claimed."""
    image, golden = build("division", name, family)
    trace = golden.evaluate.first(40)
    run = UnicornCore(image, target(name)).trace(trace.observations, trace.resets, trace.mode)
    assert first_difference(trace.expected, run) is None
    said = of_image(image, sizes(image))
    try:
        bound = worst_stack(image, f"{image.name}_step").bytes
    except NoBound as error:
        assert family == "gcc"
        for certificate in ("stack_bytes", "no_recursion"):
            assert (said[certificate].value, said[certificate].kind) == (None, "not_applicable")
            assert said[certificate].method == str(error)
        assert sizes(image).stack_bytes is None
    else:
        assert said["stack_bytes"].value == sizes(image).stack_bytes == bound
        assert said["no_recursion"].value is True


@pytest.mark.parametrize("name", ["cortex-m0plus", "rv32imc"])
def test_soft_float_is_ieee_at_the_corners(name: str, build: Build) -> None:
    """Denormals, overflow and signed zeros, through the bare network. Only the payload of a NaN
    is each core's own."""
    image, golden = build("dense", name, "zig")
    hardware, _ = build("dense", "x86-64", "zig")
    size = golden.evaluate.observations.shape[1]
    tiny = np.array([0.0, -0.0, 1e-45, -1e-42, 1.1754944e-38, -1.1754944e-38], np.float32)
    huge = np.array([3.4e38, -3.4e38, 1e30, 1.0], np.float32)
    rng = np.random.default_rng(7)
    rows = np.concatenate([rng.choice(v, (64, size)) for v in (tiny, huge)])
    resets = np.zeros(len(rows), bool)
    soft = UnicornCore(image, target(name)).trace(rows, resets, "evaluate").actions
    hard = UnicornCore(hardware, target("x86-64")).trace(rows, resets, "evaluate").actions
    finite = np.isfinite(hard)
    assert (np.isnan(soft) == np.isnan(hard)).all()
    assert (soft[finite].view(np.uint32) == hard[finite].view(np.uint32)).all()
    assert finite[:64].all()
    assert not finite[64:].all()


UNDEFINED = {"arm": b"\x00\xde", "riscv": b"\xff\xff\xff\xff"}
BARE = [name for name in CORES if cores()[name].hosting == "semihosting"]


@pytest.mark.parametrize("name", BARE)
def test_fault_on_a_bare_core(name: str, build: Build, tmp_path: Path) -> None:
    image, _ = build("dense", name, "gcc")
    core = core_of(image, name)
    code = UNDEFINED[image.architecture]
    if isinstance(core, UnicornCore):
        with pytest.raises(ToolError, match=r"Fault_Handler: a fault handler was reached"):
            core.call("Fault_Handler")
        core.write(image.address(f"{image.name}_reset"), code)
        core.uc.ctl_flush_tb()
        with pytest.raises(ToolError, match=rf"gcc/unicorn: .* \({image.name}_reset\+0x"):
            core.call(f"{image.name}_reset", core.scratch(core.state_bytes)[0])
    if not shutil.which(cores()[name].qemu):
        pytest.skip(f"{cores()[name].qemu} is not installed")
    elf = bytearray(image.elf.read_bytes())
    symbol = image.symbols[f"{image.name}_reset"]
    old = image.read(symbol.address, symbol.size)
    assert elf.count(old) == 1
    at = elf.index(old)
    elf[at : at + len(code)] = code
    (tmp_path / "patched.elf").write_bytes(elf)
    broken = replace(image, elf=tmp_path / "patched.elf")
    with pytest.raises(ToolError, match=r"gcc/qemu on [\w-]+: a fault handler was reached"):
        QemuCore(broken, target(name)).greet()
