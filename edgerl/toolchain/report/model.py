"""Report: every figure of a compile or check, typed, with the limits it was held to.

The JSON form keeps the keys of DESIGN §3; keys may be added, none is renamed.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgerl.policies.plants.suites import Paired

SCHEMA = 1


@dataclass(frozen=True)
class PolicyFacts:
    """What was compiled: the policy's name, the hash of its file, its trained values, and its
    multiply-accumulates a step."""

    name: str
    sha256: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Spread:
    """A counted quantity over many inputs."""

    min: int
    max: int
    mean: float


@dataclass(frozen=True)
class LayerCost:
    """One operation's share: instructions counted on the core, bytes of weights."""

    name: str
    operation: str
    shape: str
    instructions: int | None
    weight_bytes: int


@dataclass(frozen=True)
class Measured:
    """What the program costs. `instructions` are counted, `cycles_model` is modelled from a
    published table, sizes are read from the linked image."""

    instructions: Spread | None = None
    step_overhead_instructions: int | None = None
    cycles_model: int | None = None
    flash_bytes: int | None = None
    ram_bytes: int | None = None
    state_bytes: int | None = None
    stack_bytes: int | None = None
    stack_painted_bytes: int | None = None
    code_bytes: int | None = None
    weight_bytes: int | None = None
    table_bytes: int | None = None
    library_bytes: int | None = None
    layers: tuple[LayerCost, ...] = ()


@dataclass(frozen=True)
class Difference:
    """The first place where two runs part: step, tensor, element and both values.

    `values`, and their bit patterns `bits` in hexadecimal, are what the two `between` gave, the
    one believed first. `element` names the element as the spec does. The step is one of the
    golden trace `mode`, `since_reset` steps after a reset.
    """

    step: int
    tensor: str
    index: int
    values: tuple[float, float] = (0.0, 0.0)
    bits: tuple[str, str] = ("", "")
    between: tuple[str, str] = ("", "")
    element: str = ""
    mode: str = ""
    since_reset: int = 0


@dataclass(frozen=True)
class Localisation:
    """Where a difference arises, as far as builds made for the purpose can tell; `text` says it
    in words.

    `verdict`: `tensor`, `difference` is the first tensor in the order of operations, and
    `operation` what computes it; `not_reproduced`, the same sources built again do not differ;
    `outside`, no tensor of the network differs, so guard, saturation or hold do; `golden`, no
    build gives the golden bits; `unknown`, it could not be found out. `sources` is the first
    line of src/ that is not what the policy's graph makes, as `file:line`, or empty.
    """

    verdict: Literal["tensor", "not_reproduced", "outside", "golden", "unknown"]
    text: str
    operation: str = ""
    difference: Difference | None = None
    sources: str = ""


@dataclass(frozen=True)
class Parity:
    """Whether all runs `between` gave the same bits over `steps` steps of the bare network, and
    where the first one parted if not."""

    bit_exact: bool
    steps: int
    between: tuple[str, ...]
    first_difference: Difference | None = None
    localisation: Localisation | None = None


@dataclass(frozen=True)
class Reference:
    """Largest absolute difference between emitted code and a reference, and where.

    `errors` is the running picture for the report's plot: the largest error of each block of
    `block` consecutive steps."""

    against: str
    max_abs_error: float
    steps: int = 0
    block: int = 1
    errors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ClosedLoop:
    """A closed-loop suite flown with the compiled program.

    `metrics` and their 95 % `intervals` share keys. `paths` are a few flights for the plot:
    each is (name, survived, positions [T][3] in metres); `error_over_time` holds quantiles of
    the position error: name -> one value a step. `against_floats` is the difference from the
    same policy in float32 on the same vehicles, where the program has integers.
    """

    plant: str
    suite: str
    episodes: int
    seeds: tuple[int, ...]
    on: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    paths: tuple[tuple[str, bool, tuple[tuple[float, float, float], ...]], ...] = ()
    error_over_time: dict[str, tuple[float, ...]] = field(default_factory=dict)
    dt: float = 0.01
    against_floats: Paired | None = None


@dataclass(frozen=True)
class Certificate:
    """One statement about the program: its value, how it is known, and by which method."""

    value: Any
    kind: Literal["proved", "measured", "not_applicable"]
    method: str


@dataclass(frozen=True)
class TensorRange:
    """What the elements of a run-time vector can be: least and largest of all of them, in real
    units.

    `proved` holds in every step over the spec's ranges (None where nothing bounds it),
    `observed` was met on the golden trace. Of integers `bits` are proved to be enough, and
    `observed_bits` were used, of the `width` that they have, signs included.
    """

    name: str
    size: int
    format: str
    proved: tuple[float, float] | None
    observed: tuple[float, float] | None
    bits: int | None = None
    observed_bits: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A format that a search looked at: what its program costs, how well it does its work and,
    where it is not taken, why. `survival` is the difference from floats, `error` m in flight or
    the largest difference of an action. It `works` where its work is good enough, and `holds`
    where it keeps to the budget too."""

    name: str
    flash_bytes: int | None = None
    instructions: int | None = None
    cycles_model: int | None = None
    survival: float | None = None
    error: float | None = None
    works: bool = False
    holds: bool = False
    chosen: bool = False
    why: str = ""


@dataclass(frozen=True)
class Limit:
    """One figure against its bound. `value` None means it could not be obtained, which is a
    miss, never a pass."""

    name: str
    value: float | bool | None
    limit: str
    ok: bool

    @property
    def held(self) -> bool:
        """True when a value that was obtained, and is a number, kept to the bound."""
        return self.ok and self.value is not None and not math.isnan(self.value)


@dataclass(frozen=True)
class Report:
    """Everything a compile or check found out (DESIGN §3). `checked` is False where the program
    was compiled and measured, but not proven."""

    policy: PolicyFacts
    target: str
    format: str
    numerics: str
    compiler: str
    verified_by: str
    counter: str
    measured: Measured = Measured()
    parity: Parity | None = None
    reference: Reference | None = None
    examples: Reference | None = None
    closed_loop: tuple[ClosedLoop, ...] = ()
    certificates: dict[str, Certificate] = field(default_factory=dict)
    tensors: tuple[TensorRange, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    emulated: bool = True
    checked: bool = False

    @property
    def ok(self) -> bool:
        """True when every limit held; a check that was held to no limit is no pass."""
        return all(limit.held for limit in self.limits) and bool(self.limits or not self.checked)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data.

        `closed_loop` is the first suite, the one limits refer to; the others follow under
        `closed_loop_also`. `ok` is null where nothing was checked. JSON has no word for a figure
        that is not finite; it becomes null.
        """
        data = {"schema": SCHEMA, "ok": self.ok if self.checked else None, **asdict(self)}
        first, *others = data.pop("closed_loop") or [None]
        whole: dict[str, Any] = _finite({**data, "closed_loop": first, "closed_loop_also": others})
        return whole


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case _:
            return value
