"""Closed-loop rollouts: feedback, termination, recording, reproducibility."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.errors import UserError
from edgerl.policies.plants import (
    POSITION,
    RATE,
    ROTORS,
    VELOCITY,
    Flight,
    Hover,
    Limits,
    Step,
    hovering,
    named_vehicles,
    rollout,
)
from edgerl.policies.plants.quadrotor import columns

FreshPolicy = Callable[[int], Step]


class Recorder:
    """A step that returns what `answer` says and keeps what it saw."""

    def __init__(self, answer: Callable[[int, np.ndarray], np.ndarray]) -> None:
        self.answer = answer
        self.seen: list[np.ndarray] = []

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        self.seen.append(observation)
        return self.answer(len(self.seen) - 1, observation)


def constant(value: float) -> Recorder:
    return Recorder(lambda k, o: np.full((len(o), 4), value, dtype=np.float32))


def test_feedback_raw_and_clamped() -> None:
    quads = named_vehicles(["crazyflie"])
    start = hovering(quads)
    first = (2.0 * start.state[ROTORS, 0] - 1.0).astype(np.float32)
    for feedback, later in [("raw", 3.5), ("clamped", 1.0)]:
        step = constant(3.5)
        flight = rollout(quads, start, step, steps=5, feedback=feedback, limits=None)
        assert flight.survived.all()
        np.testing.assert_array_equal(step.seen[0][0, 18:], first)
        for seen in step.seen[1:]:
            np.testing.assert_array_equal(seen[0, 18:], np.float32(later))


def test_rotors_get_the_clamped_action_whatever_is_fed_back() -> None:
    quads, start = Hover().draw(8)
    digests = {
        (feedback, value): rollout(
            quads, start, constant(value), steps=20, feedback=feedback, limits=None, record=8
        ).digest()
        for feedback in ("raw", "clamped")
        for value in (1.0, 7.0)
    }
    assert len(set(digests.values())) == 1


def test_a_vehicle_that_leaves_the_limits_freezes_inside_them() -> None:
    quads = named_vehicles(["x500", "x500"])
    start = hovering(quads)
    start.state[VELOCITY, 0] = [0.0, 0.0, 1.9]
    step = constant(2.0 * float(quads.hover_speed[0]) - 1.0 + 0.02)  # climbs, slowly
    flight = rollout(quads, start, step, steps=60, record=2)
    assert flight.survived.tolist() == [False, True]
    last = int(flight.length[0])
    assert 0 < last < 60
    frozen = flight.states[last:, :, 0]
    assert (frozen == frozen[0]).all()
    assert 1.9 < frozen[0, 5] <= 2.0
    assert (flight.error[last:, 0] == flight.error[last, 0]).all()
    assert (np.diff(flight.states[:, 2, 1]) > 0.0).all()
    # The policy is still asked for both, and sees the frozen vehicle as it was.
    assert len(step.seen) == 60
    assert all(seen.shape == (2, 22) for seen in step.seen)
    assert (step.seen[-1][0] == step.seen[last + 1][0]).all()


@pytest.mark.parametrize(
    ("rows", "value"), [(POSITION, 20.0 * 0.25), (VELOCITY, 2.0), (RATE, 35.0)]
)
def test_each_limit(rows: slice, value: float) -> None:
    """At rest relative to the limit, one side of it flies and the other does not."""
    quads = named_vehicles(["x500"])
    for axis in range(3):
        for sign in (-1.0, 1.0):
            lengths = []
            for share in (0.97, 1.03):
                start = hovering(quads)
                start.state[rows][axis] = sign * share * value
                lengths.append(int(rollout(quads, start, constant(0.11), steps=1).length[0]))
            assert lengths == [1, 0]


def test_without_limits_only_numerical_loss_ends_a_flight() -> None:
    quads, start = Hover().draw(64)
    spin = Recorder(lambda k, o: np.tile(np.float32([-1, 1, -1, 1]), (len(o), 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flight = rollout(quads, start, spin, steps=1500, limits=None, record=64)
    assert np.isfinite(flight.states).all()
    assert np.isfinite(flight.error).all()
    assert np.abs(flight.states).max() <= 1.0e5
    assert 0 < flight.survived.sum() < 64, "some should spin apart and some should not"
    assert np.isfinite(spin.seen).all()


@settings(max_examples=25, deadline=None)
@given(
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    at=st.integers(0, 19),
    who=st.integers(0, 4),
    motor=st.integers(0, 3),
    feedback=st.sampled_from(["raw", "clamped"]),
    limits=st.sampled_from([None, Limits()]),
)
def test_a_bad_action_ends_one_flight_and_touches_no_other(
    bad: float, at: int, who: int, motor: int, feedback: str, limits: Limits | None
) -> None:
    quads = named_vehicles(["crazyflie"] * 5)
    start = hovering(quads)
    hold = (2.0 * quads.hover_speed[:, None] - 1.0).astype(np.float32).repeat(4, axis=1)

    def answer(k: int, observation: np.ndarray) -> np.ndarray:
        action = hold.copy()
        if k >= at:
            action[who, motor] = bad
        return action

    step = Recorder(answer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flight = rollout(quads, start, step, steps=20, feedback=feedback, limits=limits, record=5)
    assert flight.length.tolist() == [at if i == who else 20 for i in range(5)]
    assert np.isfinite(flight.states).all()
    assert np.isfinite(step.seen).all()


def test_reference_is_what_the_policy_sees_and_the_error_is_taken_from() -> None:
    quads = named_vehicles(["x500", "x500"])
    start = hovering(quads)
    reference = np.random.default_rng(0).uniform(-1.0, 1.0, (10, 6, 2))
    step = constant(2.0 * float(quads.hover_speed[0]) - 1.0)
    flight = rollout(quads, start, step, steps=10, reference=reference, record=2, limits=None)
    for k in range(10):
        position = step.seen[k][:, 0:3].T + reference[k, :3]
        np.testing.assert_allclose(position, flight.states[k, POSITION], atol=1e-6)
        velocity = step.seen[k][:, 12:15].T + reference[k, 3:]
        np.testing.assert_allclose(velocity, flight.states[k, VELOCITY], atol=1e-6)
        away = flight.states[k + 1, POSITION] - reference[k, :3]
        np.testing.assert_allclose(flight.error[k + 1], np.linalg.norm(away, axis=0), atol=1e-12)


def test_record_keeps_the_first_vehicles_from_start_to_end(published_policy: FreshPolicy) -> None:
    quads, start = Hover().draw(32)
    whole = rollout(quads, start, published_policy(32), steps=30, record=32)
    some = rollout(quads, start, published_policy(32), steps=30, record=3)
    assert whole.states.shape == (31, 17, 32)
    assert some.states.shape == (31, 17, 3)
    assert rollout(quads, start, published_policy(32), steps=1).states.shape == (2, 17, 0)
    np.testing.assert_array_equal(whole.states[0], start.state)
    np.testing.assert_array_equal(whole.states[:, :, :3], some.states)
    np.testing.assert_allclose(
        whole.error, np.linalg.norm(whole.states[:, POSITION], axis=1), atol=1e-12
    )


def test_rollout_leaves_the_start_untouched() -> None:
    quads, start = Hover().draw(4)
    before = start.state.copy()
    rollout(quads, start, constant(0.0), steps=5)
    np.testing.assert_array_equal(start.state, before)


def test_same_inputs_same_digest_and_one_bit_changes_it(published_policy: FreshPolicy) -> None:
    quads, start = Hover().draw(64)

    def flight(nudge: bool) -> Flight:
        inner = published_policy(64)

        def step(observation: np.ndarray) -> np.ndarray:
            action = inner(observation)
            if nudge:
                action[63, 2] = np.nextafter(action[63, 2], np.float32(9.0))
            return action

        return rollout(quads, start, step, steps=40, record=64)

    first, second, nudged = flight(False), flight(False), flight(True)
    assert first.states.tobytes() == second.states.tobytes()
    assert first.digest() == second.digest() != nudged.digest()


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 40), data=st.data())
def test_bits_do_not_depend_on_who_flies_beside(count: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, count - 1))
    quads, start = Hover().draw(count)

    # Element-wise, so that the policy itself has the same bits in every batch.
    def step(observation: np.ndarray) -> np.ndarray:
        lean = observation[:, 0:1] * 2.0 + observation[:, 12:13] - observation[:, 2:3]
        return np.float32(0.2) - lean * np.float32([1, -1, 1, -1]) + observation[:, 18:22] / 8

    together = rollout(quads, start, step, steps=60, record=count)
    parts = [
        rollout(columns(quads, p), columns(start, p), step, steps=60, record=count)
        for p in (slice(0, cut), slice(cut, count))
    ]
    joined = Flight(
        np.concatenate([p.length for p in parts]),
        np.concatenate([p.error for p in parts], axis=1),
        np.concatenate([p.states for p in parts], axis=2),
    )
    assert joined.digest() == together.digest()


def test_progress_counts_every_step() -> None:
    quads = named_vehicles(["crazyflie"])
    calls: list[tuple[int, int]] = []
    rollout(
        quads,
        hovering(quads),
        constant(0.0),
        steps=4,
        progress=lambda done, steps: calls.append((done, steps)),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("shape", [(2, 3), (1, 4), (4,), (2, 4, 1)])
def test_actions_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    quads = named_vehicles(["crazyflie", "x500"])
    with pytest.raises(UserError, match=r"need \[2, 4\] motor set-points"):
        rollout(quads, hovering(quads), lambda o: np.zeros(shape, dtype=np.float32), steps=1)
