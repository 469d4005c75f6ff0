"""Sparse layers: the bits of the dense form for floats that are finite, those of the definition
for integers, on this machine and on cores; and the form that is chosen for a layer."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from one_build import CoreImage, HostProgram, on_core, on_host, policy_of
from pruned import pruned

from edgerl.errors import UserError
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import find
from edgerl.toolchain.emit import Package, emit
from edgerl.toolchain.emit.sparse import HEIGHTS, Writing
from edgerl.toolchain.emulators import count
from edgerl.toolchain.manifest import Cost
from edgerl.toolchain.quantisation import quantise, reset, run
from edgerl.toolchain.quantisation.program import FixedDense, FixedProgram
from edgerl.toolchain.sparsity import choose, costs_on, with_zeros, writings

NETWORKS = {
    "usual": partial(pruned, zeros=0.5, sizes=(7, 13, 5, 3)),
    "few": partial(pruned, zeros=0.9, sizes=(22, 21, 16, 4), activations=("tanh", "relu", "tanh")),
    "rows": partial(
        pruned,
        zeros=0.3,
        sizes=(9, 16, 12, 8),
        activations=("sigmoid", "relu", "sigmoid"),
        empty_rows=(0, 1, 2, 3, 5, 11),
    ),
    "layer": partial(pruned, zeros=0.7, sizes=(6, 9, 8, 3), empty_layer=1),
    "wide": partial(pruned, zeros=0.9, sizes=(70, 40, 3), activations=("silu", "relu")),
}
FORMATS = ("w16a16", "w8a16", "w4a16", "w32a32", "w8a8")
DSP = target("cortex-m4f")
STEPS = 40


def observations(size: int) -> np.ndarray:
    """Steps [T, size], signed zeros and tiny numbers among them."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(STEPS, size)).astype(np.float32)
    values[1], values[2], values[3] = 0.0, -0.0, np.float32(1e-42)
    return values


def all_of(program: ir.Program | FixedProgram, writing: Writing) -> dict[str, Writing]:
    layers = [op.y for op in program.operations if isinstance(op, ir.Dense | FixedDense)]
    return dict.fromkeys(layers, writing)


def integers(program: ir.Program, number_format: str) -> FixedProgram:
    recording = np.random.default_rng(2).normal(size=(128, program.size("o"))).astype(np.float32)
    fixed = quantise(program, recording, number_format, spec=policy_of(program).spec)
    return replace(fixed, name=program.name)


def definition(fixed: FixedProgram, seen: np.ndarray) -> np.ndarray:
    """Bit patterns of the actions [T, m] that the integers are defined by."""
    made, _ = run(fixed, seen, reset(fixed, (len(seen),)))
    return np.ascontiguousarray(made, np.float32).view(np.uint32)


def actions(runner: HostProgram | CoreImage, package: Package) -> np.ndarray:
    """Bit patterns of the actions [T, m] of bare calls."""
    core = runner if isinstance(runner, HostProgram) else runner.core(package.name)
    seen = observations(package.plan.observation_size)
    made = core.trace(seen, np.zeros(STEPS, bool), "evaluate").actions
    return np.ascontiguousarray(made).view(np.uint32)


@pytest.mark.parametrize("fused", [False, True])
def test_floats_have_the_bits_of_the_dense_form(fused: bool, tmp_path: Path) -> None:
    packages: dict[tuple[str, str], Package] = {}
    for name, network in NETWORKS.items():
        for form in ("dense", *HEIGHTS):
            program = network(f"{name}_{form}")
            chosen = {} if form == "dense" else all_of(program, form)
            packages[name, form] = emit(
                policy_of(program), program, fused=fused, assembly="cortex_m_fpu", writings=chosen
            )
    made = list(packages.values())
    host = on_host(made, tmp_path / "host")
    assembled = on_core(made, tmp_path / "m4f")
    runners = [assembled]
    if not fused:
        everything = [p.name for p in made]
        runners.append(
            on_core(made, tmp_path / "m0", portable=everything, board=target("cortex-m0plus"))
        )
    for name in NETWORKS:
        dense = packages[name, "dense"]
        expected = actions(host[dense.name], dense)
        assert np.ptp(expected.view(np.float32), axis=0).any() or name == "layer"
        assert dense.numerics == f"f32-{'fma' if fused else 'mul'}-1"
        for form in HEIGHTS:
            sparse = packages[name, form]
            assert sparse.numerics == f"{dense.numerics}-s"
            for runner in (host[sparse.name], *runners):
                np.testing.assert_array_equal(actions(runner, sparse), expected)


