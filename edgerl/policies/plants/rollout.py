"""Rollout: fly N quadrotors in closed loop with anything that can be called as a policy.

The order of operations is fixed and each vehicle's arithmetic is independent of the others', so
two policies that give the same bits give trajectories of the same bits.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.plants.dynamics import Dynamics
from edgerl.policies.plants.quadrotor import (
    ACTION_SIZE,
    POSITION,
    RATE,
    ROTORS,
    STATE_SIZE,
    Floats,
    Quadrotors,
    Singles,
    Start,
    observe,
)

Step = Callable[[Singles], Singles]
"""One control step of N vehicles: observations [N, 22] to actions [N, 4], both float32. Recurrent
state lives behind it and starts from reset, so every rollout takes a fresh one."""

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Feedback = Literal["raw", "clamped"]
Progress = Callable[[int, int], None]

# Beyond this, in any SI unit, a state is numerically lost; far inside float64's range, so that
# no step from within can overflow.
_LOST = 1.0e5


@dataclass(frozen=True)
class Limits:
    """Where a flight counts as lost: an element of the position error beyond `position` rotor
    distances, of the velocity error beyond `velocity` m/s, or a body rate beyond `rate` rad/s."""

    position: float = 20.0
    velocity: float = 2.0
    rate: float = 35.0


PUBLISHED_LIMITS = Limits()
"""The termination limits of RAPTOR's training and of its published figures."""


@dataclass(frozen=True)
class Flight:
    """What N vehicles did in T steps; index k along time is the moment k * DT.

    length [N]: steps flown inside the limits; a vehicle that leaves them stays frozen in its last
    state inside. error [T + 1, N]: distance, m, from the set-point held during the step that ends
    there. states [T + 1, 17, K]: full states of the first K vehicles, K as asked for.
    """

    length: Counts
    error: Floats
    states: Floats

    @property
    def steps(self) -> int:
        """T, the number of steps asked for."""
        return len(self.error) - 1

    @property
    def survived(self) -> Flags:
        """Which vehicles flew every step, [N]."""
        whole: Flags = self.length == self.steps
        return whole

    def digest(self) -> str:
        """SHA-256 over lengths, errors and states: equal for bit-identical flights only."""
        hasher = hashlib.sha256()
        for array in (self.length, self.error, self.states):
            hasher.update(repr(array.shape).encode())
            hasher.update(array.astype(array.dtype.newbyteorder("<"), order="C").data)
        return hasher.hexdigest()


def rollout(
    quads: Quadrotors,
    start: Start,
    step: Step,
    *,
    steps: int,
    feedback: Feedback = "raw",
    limits: Limits | None = PUBLISHED_LIMITS,
    reference: Floats | None = None,
    record: int = 0,
    progress: Progress | None = None,
) -> Flight:
    """Fly `quads` from `start` for `steps` steps of `DT` under the policy `step`.

    `feedback` says which previous action a vehicle observes: the policy's `raw` output (what the
    published figures have) or the one `clamped` to [-1, 1]; the rotors always get the clamped
    one. The first previous action is the one that holds the starting rotor speeds. `limits` None
    switches termination off, except for numerical loss. `reference` [steps, 6, N or 1] gives each
    step's set-point, position in m and velocity in m/s, held for that step; None is the origin.
    The states of the first `record` vehicles are kept; `progress` is called as (steps done,
    steps).

    A vehicle that leaves the limits, or whose action is not finite, is frozen; the policy is
    still called for all N. An observation array is the callee's to keep.

    Raises UserError when the policy's actions are not [N, 4].
    """
    n = quads.count
    if reference is None:
        reference = np.zeros((steps, 6, 1))
    dynamics = Dynamics(quads, start.force)
    bounds = _bounds(quads, limits)
    state, following = start.state.copy(), np.empty_like(start.state)
    previous = (2.0 * state[ROTORS] - 1.0).T.astype(np.float32)
    flying = np.ones(n, dtype=np.bool_)
    length = np.zeros(n, dtype=np.int64)
    error = np.empty((steps + 1, n))
    states = np.empty((steps + 1, STATE_SIZE, min(record, n)))
    error[0], states[0] = _distance(state, reference[0]), state[:, :record]
    for k, target in enumerate(reference):
        seen = observe(state, state[:6] - target, previous)
        action = _checked(step(seen), n)
        flying &= np.isfinite(action).all(axis=1)
        clamped = np.clip(action, np.float32(-1.0), np.float32(1.0))
        dynamics.advance(state, 0.5 * (clamped.T.astype(np.float64) + 1.0), following)
        flying &= _inside(following, target, bounds)
        np.copyto(state, following, where=flying)
        fed_back = {"raw": action, "clamped": clamped}[feedback]
        np.copyto(previous, fed_back, where=flying[:, None])
        length += flying
        error[k + 1], states[k + 1] = _distance(state, target), state[:, :record]
        if progress is not None:
            progress(k + 1, steps)
    return Flight(length, error, states)


def _bounds(quads: Quadrotors, limits: Limits | None) -> Floats:
    """Largest position error, velocity error and body rate, [9, N]."""
    bounds = np.full((9, quads.count), _LOST)
    if limits is not None:
        bounds[0:3] = limits.position * quads.reach
        bounds[3:6] = limits.velocity
        bounds[6:9] = limits.rate
    return bounds


def _inside(state: Floats, target: Floats, bounds: Floats) -> Flags:
    """Which vehicles are within `bounds`; one whose state is not a number is not."""
    near = np.abs(state[:6] - target) <= bounds[:6]
    calm = np.abs(state[RATE]) <= bounds[6:]
    inside: Flags = np.logical_and.reduce(np.concatenate([near, calm]))
    return inside


def _distance(state: Floats, target: Floats) -> Floats:
    x, y, z = state[POSITION] - target[:3]
    distance: Floats = np.sqrt(x * x + y * y + z * z)
    return distance


def _checked(action: Singles, count: int) -> Singles:
    shape = np.shape(action)
    if shape != (count, ACTION_SIZE):
        raise UserError(
            f"the policy's actions have shape {list(shape)}; {count} quadrotors need "
            f"[{count}, {ACTION_SIZE}] motor set-points"
        )
    return np.asarray(action, dtype=np.float32)
