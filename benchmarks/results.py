"""The results of a run: everything that was measured, and which of it a reader is shown."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import TypeAdapter

from benchmarks import harness
from benchmarks.limits import Verdict, verdicts
from benchmarks.measure import (
    VARIANTS,
    Figures,
    PeerBuild,
    PeerResult,
    measure_edgerl,
    measure_peer,
)
from benchmarks.networks import MLP_SEED, Network
from benchmarks.peers import PEERS, Peer
from edgerl.errors import ToolError
from edgerl.targets import Target
from edgerl.toolchain.build import find
from edgerl.toolchain.lowering import lower

_PACKAGES = ("edgerl", "foundation-policy", "numpy", "onnx", "onnxruntime", "unicorn", "capstone")


@dataclass(frozen=True)
class NetworkResult:
    """One network: what it is, edgerl's figures by variant, the peers, the limits."""

    name: str
    about: str
    inputs: str
    parameters: int
    macs: int
    edgerl: Mapping[str, Figures]
    peers: tuple[PeerResult, ...]
    limits: tuple[Verdict, ...]


@dataclass(frozen=True)
class Results:
    """One run of the benchmark."""

    schema: Literal[1]
    target: str
    cycle_table: str
    seeds: Mapping[str, int]
    versions: Mapping[str, str | None]
    peer_link_flags: tuple[str, ...]
    networks: tuple[NetworkResult, ...]

    def to_json(self) -> str:
        """The results as JSON: the same results give the same bytes."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """Read what `to_json` wrote. Raises pydantic.ValidationError when it is something else."""
        return TypeAdapter(cls).validate_json(text)


def collect(
    networks: Sequence[Network],
    target: Target,
    say: Callable[[str], None],
    peers: Sequence[Peer] = PEERS,
) -> Results:
    """Measure edgerl and `peers` on `networks`; `say` is told each step.

    Raises UserError and ToolError where edgerl fails; what a peer cannot do is a result.
    """
    found = []
    for network in networks:
        ours = {}
        for variant in VARIANTS:
            say(f"{network.name}: edgerl, {variant.name}")
            ours[variant.name] = measure_edgerl(network, variant, target)
        found.append(
            NetworkResult(
                name=network.name,
                about=network.about,
                inputs=network.inputs,
                parameters=network.policy.parameters,
                macs=lower(network.policy).macs,
                edgerl=ours,
                peers=tuple(measure_peer(network, peer, target, say) for peer in peers),
                limits=tuple(verdicts(network.name, ours)),
            )
        )
    return Results(
        schema=1,
        target=target.name,
        cycle_table=target.core.cycles,
        seeds={"mlp": MLP_SEED},
        versions=_versions(target),
        peer_link_flags=(*harness.LINK_FLAGS, *harness.LIBRARIES),
        networks=tuple(found),
    )


def _versions(target: Target) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in (*_PACKAGES, *(peer.distribution for peer in PEERS)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    asked: dict[str, Callable[[], str]] = {
        "zig": lambda: find("zig", target.core).version,
        "gcc": lambda: find("gcc", target.core).version,
        "newlib": lambda: harness.newlib_version(target),
    }
    for tool, ask in asked.items():
        try:
            found[tool] = ask()
        except ToolError:
            found[tool] = None
    return found


@dataclass(frozen=True)
class Column:
    """A figure that tools are compared by: less is better."""

    title: str
    how: str
    value: Callable[[Figures], int]


COMPARED: tuple[Column, ...] = (
    Column("instructions", "counted", lambda f: round(f.instructions.mean)),
    Column("cycles", "modelled", lambda f: f.cycles_model),
    Column("bytes of flash", "linked", lambda f: f.flash_bytes),
)


def shown(peer: PeerResult) -> list[PeerBuild]:
    """The peer's builds that no other one of it equals or beats in every compared figure."""
    kept: list[PeerBuild] = []
    for build in peer.measured:
        mine = _compared(build)
        others = [b for b in peer.measured if b is not build]
        beaten = any(
            all(a <= b for a, b in zip(_compared(other), mine, strict=True))
            and (_compared(other) != mine or other in kept)
            for other in others
        )
        if not beaten:
            kept.append(build)
    return kept


def _compared(build: PeerBuild) -> tuple[int, ...]:
    assert build.figures is not None
    return tuple(column.value(build.figures) for column in COMPARED)


@dataclass(frozen=True)
class Advantage:
    """edgerl's best beside the best of all peers, by one figure."""

    column: Column
    ours: int
    variant: str
    theirs: int
    peer: str

    @property
    def factor(self) -> float:
        """How many times less edgerl takes."""
        return self.theirs / self.ours


def advantages(network: NetworkResult) -> list[Advantage]:
    """What edgerl saves, by every compared figure; empty where no peer has figures."""
    found = []
    for column in COMPARED:
        ours, variant = min((column.value(f), name) for name, f in network.edgerl.items())
        candidates = [
            (column.value(b.figures), f"{peer.distribution}, {b.family} {b.level}")
            for peer in network.peers
            for b in peer.measured
            if b.figures
        ]
        if candidates:
            theirs, peer_name = min(candidates)
            found.append(Advantage(column, ours, variant, theirs, peer_name))
    return found