@pytest.mark.parametrize("number_format", FORMATS)
def test_integers_have_the_bits_of_their_definition(number_format: str, tmp_path: Path) -> None:
    taken: list[tuple[FixedProgram, Package]] = []
    for name, network in NETWORKS.items():
        for form in HEIGHTS:
            program = network(f"{name}_{form}")
            try:
                fixed = integers(program, number_format)
            except UserError:  # not every format has every network
                continue
            # w8a8 has no DSP kernels of its own.
            family = "" if number_format == "w8a8" else "cortex_m_dsp"
            chosen = all_of(fixed, form)
            taken.append((fixed, emit(policy_of(program), fixed, assembly=family, writings=chosen)))
    assert len(taken) >= 4
    made = [package for _, package in taken]
    host = on_host(made, tmp_path / "host")
    dsp = on_core(made, tmp_path / "m4f")
    plain = on_core(
        made, tmp_path / "m0", portable=[p.name for p in made], board=target("cortex-m0plus")
    )
    for fixed, package in taken:
        seen = observations(package.plan.observation_size)
        expected = definition(fixed, seen)
        for runner in (host[package.name], dsp, plain):
            np.testing.assert_array_equal(actions(runner, package), expected)
        counted = count(dsp.core(package.name), seen)
        assert counted.spread.min == counted.spread.max


@pytest.mark.parametrize(
    ("number_format", "assembly"), [("f32", "cortex_m_fpu"), ("w16a16", "cortex_m_dsp")]
)
def test_choice_is_what_it_costs(number_format: str, assembly: str) -> None:
    taken = {}
    for zeros in (0.95, 0.3):
        floats = pruned("net", zeros, (22, 32, 4), ("tanh", None))
        policy = policy_of(floats)
        program = floats if number_format == "f32" else integers(floats, number_format)
        costs = costs_on(
            policy,
            DSP,
            find("zig", DSP.core),
            lambda forms, p=program, w=policy: emit(w, p, assembly=assembly, writings=forms),
        )
        chosen = choose(with_zeros(program), costs, "instructions")
        forms = {each.layer: each.written for each in chosen}
        taken[zeros] = [each.written for each in chosen]
        # What is written of the last choice is what the program so written costs.
        assert costs(writings(forms)) == chosen[-1].tried[chosen[-1].written]
    assert taken[0.95][0] == "sparse"
    assert set(taken[0.3]) == {"dense"}


def test_choice_weighs_instructions_against_bytes() -> None:
    def cost_of(forms: dict[str, Writing]) -> Cost:
        return {
            (): Cost(instructions=100, flash_bytes=50),
            ("sparse",): Cost(instructions=40, flash_bytes=60),
            ("block",): Cost(instructions=90, flash_bytes=45),
        }[tuple(forms.values())]

    def none_but_sparse(forms: dict[str, Writing]) -> Cost | None:
        return cost_of(forms) if "sparse" in forms.values() else None

    assert choose(("h",), cost_of, "instructions")[0].written == "block"
    assert choose(("h",), cost_of, "flash")[0].written == "block"
    assert choose(("h",), none_but_sparse, "instructions")[0].written == "sparse"
    assert choose((), cost_of, "instructions") == ()


def test_dense_networks_are_not_tried() -> None:
    assert with_zeros(pruned("net", 0.2)) == ()
    assert with_zeros(pruned("net", 0.0, empty_layer=1)) == ("h2",)
