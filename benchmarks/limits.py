"""The limits that edgerl's figures are held to on a Cortex-M4F, and what is aimed at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import VARIANTS, Figures

_KB = 1024


@dataclass(frozen=True)
class Limit:
    """An upper bound on one figure of one variant on one network; `aim` is where it should be."""

    network: str
    variant: str
    figure: str
    most: int | float
    aim: int | float | None = None


@dataclass(frozen=True)
class Verdict:
    """A limit beside the value that was found."""

    limit: Limit
    value: int | float
    reached: bool
    aim_reached: bool | None


FIGURES: Mapping[str, Callable[[Figures], float | None]] = {
    "instructions": lambda f: f.instructions.max,
    "spread of instructions": lambda f: f.instructions.max - f.instructions.min,
    "modelled cycles": lambda f: f.cycles_model,
    "flash bytes": lambda f: f.flash_bytes,
    "instructions added by _step": lambda f: f.step_overhead_instructions,
    "state bytes": lambda f: f.state_bytes,
    "static RAM bytes": lambda f: f.static_ram_bytes,
}

_ON, _AUTO, _PORTABLE = (v.name for v in VARIANTS)


def _every_variant(network: str, state_bytes: int) -> tuple[Limit, ...]:
    return tuple(
        Limit(network, v.name, figure, most)
        for v in VARIANTS
        for figure, most in (
            ("spread of instructions", 0),
            ("instructions added by _step", 200),
            ("state bytes", state_bytes),
            ("static RAM bytes", 0),
        )
    )


LIMITS: tuple[Limit, ...] = (
    Limit("raptor", _ON, "instructions", 2_900, aim=2_650),
    Limit("raptor", _ON, "flash bytes", 12.3 * _KB),
    Limit("raptor", _AUTO, "modelled cycles", 7_800, aim=7_500),
    Limit("raptor", _AUTO, "flash bytes", 14.2 * _KB),
    Limit("raptor", _PORTABLE, "instructions", 6_000),
    Limit("raptor", _PORTABLE, "flash bytes", 13 * _KB),
    *_every_variant("raptor", state_bytes=136),
    Limit("mlp", _ON, "instructions", 8_500, aim=7_600),
    Limit("mlp", _ON, "flash bytes", 28 * _KB),
    Limit("mlp", _AUTO, "modelled cycles", 22_000, aim=20_500),
    Limit("mlp", _AUTO, "flash bytes", 30 * _KB),
    Limit("mlp", _PORTABLE, "instructions", 16_500),
    Limit("mlp", _PORTABLE, "flash bytes", 28 * _KB),
    *_every_variant("mlp", state_bytes=0),
)


def verdicts(network: str, measured: Mapping[str, Figures]) -> Sequence[Verdict]:
    """Every limit of `network` against `measured`, figures by name of variant."""
    found = []
    for limit in LIMITS:
        if limit.network == network:
            value = FIGURES[limit.figure](measured[limit.variant])
            assert value is not None, limit.figure
            aimed = None if limit.aim is None else value <= limit.aim
            found.append(Verdict(limit, value, value <= limit.most, aimed))
    return found
