"""An environment that shows pictures."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Image(gymnasium.Env[Any, Any]):
    """Noise for a picture."""

    action_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, size: int) -> None:
        self.observation_space = spaces.Box(0, 255, (3, size, size), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """A picture."""
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, self.observation_space.shape, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Another picture."""
        return self.reset()[0], 0.0, False, False, {}
