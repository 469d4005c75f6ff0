"""Equations of motion of many different quadrotors at once, one column a vehicle, float64.

After the published learning-to-fly simulator (arXiv:2509.11481; its code agrees with this one to
rounding). A step uses only additions, multiplications, divisions and square roots, column by
column, so a vehicle's trajectory has the same bits whichever vehicles fly beside it.
"""

import numpy as np

from edgerl.policies.plants.quadrotor import (
    ATTITUDE,
    DT,
    GRAVITY,
    POSITION,
    RATE,
    ROTORS,
    STATE_SIZE,
    VELOCITY,
    Floats,
    Quadrotors,
)

_CYCLE = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


class Dynamics:
    """Rigid-body and rotor dynamics of N vehicles, with work arrays allocated once.

    Rotor i turns at w_i and pushes f_i = c0 + c1 w_i + c2 w_i^2 along body z:

        p' = v,  v' = R(q) [0, 0, sum f] / m + force / m - [0, 0, g],  q' = q (0, w) / 2
        J w' = tau - w x J w,  tau = sum r_i x [0, 0, f_i] + [0, 0, spin_i c_m f_i]
        w_i' = (setpoint_i - w_i) / (time_up if setpoint_i >= w_i else time_down)

    rotors front right, back right, back left, front left with spin -, +, -, +. No drag, no
    delay, no sensor noise.
    """

    def __init__(self, quads: Quadrotors, force: Floats) -> None:
        n = quads.count
        jx, jy, jz = quads.inertia
        # All per unit mass or inertia, so that no division is left for the steps.
        self._thrust = quads.thrust / quads.mass
        lever = np.stack([quads.arm[1], quads.arm[0], quads.torque_constant])
        self._lever = lever * quads.mass / quads.inertia
        self._gyroscopic = np.stack([(jz - jy) / jx, (jx - jz) / jy, (jy - jx) / jz])
        self._drift = force / quads.mass
        self._drift[2] -= GRAVITY
        self._rate_up = 1.0 / quads.time_up
        self._rate_down = 1.0 / quads.time_down
        self._stage, self._slope, self._sum = (np.empty((STATE_SIZE, n)) for _ in range(3))
        self._four = np.empty((2, 4, n))
        self._three = np.empty((2, 3, n))
        self._one = np.empty((5, n))

    def advance(self, state: Floats, setpoint: Floats, out: Floats) -> None:
        """One classical Runge-Kutta step of `DT` from `state` into `out` (both [17, N]), rotor
        set-points [4, N] in 0..1 held; then q is normalised and rotor speeds are clamped."""
        stage, slope, total = self._stage, self._slope, self._sum
        self._derivative(state, setpoint, total)
        np.multiply(total, 0.5 * DT, out=stage)
        np.add(stage, state, out=stage)
        for reach in (0.5 * DT, DT):
            self._derivative(stage, setpoint, slope)
            np.multiply(slope, reach, out=stage)
            np.add(stage, state, out=stage)
            np.multiply(slope, 2.0, out=slope)
            np.add(total, slope, out=total)
        self._derivative(stage, setpoint, slope)
        np.add(total, slope, out=total)
        np.multiply(total, DT / 6.0, out=total)
        np.add(state, total, out=out)

        attitude, rotors, squares, norm = out[ATTITUDE], out[ROTORS], self._four[0], self._one[0]
        np.multiply(attitude, attitude, out=squares)
        np.add(squares[0], squares[1], out=norm)
        np.add(norm, squares[2], out=norm)
        np.add(norm, squares[3], out=norm)
        np.sqrt(norm, out=norm)
        np.divide(attitude, norm, out=attitude)
        np.maximum(rotors, 0.0, out=rotors)
        np.minimum(rotors, 1.0, out=rotors)

    def _derivative(self, state: Floats, setpoint: Floats, out: Floats) -> None:
        out[POSITION] = state[VELOCITY]
        self._rotor_slope(state[ROTORS], setpoint, out[ROTORS])
        lift = self._body_slope(state, out[RATE])
        self._velocity_slope(state[ATTITUDE], lift, out[VELOCITY])
        self._attitude_slope(state[ATTITUDE], state[RATE], out[ATTITUDE])

    def _rotor_slope(self, rotors: Floats, setpoint: Floats, out: Floats) -> None:
        gap, falling = self._four
        np.subtract(setpoint, rotors, out=gap)
        np.minimum(gap, 0.0, out=falling)
        np.maximum(gap, 0.0, out=gap)
        np.multiply(gap, self._rate_up, out=out)
        np.multiply(falling, self._rate_down, out=falling)
        np.add(out, falling, out=out)

    def _body_slope(self, state: Floats, out: Floats) -> Floats:
        """Angular acceleration into `out`; returns thrust over mass, [N]."""
        rotors, thrust = state[ROTORS], self._four[0]
        c0, c1, c2 = self._thrust
        np.multiply(rotors, c2, out=thrust)
        np.add(thrust, c1, out=thrust)
        np.multiply(thrust, rotors, out=thrust)
        np.add(thrust, c0, out=thrust)
        right, left, back, front, lift = self._one
        np.add(thrust[0], thrust[1], out=right)
        np.add(thrust[2], thrust[3], out=left)
        np.subtract(thrust[1], thrust[0], out=back)
        np.subtract(thrust[2], thrust[3], out=front)
        np.add(right, left, out=lift)
        np.subtract(left, right, out=out[0])
        np.add(back, front, out=out[1])
        np.subtract(back, front, out=out[2])
        np.multiply(out, self._lever, out=out)
        rate, product = state[RATE], self._three[0]
        for i, j, k in _CYCLE:
            np.multiply(rate[j], rate[k], out=product[i])
        np.multiply(product, self._gyroscopic, out=product)
        np.subtract(out, product, out=out)
        return lift

    def _velocity_slope(self, attitude: Floats, lift: Floats, out: Floats) -> None:
        w, x, y, z = attitude
        a = self._one[0]
        np.multiply(x, z, out=out[0])
        np.multiply(w, y, out=a)
        np.add(out[0], a, out=out[0])
        np.multiply(y, z, out=out[1])
        np.multiply(w, x, out=a)
        np.subtract(out[1], a, out=out[1])
        np.multiply(x, x, out=out[2])
        np.multiply(y, y, out=a)
        np.add(out[2], a, out=out[2])
        np.subtract(0.5, out[2], out=out[2])
        np.multiply(lift, 2.0, out=a)
        np.multiply(out, a, out=out)
        np.add(out, self._drift, out=out)

    def _attitude_slope(self, attitude: Floats, rate: Floats, out: Floats) -> None:
        half, product = self._three
        scalar, vector = attitude[0], attitude[1:]
        np.multiply(rate, 0.5, out=half)
        np.multiply(vector, half, out=product)
        np.add(product[0], product[1], out=out[0])
        np.add(out[0], product[2], out=out[0])
        np.negative(out[0], out=out[0])
        np.multiply(half, scalar, out=out[1:])
        a = self._one[0]
        for i, j, k in _CYCLE:
            np.multiply(vector[j], half[k], out=product[i])
            np.multiply(vector[k], half[j], out=a)
            np.subtract(product[i], a, out=product[i])
        np.add(out[1:], product, out=out[1:])
