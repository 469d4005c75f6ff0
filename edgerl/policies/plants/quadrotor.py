"""Quadrotors: which vehicles there are, where they start, what a policy sees of them.

Vehicle distribution, initial states and observation are those of the learning-to-fly simulator
that RAPTOR was trained and published with (arXiv:2509.11481, supplement S5-S27, and its public
code, which wins where the two differ); the equations of motion are in `dynamics`. World frame:
x forward, y left, z up; SI units.

A state is an array [17, N] whose rows are named by `POSITION`, `VELOCITY`, `RATE`, `ATTITUDE`
and `ROTORS`; rotor speeds are relative, 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

GRAVITY = 9.81  # m/s^2
DT = 0.01  # s, the policy's native period and the integrator's step

POSITION = slice(0, 3)  # m, world
VELOCITY = slice(3, 6)  # m/s, world
RATE = slice(6, 9)  # rad/s, body
ATTITUDE = slice(9, 13)  # unit quaternion w x y z, body to world
ROTORS = slice(13, 17)  # relative speed 0..1: front right, back right, back left, front left
STATE_SIZE = 17
OBSERVATION_SIZE = 22
ACTION_SIZE = 4


@dataclass(frozen=True)
class Vehicle:
    """One named vehicle.

    mass [kg]; arm: rotors sit at (+-arm[0], +-arm[1]) m; thrust: c0, c1, c2 [N] of one rotor's
    thrust c0 + c1 w + c2 w^2; torque_constant: yaw torque over thrust [m]; time_up, time_down:
    rotor time constants when speeding up and slowing down [s]; inertia: principal moments
    about x, y, z [kg m^2].
    """

    mass: float
    arm: tuple[float, float]
    thrust: tuple[float, float, float]
    torque_constant: float
    time_up: float
    time_down: float
    inertia: tuple[float, float, float]


# A new vehicle is a new row. Sources: the simulator's parameters/dynamics/crazyflie.h and
# x500_real.h; the latter prints the x500's Jxx as `2.1705-2` (= 0.1705), an obvious slip for
# 2.1705e-2, which is what the inverse inertia beside it says.
VEHICLES: dict[str, Vehicle] = {
    "crazyflie": Vehicle(
        mass=0.0306,
        arm=(0.028, 0.028),
        thrust=(0.00352526, 0.01437313, 0.09223048),
        torque_constant=4.665e-3,
        time_up=0.0554545454545,
        time_down=0.2493939393939,
        inertia=(9.416556729e-6, 9.644051702e-6, 1.745951732e-5),
    ),
    "x500": Vehicle(
        mass=2.0,
        arm=(0.176776695297, 0.176776695297),
        thrust=(0.0, 0.0, 15.926119900619797),
        torque_constant=0.10847,
        time_up=0.054,
        time_down=0.054,
        inertia=(2.1705e-2, 2.1304e-2, 0.039396244),
    ),
}


@dataclass(frozen=True)
class Quadrotors:
    """Parameters of N vehicles, one column each; units as in `Vehicle`.

    mass [N], arm [2, N], thrust [3, N], torque_constant [N], time_up [N], time_down [N],
    inertia [3, N], and disturbance [N]: standard deviation, per axis, of the constant force
    [N] that an episode may bring.
    """

    mass: Floats
    arm: Floats
    thrust: Floats
    torque_constant: Floats
    time_up: Floats
    time_down: Floats
    inertia: Floats
    disturbance: Floats

    @property
    def count(self) -> int:
        """N, the number of vehicles."""
        return int(self.mass.size)

    @property
    def reach(self) -> Floats:
        """Distance of a rotor from the centre, [N], m: the length that position limits scale
        with."""
        x, y = self.arm
        distance: Floats = np.sqrt(x * x + y * y)
        return distance

    @property
    def thrust_to_weight(self) -> Floats:
        """Full thrust of all rotors over weight, [N]."""
        c0, c1, c2 = self.thrust
        ratio: Floats = (c0 + c1 + c2) * 4.0 / (self.mass * GRAVITY)
        return ratio

    @property
    def hover_speed(self) -> Floats:
        """Relative rotor speed, [N], at which four rotors carry the weight."""
        c0, c1, c2 = self.thrust
        missing = c0 - self.mass * (GRAVITY / 4.0)
        speed: Floats = (np.sqrt(c1 * c1 - 4.0 * c2 * missing) - c1) / (2.0 * c2)
        return speed


@dataclass(frozen=True)
class Start:
    """Where N episodes begin: state [17, N] and the constant disturbance force [3, N], N."""

    state: Floats
    force: Floats


_Columns = TypeVar("_Columns", Quadrotors, Start)


def columns(rows: _Columns, part: slice) -> _Columns:
    """A contiguous copy of the vehicles (or starts) in `part`."""
    return type(rows)(*(getattr(rows, f.name)[..., part].copy() for f in fields(rows)))


def joined(parts: Sequence[_Columns]) -> _Columns:
    """All vehicles (or starts) of `parts` side by side."""
    first = parts[0]
    return type(first)(
        *(np.concatenate([getattr(p, f.name) for p in parts], axis=-1) for f in fields(first))
    )


def named_vehicles(names: Sequence[str]) -> Quadrotors:
    """The vehicles of `VEHICLES` called `names`, one column each, without disturbance.

    Raises UserError, with the nearest name, for an unknown one.
    """
    for name in names:
        if name not in VEHICLES:
            close = get_close_matches(name, VEHICLES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VEHICLES)}"
            raise UserError(f"unknown vehicle {name[:60]!r}; {hint}")
    rows = [VEHICLES[name] for name in names]
    parameters = [np.array([getattr(r, f.name) for r in rows]).T.copy() for f in fields(Vehicle)]
    no_disturbance = np.zeros(len(rows))
    return Quadrotors(*[*parameters, no_disturbance])


def sample_quadrotors(count: int, rng: np.random.Generator) -> Quadrotors:
    """`count` vehicles from RAPTOR's training distribution, 20 g to 5 kg.

    The Crazyflie is scaled: thrust over weight U(1.5, 5); mass with a uniform cube root; arm
    with the cube root of mass, times 1 + u or 1 / (1 - u), u from N(-0.1, 0.1); torque over
    inertia U(40, 1200) 1/s^2 about x, the other moments in the Crazyflie's ratio; torque
    constant U(0.005, 0.05) m; rotor time constants U(0.03, 0.1) and U(0.03, 0.3) s. The
    disturbance's deviation is U(0, 1) * 0.3 * (t2w - 1) * t2w * m / 3: the published code's
    rule, which lacks a factor g, and not the paper's (the published figures have it).
    """
    base = VEHICLES["crazyflie"]
    thrust_to_weight = rng.uniform(1.5, 5.0, count)
    size = rng.uniform(np.cbrt(0.02), np.cbrt(5.0), count)
    u = rng.normal(-0.1, 0.1, count)
    torque_to_inertia = rng.uniform(40.0, 1200.0, count)
    torque_constant = rng.uniform(0.005, 0.05, count)
    time_up = rng.uniform(0.03, 0.10, count)
    time_down = rng.uniform(0.03, 0.30, count)
    disturbance_share = rng.uniform(0.0, 1.0, count)

    mass = size * size * size
    rotor_thrust = thrust_to_weight * mass * (GRAVITY / 4.0)
    shape = np.array(base.thrust) / sum(base.thrust)
    # |u| in both branches, so that the branch not taken never divides by zero.
    factor = np.where(u < 0.0, 1.0 / (1.0 + np.abs(u)), 1.0 + np.abs(u))
    scale = size / np.cbrt(base.mass) * factor
    arm = np.array(base.arm)[:, None] * scale
    inertia_x = np.sqrt(2.0) * arm[0] * rotor_thrust / torque_to_inertia
    return Quadrotors(
        mass=mass,
        arm=arm,
        thrust=shape[:, None] * rotor_thrust,
        torque_constant=torque_constant,
        time_up=time_up,
        time_down=time_down,
        inertia=np.array(base.inertia)[:, None] / base.inertia[0] * inertia_x,
        disturbance=disturbance_share
        * (0.3 * (thrust_to_weight - 1.0) * thrust_to_weight * mass / 3.0),
    )


def sample_starts(
    quads: Quadrotors,
    rng: np.random.Generator,
    *,
    span: float | None = 0.5,
    disturbance: bool = True,
) -> Start:
    """One random start a vehicle, as in RAPTOR's training code.

    Position U(-span, span) m per axis (`span` None: 10 rotor distances), velocity U(-1, 1) m/s,
    body rates U(-1, 1) rad/s, attitude turned by U(0, 1) rad about a random axis, rotors
    U(0, 0.5). One start in ten is "guided": at rest and level at the origin, rotors as above.
    With `disturbance`, a force N(0, quads.disturbance) per axis.
    """
    n = quads.count
    guided = rng.uniform(0.0, 1.0, n) < 0.1
    half_width = 10.0 * quads.reach if span is None else span
    state = np.empty((STATE_SIZE, n))
    state[POSITION] = rng.uniform(-1.0, 1.0, (3, n)) * half_width
    state[VELOCITY] = rng.uniform(-1.0, 1.0, (3, n))
    state[RATE] = rng.uniform(-1.0, 1.0, (3, n))
    axis = rng.normal(size=(3, n))
    half_angle = 0.5 * rng.uniform(0.0, 1.0, n)
    state[9] = np.cos(half_angle)
    state[10:13] = axis * (np.sin(half_angle) / np.sqrt((axis * axis).sum(axis=0)))
    state[ROTORS] = rng.uniform(0.0, 0.5, (4, n))
    force = rng.normal(size=(3, n)) * quads.disturbance
    state[:9, guided] = 0.0
    state[ATTITUDE, guided] = np.array([[1.0], [0.0], [0.0], [0.0]])
    return Start(state, force if disturbance else np.zeros((3, n)))


def hovering(quads: Quadrotors) -> Start:
    """Every vehicle at rest and level at the origin, rotors at hover speed, no disturbance."""
    state = np.zeros((STATE_SIZE, quads.count))
    state[9] = 1.0
    state[ROTORS] = quads.hover_speed
    return Start(state, np.zeros((3, quads.count)))


def rotation_matrix(attitude: Floats) -> Floats:
    """Body-to-world rotation matrices, row-major, [9, N], of quaternions [4, N]."""
    w, x, y, z = attitude
    xx, yy, zz = x * x, y * y, z * z
    xy, xz, yz = x * y, x * z, y * z
    wx, wy, wz = w * x, w * y, w * z
    return np.stack(
        [
            1.0 - 2.0 * (yy + zz), 2.0 * (xy - wz), 2.0 * (xz + wy),
            2.0 * (xy + wz), 1.0 - 2.0 * (xx + zz), 2.0 * (yz - wx),
            2.0 * (xz - wy), 2.0 * (yz + wx), 1.0 - 2.0 * (xx + yy),
        ]
    )  # fmt: skip


def observe(state: Floats, error: Floats, previous_action: Singles) -> Singles:
    """What RAPTOR sees, [N, 22]: position error, rotation matrix, velocity error, body rates,
    previous action, in SI units and not normalised.

    state [17, N]; error [6, N]: position and velocity minus their reference;
    previous_action [N, 4].
    """
    seen = np.empty((state.shape[1], OBSERVATION_SIZE), dtype=np.float32)
    seen[:, 0:3] = error[0:3].T
    seen[:, 3:12] = rotation_matrix(state[ATTITUDE]).T
    seen[:, 12:15] = error[3:6].T
    seen[:, 15:18] = state[RATE].T
    seen[:, 18:22] = previous_action
    return seen
