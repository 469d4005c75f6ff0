"""What every maker of checkpoints hands to the tests: files, and the framework's own answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


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


Maker = Callable[[Path], Checkpoint]
