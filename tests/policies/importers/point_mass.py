"""A point mass that is to be brought to a corner: an environment with any form of action."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

_CORNERS = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
ACTIONS: dict[str, spaces.Space[Any]] = {
    "push": spaces.Box(np.array([-1.0, -2.0]), np.array([1.0, 0.5]), dtype=np.float64),
    "directions": spaces.MultiDiscrete([3, 5]),
    "thrusters": spaces.MultiBinary(4),
    "choice": spaces.Discrete(4),
}


class PointMass(gymnasium.Env[Any, Any]):
    """20 steps of a point mass in a plane; observed as a vector, or by key with `by_key`."""

    def __init__(self, action: str = "push", by_key: bool = False) -> None:
        self.by_key = by_key
        self.action_space = ACTIONS[action]
        motion = spaces.Box(-10.0, 10.0, (2,))
        self.observation_space = (
            spaces.Dict(
                {
                    "velocity": motion,
                    "position": spaces.Box(-50.0, 50.0, (1, 2)),
                    "corner": spaces.Discrete(4),
                    "walls": spaces.MultiBinary(2),
                    "zone": spaces.MultiDiscrete([2, 3]),
                }
            )
            if by_key
            else motion
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A new start and a new corner."""
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-2.0, 2.0, 2)
        self.velocity = self.np_random.uniform(-1.0, 1.0, 2)
        self.corner = int(self.np_random.integers(4))
        self.steps = 0
        return self._observed(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """0.1 s under the force that the action stands for."""
        self.velocity = np.clip(self.velocity + 0.1 * self._force(action), -10.0, 10.0)
        self.position = self.position + 0.1 * self.velocity
        self.steps += 1
        distance = float(np.linalg.norm(self.position - _CORNERS[self.corner]))
        return self._observed(), -distance, False, self.steps >= 20, {}

    def _force(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        match self.action_space:
            case spaces.MultiDiscrete():
                return np.asarray(action) - np.array([1.0, 2.0])
            case spaces.MultiBinary():
                return np.array([action[0] - action[1], action[2] - action[3]], float)
            case spaces.Discrete():
                return _CORNERS[action]
        return np.asarray(action, float)

    def _observed(self) -> Any:
        if not self.by_key:
            return self.velocity.astype(np.float32)
        return {
            "corner": np.int64(self.corner),
            "position": self.position.astype(np.float32)[np.newaxis],
            "velocity": self.velocity.astype(np.float32),
            "walls": (np.abs(self.position) > 1.0).astype(np.int8),
            "zone": np.array([self.position[0] > 0.0, min(2, int(abs(self.position[1])))]),
        }
