"""Report: every figure of a compile or check, typed, with the limits it was held to.

The JSON form keeps the keys of DESIGN §3; keys may be added, none is renamed.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = 1


@dataclass(frozen=True)
class PolicyFacts:
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
    layers: tuple[LayerCost, ...] = ()


@dataclass(frozen=True)
class Difference:
    """The first place where two runs part: step, tensor, element and both values."""

    step: int
    tensor: str
    index: int
    values: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Parity:
    bit_exact: bool
    steps: int
    between: tuple[str, ...]
    first_difference: Difference | None = None


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
    the position error: name -> one value a step.
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


@dataclass(frozen=True)
class Certificate:
    value: Any
    kind: Literal["proved", "measured", "not_applicable"]
    method: str


@dataclass(frozen=True)
class Limit:
    """One figure against its bound. `value` None means it could not be obtained, which is a
    miss, never a pass."""

    name: str
    value: float | bool | None
    limit: str
    ok: bool


@dataclass(frozen=True)
class Report:
    """Everything a compile or check found out (DESIGN §3)."""

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
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    emulated: bool = True

    @property
    def ok(self) -> bool:
        """True when every limit held."""
        return all(limit.ok for limit in self.limits)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data. `closed_loop` is the first suite, the one limits refer to;
        the others follow under `closed_loop_also`."""
        data = {"schema": SCHEMA, **asdict(self)}
        first, *others = data.pop("closed_loop") or [None]
        return {**data, "closed_loop": first, "closed_loop_also": others}
