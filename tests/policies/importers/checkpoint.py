"""What every maker of checkpoints hands to the tests: files, and the framework's own answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Loop:
    """The framework's own controller in its environment.

    `act` takes an observation [n] to the policy's action [m]; `reset` is called before each
    episode; `applied` makes of an action what the environment's step takes.
    """

    environment: Callable[[], gymnasium.Env[Any, Any]]
    act: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
    reset: Callable[[], None]
    applied: Callable[[npt.NDArray[Any]], Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint written by the real library.

    `observations` [T, n] are flattened in the order of the policy's spec and come from the
    policy's environment; `resets` [T] marks the first step of each episode; `actions` [T, m]
    are the framework's own deterministic output for them, as an environment would get it.
    """

    path: Path
    observations: npt.NDArray[np.float32]
    resets: npt.NDArray[np.bool_]
    actions: npt.NDArray[np.float32]
    layers: Path | None = None
    vecnormalize: Path | None = None
    loop: Loop | None = None


Maker = Callable[[Path], Checkpoint]
