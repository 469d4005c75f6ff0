"""The benchmark table: its code runs, its method counts what it says, its results are fresh."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.limits import LIMITS, verdicts
from benchmarks.measure import VARIANTS, Figures, PeerBuild, PeerResult
from benchmarks.networks import mlp, raptor
from benchmarks.peers import Generated, Peer
from benchmarks.results import Results, advantages, collect, shown
from benchmarks.table import RESULTS, TARGET, render
from edgerl.errors import ToolError
from edgerl.targets import target
from edgerl.toolchain.build import find
from edgerl.toolchain.checks.reference import run_onnx
from edgerl.toolchain.emulators import count

CORE = target(TARGET).core


def _refuse(network: object, folder: Path) -> Generated:
    raise NotImplementedError("layers of | this kind")


@cache
def committed() -> Results:
    return Results.from_json((RESULTS / "table.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fresh() -> Results:
    """edgerl on one network with few inputs, beside a tool that cannot."""
    peers = (Peer("numpy", "nothing", _refuse), Peer("no-such-tool", "nothing", _refuse))
    return collect([raptor(6)], target(TARGET), lambda text: None, peers)


def test_committed_counts_are_those_of_today(fresh: Results) -> None:
    then, now = committed(), fresh
    if then.versions["zig"] != now.versions["zig"]:
        pytest.skip(f"results are of {then.versions['zig']}, here is {now.versions['zig']}")
    old, new = then.networks[0], now.networks[0]
    assert (old.name, old.parameters, old.macs) == (new.name, new.parameters, new.macs)
    assert list(new.edgerl) == [v.name for v in VARIANTS]
    for name, figures in new.edgerl.items():
        assert old.edgerl[name].instructions == figures.instructions, name
        assert old.edgerl[name].cycles_model == figures.cycles_model, name
        assert old.edgerl[name].flash_bytes == figures.flash_bytes, name
        assert old.edgerl[name].numerics == figures.numerics, name


def test_committed_pages_are_those_of_the_committed_figures() -> None:
    for name, text in render(committed()).items():
        assert (RESULTS / name).read_text(encoding="utf-8") == text, name


def test_every_input_takes_the_same_instructions(fresh: Results) -> None:
    for figures in fresh.networks[0].edgerl.values():
        assert figures.instructions.min == figures.instructions.max
        assert figures.max_abs_error < 2e-6


def test_what_a_tool_cannot_do_stands_in_the_table(fresh: Results) -> None:
    refusing, absent = fresh.networks[0].peers
    assert refusing.failure == "layers of | this kind"
    assert absent.version is None and absent.failure is not None
    assert advantages(fresh.networks[0]) == []
    pages = render(fresh)
    assert "**failed**: layers of \\| this kind" in pages["table.md"]
    assert "failed: not installed: pip install &#39;edgerl[bench]&#39;" in pages["table.svg"]
    assert Results.from_json(pages["table.json"]) == fresh


def test_a_missed_limit_says_so(fresh: Results) -> None:
    measured = dict(fresh.networks[0].edgerl)
    first = VARIANTS[0].name
    limit = next(v.limit for v in verdicts("raptor", measured) if v.limit.figure == "flash bytes")
    for flash, reached in ((int(limit.most), True), (int(limit.most) + 1, False)):
        changed = {**measured, first: replace(measured[first], flash_bytes=flash)}
        found = next(v for v in verdicts("raptor", changed) if v.limit == limit)
        assert (found.value, found.reached) == (flash, reached)
    assert {each.variant for each in LIMITS} == {v.name for v in VARIANTS}


def test_beaten_and_equal_builds_are_not_shown(fresh: Results) -> None:
    figures = fresh.networks[0].edgerl[VARIANTS[0].name]

    fast, equal = PeerBuild("gcc", "fast", figures), PeerBuild("gcc", "equal", figures)
    small = PeerBuild("gcc", "small", replace(figures, flash_bytes=1, cycles_model=10**6))
    bad = PeerBuild("gcc", "bad", replace(figures, flash_bytes=10**6))
    broken = PeerBuild("gcc", "broken", None, "no linker")
    result = PeerResult("tool", "1", "nothing", (bad, fast, equal, broken, small))
    assert shown(result) == [fast, small]


def test_peers_get_an_equal_graph_without_additions_of_zero() -> None:
    network = raptor(20)
    plain = network.plain_graph()
    left_out = {"Add", "Sub"}
    assert left_out < {node.op_type for node in network.policy.graph.graph.node}
    assert not left_out & {node.op_type for node in plain.graph.node}
    resets = np.arange(20) == 0
    whole = run_onnx(network.policy, network.observations, resets)
    bare = run_onnx(replace(network.policy, graph=plain), network.observations, resets)
    assert (whole == bare).all()
    other = mlp(1)
    assert len(other.plain_graph().graph.node) == len(other.policy.graph.graph.node)


@pytest.mark.parametrize("family", harness.FAMILIES)
def test_harness_counts_the_function_and_nothing_else(family: str) -> None:
    """A hand-made peer in assembly of known length, with its own table and its own variable."""
    try:
        find("gcc", CORE)
    except ToolError as error:
        pytest.skip(str(error))
    source = (Path(__file__).parent / "doubling.c").read_text()
    network = mlp(3)
    generated = Generated(source, "doubled", ("observation", "action", 4))
    built = harness.build(network, generated, target(TARGET), family, "-O2")
    core = harness.PeerCore(built.image, target(TARGET), generated)
    counted = count(core, network.observations)
    assert counted.instructions.tolist() == [2 + 4 * 5 + 2] * 3
    assert (np.stack(core.actions) == 2 * network.observations[:, :4]).all()
    assert core.stack_used(network.observations, "evaluate") == 8
    assert built.static_ram_bytes == 400
    assert 0 <= built.flash_bytes - (1024 + 32) < 8  # the function begins at a multiple of 8


def test_figures_of_both_networks_are_committed() -> None:
    results = committed()
    assert results.target == TARGET
    assert [n.name for n in results.networks] == ["raptor", "mlp"]
    for network in results.networks:
        assert [v.limit for v in network.limits] == [x for x in LIMITS if x.network == network.name]
        assert all(isinstance(f, Figures) for f in network.edgerl.values())
        assert {p.distribution for p in network.peers} == {"emx-onnx-cgen", "emlearn"}
