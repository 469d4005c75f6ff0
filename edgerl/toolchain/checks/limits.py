"""Limits: which figures a check holds a program to, and whether they held."""

from collections.abc import Mapping

from edgerl.errors import UserError, suggestion
from edgerl.toolchain.report.model import (
    Certificate,
    ClosedLoop,
    Limit,
    Measured,
    Parity,
    Reference,
    Spread,
)

PUBLISHED_ERROR = 2e-6  # float32 in any order of summation, against the authors' own vectors
SURVIVAL = 0.95
FINAL_ERROR = 0.065  # m, mean over the last second
# Of formats of few bits: a final error of their own, and the survival that they may cost.
_FINAL_ERRORS = {"w8a16": 0.07}
_SURVIVAL_LOST = {"w32a32": 0.003, "w16a16": 0.003, "w8a16": 0.01}

LIMITED = (
    "instructions",
    "step_overhead_instructions",
    "cycles_model",
    "flash_bytes",
    "ram_bytes",
    "state_bytes",
    "stack_bytes",
)


def require_figure(name: str) -> None:
    """UserError, with the nearest name, when no figure that can be limited is called `name`."""
    if name in LIMITED:
        return
    raise UserError(f"limit {name[:60]!r} is no figure; {suggestion(name, LIMITED)}")


def at_most(name: str, value: float | None, bound: float) -> Limit:
    """`value` must not exceed `bound`; a value that could not be had is a miss."""
    return Limit(name, value, f"<= {bound:g}", value is not None and value <= bound)


def at_least(name: str, value: float | None, bound: float) -> Limit:
    """`value` must reach `bound`; a value that could not be had is a miss."""
    return Limit(name, value, f">= {bound:g}", value is not None and value >= bound)


def holds(name: str, value: bool | None) -> Limit:
    """`value` must be true."""
    return Limit(name, value, "true", value is True)


def of_budget(measured: Measured, budget: Mapping[str, float]) -> list[Limit]:
    """The user's own bounds on measured figures. UserError for a name that is none."""
    limits = []
    for name, bound in budget.items():
        require_figure(name)
        value = getattr(measured, name)
        limits.append(at_most(name, value.max if isinstance(value, Spread) else value, bound))
    return limits


def of_parity(parity: Parity) -> list[Limit]:
    """Equal bits everywhere."""
    return [holds("parity", parity.bit_exact)]


def of_published(reference: Reference | None) -> list[Limit]:
    """Agreement with the authors' vectors, where they shipped some."""
    if reference is None:
        return []
    return [at_most("error against published vectors", reference.max_abs_error, PUBLISHED_ERROR)]


def of_closed_loop(flown: ClosedLoop, number_format: str = "f32") -> list[Limit]:
    """The gates of the quadrotor hover suite: what any program is held to, and, where its format
    has a bound, how much survival integers may cost."""
    error = _FINAL_ERRORS.get(number_format, FINAL_ERROR)
    held = [
        at_least("survival", flown.metrics.get("survival"), SURVIVAL),
        at_most("final position error, m", flown.metrics.get("final_error_mean"), error),
    ]
    if flown.against_floats is not None and number_format in _SURVIVAL_LOST:
        lost = abs(flown.against_floats.survival)
        held.append(at_most("survival, from floats", lost, _SURVIVAL_LOST[number_format]))
    return held


def of_certificates(certificates: Mapping[str, Certificate]) -> list[Limit]:
    """Every certificate with a yes-or-no value must say yes."""
    return [
        holds(name.replace("_", " "), certificate.value)
        for name, certificate in certificates.items()
        if isinstance(certificate.value, bool)
    ]
