"""Vehicles, starts and observation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.errors import UserError
from edgerl.policies.plants.quadrotor import (
    ATTITUDE,
    GRAVITY,
    POSITION,
    RATE,
    ROTORS,
    VEHICLES,
    VELOCITY,
    Quadrotors,
    columns,
    hovering,
    joined,
    named_vehicles,
    observe,
    rotation_matrix,
    sample_quadrotors,
    sample_starts,
)


@pytest.fixture(scope="module")
def fleet() -> Quadrotors:
    return sample_quadrotors(20_000, np.random.default_rng(7))


def test_ranges_of_the_distribution(fleet: Quadrotors) -> None:
    for values, low, high in [
        (fleet.thrust_to_weight, 1.5, 5.0),
        (fleet.mass, 0.02, 5.0),
        (fleet.torque_constant, 0.005, 0.05),
        (fleet.time_up, 0.03, 0.10),
        (fleet.time_down, 0.03, 0.30),
    ]:
        assert low * (1 - 1e-12) <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high * (1 + 1e-12)
    # The cube root of mass is uniform, the mass is not.
    root = np.cbrt(fleet.mass)
    assert root.mean() == pytest.approx((np.cbrt(0.02) + np.cbrt(5.0)) / 2, rel=0.01)


def test_torque_to_inertia_recovered_from_the_parameters(fleet: Quadrotors) -> None:
    rotor_thrust = fleet.thrust.sum(axis=0)
    ratio = np.sqrt(2.0) * fleet.arm[0] * rotor_thrust / fleet.inertia[0]
    assert 40.0 <= ratio.min() < 45.0
    assert 1195.0 < ratio.max() <= 1200.0 * (1 + 1e-12)
    assert ratio.mean() == pytest.approx(620.0, rel=0.01)
    np.testing.assert_allclose(fleet.inertia[1] / fleet.inertia[0], 1.0242, atol=1e-4)
    np.testing.assert_allclose(fleet.inertia[2] / fleet.inertia[0], 1.854, atol=1e-3)


def test_size_follows_mass_up_to_the_skewed_factor(fleet: Quadrotors) -> None:
    factor = fleet.arm[0] / (0.028 * np.cbrt(fleet.mass / 0.0306))
    u = np.where(factor < 1.0, 1.0 - 1.0 / factor, factor - 1.0)
    assert u.mean() == pytest.approx(-0.1, abs=0.003)
    assert u.std() == pytest.approx(0.1, abs=0.003)
    np.testing.assert_array_equal(fleet.arm[0], fleet.arm[1])


def test_disturbance_follows_the_published_code(fleet: Quadrotors) -> None:
    t2w = fleet.thrust_to_weight
    share = fleet.disturbance / ((t2w - 1.0) * 0.3 * t2w * fleet.mass / 3.0)
    assert share.min() >= 0.0
    assert share.max() <= 1.0 + 1e-12
    assert share.mean() == pytest.approx(0.5, abs=0.01)


def test_starts(fleet: Quadrotors) -> None:
    start = sample_starts(fleet, np.random.default_rng(8))
    guided = (start.state[POSITION] == 0.0).all(axis=0)
    assert guided.mean() == pytest.approx(0.1, abs=0.01)
    assert (start.state[VELOCITY, guided] == 0.0).all()
    assert (start.state[RATE, guided] == 0.0).all()
    assert (start.state[ATTITUDE, guided] == [[1], [0], [0], [0]]).all()
    free = start.state[:, ~guided]
    for rows, low, high in [(POSITION, -0.5, 0.5), (VELOCITY, -1, 1), (RATE, -1, 1)]:
        assert low <= free[rows].min() < 0.99 * low
        assert 0.99 * high < free[rows].max() <= high
    angle = 2.0 * np.arccos(free[9])
    assert 0.0 <= angle.min() < 0.01
    assert 0.99 < angle.max() <= 1.0 + 1e-9
    axis = free[10:13] / np.linalg.norm(free[10:13], axis=0)
    np.testing.assert_allclose(axis.mean(axis=1), 0.0, atol=0.02)
    np.testing.assert_allclose((axis**2).mean(axis=1), 1 / 3, atol=0.01)
    assert 0.0 <= start.state[ROTORS].min() < 0.01
    assert 0.49 < start.state[ROTORS].max() <= 0.5
    np.testing.assert_allclose((start.force / fleet.disturbance).std(axis=1), 1.0, atol=0.02)
    # Guided vehicles are pushed too, and their rotors turn.
    assert np.abs(start.force[:, guided]).min() > 0.0


def test_wide_and_undisturbed_starts(fleet: Quadrotors) -> None:
    wide = sample_starts(fleet, np.random.default_rng(8), span=None, disturbance=False)
    near = sample_starts(fleet, np.random.default_rng(8))
    assert (wide.force == 0.0).all()
    share = np.abs(wide.state[POSITION]) / (10.0 * fleet.reach)
    assert 0.99 < share.max() <= 1.0
    # The same vehicle starts the same way whatever the span.
    np.testing.assert_array_equal(wide.state[3:], near.state[3:])


def test_same_seed_same_bytes() -> None:
    def draw(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        quads = sample_quadrotors(50, rng)
        start = sample_starts(quads, rng)
        arrays = [*vars(quads).values(), *vars(start).values()]
        return b"".join(array.tobytes() for array in arrays)

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_named_vehicles() -> None:
    quads = named_vehicles(["x500", "crazyflie"])
    np.testing.assert_allclose(quads.mass, [2.0, 0.0306])
    np.testing.assert_allclose(1.0 / quads.inertia[0], [46.0723, 106195.93], rtol=1e-5)
    np.testing.assert_allclose(quads.hover_speed[0], 0.55496362, rtol=1e-7)
    np.testing.assert_allclose(quads.reach, [0.25, 0.028 * np.sqrt(2.0)], rtol=1e-9)
    assert quads.arm.flags.c_contiguous
    assert (quads.disturbance == 0.0).all()


def test_hover_speed_carries_the_weight(fleet: Quadrotors) -> None:
    w = fleet.hover_speed
    thrust = fleet.thrust[0] + fleet.thrust[1] * w + fleet.thrust[2] * w * w
    np.testing.assert_allclose(4.0 * thrust, fleet.mass * GRAVITY, rtol=1e-12)
    assert ((w > 0.0) & (w < 1.0)).all()


def test_unknown_vehicle_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'crazyfly'; did you mean 'crazyflie'\?"):
        named_vehicles(["x500", "crazyfly"])
    with pytest.raises(UserError, match=f"known: {', '.join(VEHICLES)}"):
        named_vehicles(["zeppelin"])


def test_columns_and_joined_are_inverse() -> None:
    rng = np.random.default_rng(0)
    quads = sample_quadrotors(9, rng)
    start = sample_starts(quads, rng)
    for whole in (quads, start):
        again = joined([columns(whole, slice(0, 4)), columns(whole, slice(4, 9))])
        for name, array in vars(whole).items():
            np.testing.assert_array_equal(getattr(again, name), array)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: any(np.abs(q) > 0.1)))
def test_rotation_matrix_is_a_rotation(values: list[float]) -> None:
    q = np.array(values)[:, None] / np.linalg.norm(values)
    r = rotation_matrix(q)[:, 0].reshape(3, 3)
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(r) == pytest.approx(1.0, abs=1e-12)
    # The rotation turns about the vector part.
    np.testing.assert_allclose(r @ q[1:, 0], q[1:, 0], atol=1e-12)


def test_rotation_matrix_takes_body_to_world() -> None:
    turn = np.cos(0.25), np.sin(0.25)
    yaw_left = np.array([[turn[0]], [0.0], [0.0], [turn[1]]])
    r = rotation_matrix(yaw_left)[:, 0].reshape(3, 3)
    np.testing.assert_allclose(r @ [1, 0, 0], [np.cos(0.5), np.sin(0.5), 0.0], atol=1e-15)


def test_observation_layout() -> None:
    quads = named_vehicles(["crazyflie", "x500"])
    start = hovering(quads)
    state = start.state
    state[RATE] = [[1, 2], [3, 4], [5, 6]]
    error = np.arange(12.0).reshape(6, 2)
    previous = np.arange(8, dtype=np.float32).reshape(2, 4)
    seen = observe(state, error, previous)
    assert seen.dtype == np.float32
    assert seen.flags.c_contiguous
    identity = [1, 0, 0, 0, 1, 0, 0, 0, 1]
    np.testing.assert_array_equal(
        seen,
        [
            [0, 2, 4, *identity, 6, 8, 10, 1, 3, 5, 0, 1, 2, 3],
            [1, 3, 5, *identity, 7, 9, 11, 2, 4, 6, 4, 5, 6, 7],
        ],
    )
