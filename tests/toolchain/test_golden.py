"""Golden traces: what they visit, and that their file is whole or refused."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgerl.errors import UserError
from edgerl.policies import Policy, Signal, load
from edgerl.toolchain import golden
from edgerl.toolchain.build import Run
from edgerl.toolchain.golden import GoldenFile, Trace

RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def bits(steps: int, width: int) -> st.SearchStrategy[np.ndarray]:
    """Any float32 there is, NaN of every kind included."""
    words = arrays.arrays(np.uint32, (steps, width), elements=st.integers(0, 2**32 - 1))
    return words.map(lambda values: values.view(np.float32))


@st.composite
def traces(draw: st.DrawFn, mode: str, n: int, m: int) -> Trace:
    steps = draw(st.integers(1, 5))
    status = draw(arrays.arrays(np.uint32, steps, elements=st.integers(0, 2**32 - 1)))
    resets = draw(arrays.arrays(np.bool_, steps))
    run = Run(draw(bits(steps, m)), status, None)
    return Trace(mode, draw(bits(steps, n)), resets, run)


@st.composite
def files(draw: st.DrawFn) -> GoldenFile:
    n, m = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    own = (draw(traces("evaluate", n, m)), draw(traces("step", n, m)))
    published = draw(st.none() | traces("evaluate", n, m))
    words = st.text("aZ 0-_é\u20ac", max_size=12)
    return GoldenFile(draw(words), draw(words), own, published, draw(words))


def same(one: Trace, other: Trace) -> bool:
    def words(trace: Trace) -> list[bytes]:
        run = trace.expected
        parts = (trace.observations, trace.resets, run.actions, run.status)
        return [part.tobytes() for part in parts]

    return one.mode == other.mode and words(one) == words(other)


@given(files())
@RELAXED
def test_a_file_comes_back_bit_for_bit(file):
    data = golden.serialize(file)
    back = golden.parse(data, "golden.bin")
    assert golden.serialize(back) == data
    assert (back.name, back.numerics, back.source) == (file.name, file.numerics, file.source)
    assert all(same(*pair) for pair in zip(back.traces, file.traces, strict=True))
    assert (back.published is None) == (file.published is None)
    assert back.published is None or same(back.published, file.published)


@given(files(), st.data())
@RELAXED
def test_a_file_cut_short_or_altered_is_refused(file, data):
    whole = golden.serialize(file)
    cut = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    for spoiled in (whole[:cut], bytes(flipped), whole + b"\0", whole[1:]):
        with pytest.raises(UserError, match=r"a/golden\.bin: not a whole golden file"):
            golden.parse(spoiled, "a/golden.bin")


def signed(header: bytes, body: bytes, length: int | None = None) -> bytes:
    """A file whose checksum is right, whatever it holds."""
    size = struct.pack("<I", len(header) if length is None else length)
    content = golden.MAGIC + size + header + body
    return content + hashlib.sha256(content).digest()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text("aZ0", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aZ0", max_size=4), inner),
    max_leaves=8,
)


@given(st.binary(max_size=64))
@RELAXED
def test_bytes_from_anywhere_are_refused(data):
    for content in (data, golden.MAGIC + data, signed(data, b""), signed(b"{}", data, 2**31)):
        with pytest.raises(UserError):
            golden.parse(content, "golden.bin")


@given(files(), st.sampled_from(["observation_size", "action_size", "traces", "name"]), JSON)
@RELAXED
def test_a_header_that_lies_is_refused_or_harmless(file, key, value):
    whole = golden.serialize(file)
    (length,) = struct.unpack_from("<I", whole, 8)
    header = json.loads(whole[12 : 12 + length])
    body = whole[12 + length : -32]
    for spoiled in (header | {key: value}, {k: v for k, v in header.items() if k != key}):
        try:
            back = golden.parse(signed(json.dumps(spoiled).encode(), body), "golden.bin")
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert [t.observations.dtype for t in back.traces] == [np.float32, np.float32]


@pytest.mark.parametrize("steps", [-1, 0, 10**12, 2**63, 1.5, "4", None, [1]])
def test_impossible_sizes_are_refused(steps):
    header = {
        "name": "n", "numerics": "x", "source": "", "observation_size": 1, "action_size": 1,
        "traces": [{"kind": "evaluate", "steps": steps}, {"kind": "step", "steps": 1}],
    }  # fmt: skip
    with pytest.raises(UserError):
        golden.parse(signed(json.dumps(header).encode(), b"\0" * 26), "golden.bin")
    deep = b'{"traces":' + b"[" * 100_000
    with pytest.raises(UserError):
        golden.parse(signed(deep, b""), "golden.bin")


# What is recorded


@pytest.fixture(scope="module")
def policy(small_policy: Path) -> Policy:
    return load(small_policy)


def ranged(policy: Policy, *ranges: tuple[float, float]) -> Policy:
    from dataclasses import replace

    signals = tuple(Signal(name=f"s{k}", size=1, range=r) for k, r in enumerate(ranges))
    return replace(policy, spec=policy.spec.model_copy(update={"observation": signals}))


def test_inputs_are_the_same_each_time_and_start_with_a_reset(policy):
    for mode, steps in (("evaluate", golden.EVALUATE_STEPS), ("step", golden.STEP_STEPS)):
        one, other = golden.inputs(policy, mode), golden.inputs(policy, mode)
        assert one[0].tobytes() == other[0].tobytes() and (one[1] == other[1]).all()
        assert one[0].shape == (steps, 3) and one[1][0]
        assert 1 < one[1].sum() < steps / 4


def test_the_bare_network_sees_its_whole_range_and_nothing_else(policy):
    ranges = ((-1.0, 1.0), (100.0, 200.0), (-1000.0, -999.0))
    observations, _ = golden.inputs(ranged(policy, *ranges), "evaluate")
    for column, (low, high) in zip(observations.T, ranges, strict=True):
        assert low <= column.min() < column.max() <= high
        # Where a range is wider than any signal, the part of it nearest to zero.
        assert column.max() - column.min() >= 0.9 * min(high - low, 8.0)


def test_the_guarded_step_meets_faults(policy):
    observations, _ = golden.inputs(policy, "step")
    with np.errstate(invalid="ignore"):
        assert np.isnan(observations).any() and np.isinf(observations).any()
        assert (np.abs(observations) == np.float32(1e30)).any()
    denormal = (observations != 0) & (np.abs(observations) < np.finfo(np.float32).tiny)
    assert denormal.any()
    assert np.isfinite(golden.inputs(policy, "evaluate")[0]).all()


def test_a_wide_observation_gets_fewer_steps_but_a_thousand(policy):
    wide = policy.spec.model_copy(
        update={"observation": (Signal(name="pixels", size=20_000, range=(0.0, 1.0)),)}
    )
    from dataclasses import replace

    observations, _ = golden.inputs(replace(policy, spec=wide), "evaluate")
    assert observations.shape == (1024, 20_000)


def test_published_vectors_come_first_and_keep_their_answers(raptor):
    policy = load("raptor")
    trace = golden.published(policy)
    assert trace is not None and policy.examples is not None
    examples = policy.examples
    steps = len(examples.observations)
    assert trace.resets.sum() == examples.observations.shape[1]
    assert np.array_equal(trace.observations[:steps], examples.observations[:, 0])
    assert np.array_equal(trace.expected.actions[steps : 2 * steps], examples.actions[:, 1])
    assert np.array_equal(golden.inputs(policy, "evaluate")[0][:steps], examples.observations[:, 0])
    stored = (raptor.artifact.folder / "golden.bin").read_bytes()
    assert golden.parse(stored, "golden.bin").source.startswith("foundation-policy ")
