"""Equations of motion against closed forms and an independent scalar integrator."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.policies.plants.dynamics import Dynamics
from edgerl.policies.plants.quadrotor import (
    ATTITUDE,
    DT,
    GRAVITY,
    POSITION,
    RATE,
    ROTORS,
    VELOCITY,
    Floats,
    Quadrotors,
    Start,
    columns,
    hovering,
    named_vehicles,
    rotation_matrix,
    sample_quadrotors,
    sample_starts,
)


def flown(quads: Quadrotors, start: Start, setpoints: Floats) -> Floats:
    """States [T + 1, 17, N] under set-points [T, 4, N]."""
    dynamics = Dynamics(quads, start.force)
    states = [start.state]
    for setpoint in setpoints:
        following = np.empty_like(start.state)
        dynamics.advance(states[-1], setpoint, following)
        states.append(following)
    return np.array(states)


def fleet_and_starts(count: int, seed: int) -> tuple[Quadrotors, Start]:
    rng = np.random.default_rng(seed)
    quads = sample_quadrotors(count, rng)
    return quads, sample_starts(quads, rng)


def cross(a: list[float], b: list[float]) -> list[float]:
    return [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]


class ScalarQuadrotor:
    """One vehicle written out from the vector equations, rotor by rotor, in Python floats."""

    SIGNS = ((1, -1), (-1, -1), (-1, 1), (1, 1))
    SPIN = (-1, 1, -1, 1)

    def __init__(self, quads: Quadrotors, start: Start, i: int) -> None:
        self.mass = float(quads.mass[i])
        self.inertia = quads.inertia[:, i].tolist()
        self.thrust = quads.thrust[:, i].tolist()
        self.torque_constant = float(quads.torque_constant[i])
        self.times = float(quads.time_up[i]), float(quads.time_down[i])
        x, y = quads.arm[:, i].tolist()
        self.rotors = [(sx * x, sy * y, 0.0) for sx, sy in self.SIGNS]
        self.force = start.force[:, i].tolist()

    def slope(self, s: list[float], setpoint: list[float]) -> list[float]:
        v, w, q, speeds = s[3:6], s[6:9], s[9:13], s[13:17]
        push, torque = 0.0, [0.0, 0.0, 0.0]
        for place, spin, speed in zip(self.rotors, self.SPIN, speeds, strict=True):
            f = self.thrust[0] + self.thrust[1] * speed + self.thrust[2] * speed**2
            push += f
            torque = [a + b for a, b in zip(torque, cross(list(place), [0, 0, f]), strict=True)]
            torque[2] += spin * self.torque_constant * f
        # R v = v + 2 q_w (q_v x v) + 2 q_v x (q_v x v)
        once = cross(q[1:], [0, 0, push])
        twice = cross(q[1:], once)
        lift = [2 * (q[0] * a + b) for a, b in zip(once, twice, strict=True)]
        lift[2] += push
        acceleration = [(a + b) / self.mass for a, b in zip(lift, self.force, strict=True)]
        acceleration[2] -= GRAVITY
        spun = cross(w, [j * r for j, r in zip(self.inertia, w, strict=True)])
        turning = [(t - g) / j for t, g, j in zip(torque, spun, self.inertia, strict=True)]
        a, b, c, d = q
        p, r, y = w
        attitude = [
            0.5 * (-b * p - c * r - d * y),
            0.5 * (a * p + c * y - d * r),
            0.5 * (a * r - b * y + d * p),
            0.5 * (a * y + b * r - c * p),
        ]
        motors = [
            (goal - speed) / self.times[0 if goal >= speed else 1]
            for goal, speed in zip(setpoint, speeds, strict=True)
        ]
        return [*v, *acceleration, *turning, *attitude, *motors]

    def advance(self, s: list[float], setpoint: list[float]) -> list[float]:
        def moved(k: list[float], h: float) -> list[float]:
            return [a + h * b for a, b in zip(s, k, strict=True)]

        k1 = self.slope(s, setpoint)
        k2 = self.slope(moved(k1, DT / 2), setpoint)
        k3 = self.slope(moved(k2, DT / 2), setpoint)
        k4 = self.slope(moved(k3, DT), setpoint)
        mean = [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True)]
        s = moved(mean, DT)
        norm = math.sqrt(sum(c * c for c in s[9:13]))
        return [*s[:9], *(c / norm for c in s[9:13]), *(min(max(c, 0.0), 1.0) for c in s[13:])]


def test_agrees_with_a_scalar_integrator_over_violent_flights() -> None:
    count, steps = 12, 50
    quads, start = fleet_and_starts(count, seed=11)
    setpoints = np.random.default_rng(12).uniform(0.0, 1.0, (steps, 4, count))
    states = flown(quads, start, setpoints)
    assert np.abs(states[:, RATE]).max() > 50.0, "the flights should be violent"
    for i in range(count):
        vehicle = ScalarQuadrotor(quads, start, i)
        state = start.state[:, i].tolist()
        for k in range(steps):
            state = vehicle.advance(state, setpoints[k, :, i].tolist())
        np.testing.assert_allclose(states[-1, :, i], state, rtol=1e-11, atol=1e-12)


def test_free_fall() -> None:
    quads = named_vehicles(["x500"])  # its rotors give no thrust at rest
    start = hovering(quads)
    start.state[ROTORS] = 0.0
    start.state[VELOCITY] = [[1.0], [-2.0], [3.0]]
    states = flown(quads, start, np.zeros((200, 4, 1)))
    t = 200 * DT
    np.testing.assert_allclose(
        states[-1, POSITION, 0], [t, -2 * t, 3 * t - GRAVITY * t * t / 2], rtol=1e-12
    )
    np.testing.assert_allclose(states[-1, VELOCITY, 0], [1, -2, 3 - GRAVITY * t], rtol=1e-12)


def test_energy_and_angular_momentum_without_torque() -> None:
    quads = named_vehicles(["x500"])
    start = hovering(quads)
    start.state[ROTORS] = 0.0
    start.state[RATE] = [[3.0], [-2.0], [1.0]]
    states = flown(quads, start, np.zeros((300, 4, 1)))
    rate, j = states[:, RATE, 0], quads.inertia[:, 0]
    body_momentum = rate * j
    world = [
        rotation_matrix(q)[:, 0].reshape(3, 3) @ momentum
        for q, momentum in zip(states[:, ATTITUDE], body_momentum, strict=True)
    ]
    np.testing.assert_allclose(world, np.tile(world[0], (301, 1)), rtol=1e-6)
    spin_energy = 0.5 * (rate * body_momentum).sum(axis=1)
    np.testing.assert_allclose(spin_energy, spin_energy[0], rtol=1e-8)
    height, speed = states[:, 2, 0], states[:, VELOCITY, 0]
    energy = GRAVITY * height + 0.5 * (speed * speed).sum(axis=1)
    np.testing.assert_allclose(energy, energy[0], atol=1e-10)
    assert np.ptp(rate, axis=0).min() > 0.05, "the body should tumble"


def test_hover_is_an_equilibrium() -> None:
    quads, _ = fleet_and_starts(100, seed=1)
    start = hovering(quads)
    states = flown(quads, start, np.tile(quads.hover_speed, (300, 4, 1)))
    np.testing.assert_allclose(states[-1], start.state, atol=1e-11)


def test_constant_force_accelerates_by_its_share_of_mass() -> None:
    quads = named_vehicles(["crazyflie", "x500"])
    start = Start(hovering(quads).state, np.array([[0.01, 0.2], [0.0, -0.4], [0.02, 0.1]]))
    states = flown(quads, start, np.tile(quads.hover_speed, (100, 4, 1)))
    np.testing.assert_allclose(states[-1, VELOCITY], start.force / quads.mass, atol=1e-9)


@pytest.mark.parametrize(
    ("rotor", "signs"),
    [(0, (-1, -1, -1)), (1, (-1, 1, 1)), (2, (1, 1, -1)), (3, (1, -1, 1))],
    ids=["front right", "back right", "back left", "front left"],
)
def test_each_rotor_turns_the_body_its_way(rotor: int, signs: tuple[int, int, int]) -> None:
    """Lifting the left rolls right (+x), lifting the back pitches down (+y); rotors 1 and 3
    yaw left (+z)."""
    quads = named_vehicles(["crazyflie", "x500"])
    start = hovering(quads)
    start.state[13 + rotor] += 0.1
    setpoint = start.state[ROTORS].copy()
    states = flown(quads, start, setpoint[None])
    rate = states[-1, RATE]
    np.testing.assert_array_equal(np.sign(rate), np.array([signs, signs]).T)
    # One step is short enough for rate = torque / inertia * time.
    w = start.state[13 + rotor]
    c0, c1, c2 = quads.thrust
    extra = c0 + c1 * w + c2 * w * w - quads.mass * GRAVITY / 4.0
    lever = np.stack([quads.arm[1], quads.arm[0], quads.torque_constant])
    np.testing.assert_allclose(np.abs(rate), lever * extra / quads.inertia * DT, rtol=0.02)


def test_rotors_lag_exponentially_up_and_down() -> None:
    quads = named_vehicles(["crazyflie"])
    for begin, goal, time in [(0.2, 0.9, quads.time_up[0]), (0.9, 0.2, quads.time_down[0])]:
        start = hovering(quads)
        start.state[ROTORS] = begin
        states = flown(quads, start, np.full((20, 4, 1), goal))
        left = (states[:, 13, 0] - goal) / (begin - goal)
        np.testing.assert_allclose(left, np.exp(-np.arange(21) * DT / time), atol=1e-5)
        # Runge-Kutta's own growth factor, one to the fourth order.
        z = -DT / time
        growth = 1.0 + z + z**2 / 2.0 + z**3 / 6.0 + z**4 / 24.0
        np.testing.assert_allclose(left, growth ** np.arange(21), rtol=1e-12)


def test_rotor_speeds_outside_their_range_are_clamped() -> None:
    quads = named_vehicles(["crazyflie", "x500"])
    start = hovering(quads)
    start.state[ROTORS] = [[1.5], [1.5], [-0.5], [-0.5]]
    states = flown(quads, start, np.array([1.0, 1.0, 0.0, 0.0])[None, :, None].repeat(2, axis=2))
    np.testing.assert_array_equal(states[-1, ROTORS].T, [[1, 1, 0, 0], [1, 1, 0, 0]])


def test_yaw_angle_grows_with_constant_rate() -> None:
    quads = named_vehicles(["x500"])
    start = hovering(quads)
    start.state[8] = 2.0
    states = flown(quads, start, np.tile(quads.hover_speed, (100, 4, 1)))
    np.testing.assert_allclose(
        states[-1, ATTITUDE, 0], [np.cos(1.0), 0.0, 0.0, np.sin(1.0)], atol=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), hold=st.integers(1, 30), steps=st.integers(1, 80))
def test_attitude_stays_a_unit_quaternion_and_rotors_in_range(
    seed: int, hold: int, steps: int
) -> None:
    quads, start = fleet_and_starts(5, seed)
    corners = np.random.default_rng(seed).integers(0, 2, (steps // hold + 1, 4, 5))
    states = flown(quads, start, np.repeat(corners, hold, axis=0)[:steps].astype(np.float64))
    # Full torque for long enough outruns any fixed step; a rollout freezes a vehicle before that.
    with np.errstate(invalid="ignore"):
        flying = np.logical_and.accumulate((np.abs(states) < 1e5).all(axis=1))
    assert flying[0].all()
    norms = np.sqrt((states[:, ATTITUDE] ** 2).sum(axis=1))[flying]
    np.testing.assert_allclose(norms, 1.0, atol=1e-14)
    rotors = states[:, ROTORS].transpose(0, 2, 1)[flying]
    assert rotors.min() >= 0.0 and rotors.max() <= 1.0


@settings(max_examples=30, deadline=None)
@given(count=st.integers(2, 70), data=st.data())
def test_bits_do_not_depend_on_who_flies_beside(count: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, count - 1))
    quads, start = fleet_and_starts(count, seed=count)
    setpoints = np.random.default_rng(cut).uniform(0.0, 1.0, (20, 4, count))
    together = flown(quads, start, setpoints)
    for part in (slice(0, cut), slice(cut, count)):
        alone = flown(columns(quads, part), columns(start, part), setpoints[:, :, part].copy())
        assert alone.tobytes() == np.ascontiguousarray(together[:, :, part]).tobytes()
