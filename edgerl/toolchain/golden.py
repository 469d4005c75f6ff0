"""Golden traces: what the compiled program must answer, bit for bit, and the file they live in.

`golden.bin` holds two traces of one controller: `evaluate` runs the bare network through finite
observations; `step` runs the guarded function and meets faults too (NaN, infinities, values out
of range, denormals). Inputs are published vectors where the policy brought some, then seeded
random sequences of random length, each from a reset. Expected bits come from the portable twin.

A third trace, `published`, holds the authors' own vectors with their own answers, which ours are
held against within a tolerance.

Layout, little-endian: the magic `EDGERLG1`, a uint32 length, a JSON header of that length
(`numerics`, `name`, sizes, `source` of the published vectors and `traces`: kind and steps of
each), then for each trace its observations [T, n] float32, reset marks [T] uint8, actions [T, m]
float32, statuses [T] uint32; last the SHA-256 of all that comes before it.
"""

import hashlib
import json
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.build.run import Mode, Run

Floats = npt.NDArray[np.float32]
MAGIC = b"EDGERLG1"

EVALUATE_STEPS = 10_240
STEP_STEPS = 2_048
SELF_TEST_STEPS = 4
_SEED = 20_250_419
_MOST_BYTES = 8 << 20
# Of a trace, about one for each parameter and step: an emulated core does some millions a second.
_MOST_PRODUCTS = 1 << 29
# Where a range is wider than any signal, noise of a few units still visits both its sides.
_WIDE = 8.0
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Trace:
    """Observations [T, n], reset marks [T] (before the step), and the expected run."""

    mode: Mode
    observations: Floats
    resets: npt.NDArray[np.bool_]
    expected: Run

    def first(self, steps: int) -> "Trace":
        """Its first `steps` steps."""
        kept, run = slice(0, steps), self.expected
        states = None if run.states is None else run.states[kept]
        expected = Run(run.actions[kept], run.status[kept], states)
        return Trace(self.mode, self.observations[kept], self.resets[kept], expected)


@dataclass(frozen=True)
class GoldenFile:
    """Everything in golden.bin."""

    numerics: str
    name: str
    traces: tuple[Trace, ...]
    published: Trace | None = None
    source: str = ""

    @property
    def evaluate(self) -> Trace:
        """The trace of the bare network."""
        return next(t for t in self.traces if t.mode == "evaluate")

    def shortened(self, share: int) -> "GoldenFile":
        """The first steps of each trace, one of `share`."""
        return replace(self, traces=tuple(t.first(len(t.resets) // share) for t in self.traces))


def published(policy: Policy) -> Trace | None:
    """The policy's own vectors as one trace with resets, or None where it brought none."""
    if policy.examples is None:
        return None
    observations = np.swapaxes(policy.examples.observations, 0, 1)
    actions = np.swapaxes(policy.examples.actions, 0, 1)
    resets = np.zeros(observations.shape[:2], np.bool_)
    resets[:, 0] = True
    steps = resets.size
    run = Run(np.ascontiguousarray(actions.reshape(steps, -1)), np.zeros(steps, np.uint32), None)
    flat = np.ascontiguousarray(observations.reshape(steps, -1))
    return Trace("evaluate", flat, resets.reshape(-1), run)


def inputs(policy: Policy, mode: Mode) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Observations [T, n] and reset marks [T] for `mode`, the same for the same policy spec."""
    spec = policy.spec
    n = spec.observation_size
    wanted = EVALUATE_STEPS if mode == "evaluate" else STEP_STEPS
    # The widest observation and the largest network still get a thousand steps.
    most = min(_MOST_BYTES // (4 * n), _MOST_PRODUCTS // max(1, policy.parameters))
    steps = max(1024, min(wanted, most))
    rng = np.random.default_rng(_SEED + (mode == "step"))
    sequences: list[Floats] = []
    if policy.examples is not None:
        sequences += [s[:steps] for s in np.swapaxes(policy.examples.observations, 0, 1)]
    while sum(map(len, sequences)) < steps:
        sequences.append(_sequence(spec, int(rng.integers(SELF_TEST_STEPS, 1024)), rng))
    observations = np.concatenate(sequences)[:steps]
    resets = np.zeros(steps, np.bool_)
    starts = np.cumsum([0, *map(len, sequences)])
    resets[starts[starts < steps]] = True
    if mode == "step":
        observations = _with_faults(observations, rng)
    return np.ascontiguousarray(observations, np.float32), resets


def _sequence(spec: PolicySpec, length: int, rng: np.random.Generator) -> Floats:
    """A stretch of plausible observations: noise around a random centre inside the ranges, so
    that a recurrent state settles somewhere else each time."""
    ranges = np.array(spec.observation_ranges())
    nearest = np.clip(0.0, ranges[:, 0], ranges[:, 1])
    low, high = (np.clip(nearest + side, ranges[:, 0], ranges[:, 1]) for side in (-_WIDE, _WIDE))
    centre = low + (high - low) * rng.random(len(low))
    noise = rng.standard_normal((length, len(low))) * (high - low) * rng.choice([0.02, 0.2, 0.6])
    values: Floats = np.clip(centre + noise, ranges[:, 0], ranges[:, 1]).astype(np.float32)
    return values


def _with_faults(observations: Floats, rng: np.random.Generator) -> Floats:
    """A tenth of the rows with one element replaced by something no sensor should say."""
    faults = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-42, -0.0, -np.nan], np.float32)
    result = observations.copy()
    rows = np.flatnonzero(rng.random(len(result)) < 0.1)
    columns = rng.integers(0, result.shape[1], len(rows))
    result[rows, columns] = rng.choice(faults, len(rows))
    return result


def serialize(golden: GoldenFile) -> bytes:
    """The bytes of golden.bin."""
    first = golden.traces[0]
    named: list[tuple[str, Trace]] = [(t.mode, t) for t in golden.traces]
    if golden.published is not None:
        named.append(("published", golden.published))
    header = json.dumps(
        {
            "name": golden.name,
            "numerics": golden.numerics,
            "observation_size": first.observations.shape[1],
            "action_size": first.expected.actions.shape[1],
            "source": golden.source,
            "traces": [{"kind": kind, "steps": len(t.resets)} for kind, t in named],
        },
        sort_keys=True,
    ).encode()
    parts = [MAGIC, struct.pack("<I", len(header)), header]
    for _, t in named:
        parts += [
            t.observations.astype("<f4").tobytes(),
            t.resets.astype(np.uint8).tobytes(),
            t.expected.actions.astype("<f4").tobytes(),
            t.expected.status.astype("<u4").tobytes(),
        ]
    content = b"".join(parts)
    return content + hashlib.sha256(content).digest()


def parse(data: bytes, where: str) -> GoldenFile:
    """Read golden.bin. Raises UserError, naming `where`, when it is cut short, altered in any
    byte, or was never one."""
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    try:
        if not content.startswith(MAGIC):
            raise ValueError("wrong magic")
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("its checksum differs")
        return _parsed(content)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error) as error:
        raise UserError(f"{where}: not a whole golden file ({error}); compile again") from error


def _parsed(content: bytes) -> GoldenFile:
    (length,) = struct.unpack_from("<I", content, len(MAGIC))
    offset = len(MAGIC) + 4
    header = json.loads(content[offset : offset + length])
    offset += length
    n, m = _count(header["observation_size"]), _count(header["action_size"])
    traces: dict[str, Trace] = {}
    for row in header["traces"]:
        kind, steps = str(row["kind"]), _count(row["steps"])
        shapes = (("<f4", (steps, n)), ("u1", (steps,)), ("<f4", (steps, m)), ("<u4", (steps,)))
        arrays = []
        for element, shape in shapes:
            size = int(np.prod(shape, dtype=object))
            arrays.append(np.frombuffer(content, element, size, offset).reshape(shape))
            offset += arrays[-1].nbytes
        observations, resets, actions, status = arrays
        run = Run(actions.astype(np.float32), status.astype(np.uint32), None)
        mode: Mode = "step" if kind == "step" else "evaluate"
        traces[kind] = Trace(mode, observations.astype(np.float32), resets.astype(bool), run)
    if offset != len(content):
        raise ValueError(f"{len(content) - offset} bytes too many")
    ours = (traces["evaluate"], traces["step"])
    return GoldenFile(
        numerics=str(header["numerics"]),
        name=str(header["name"]),
        traces=ours,
        published=traces.get("published"),
        source=str(header["source"]),
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"a size is {str(value)[:20]}")
    return value
