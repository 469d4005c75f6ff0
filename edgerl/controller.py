"""Controller: an artifact's emitted code, called from Python as firmware would call it.

For one's own environment, notebook or test: the C is built for this machine and gives the bits
that the board gives.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain.artifact import read_artifact
from edgerl.toolchain.build import Mode, build_host, cache_folder

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]


class Controller:
    """`count` independent controllers from the artifact in `folder`, each with its own state.

    `mode` is the guarded, saturated `step` that flight code calls, or the bare `evaluate`.
    `status` [count] has the status words of the last step (0: all is well; see the C header).
    Raises UserError when the folder holds no whole artifact or an argument is wrong, ToolError
    when the compiler that builds for this machine is missing.
    """

    def __init__(self, folder: str | Path, *, count: int = 1, mode: Mode = "step") -> None:
        if count < 1:
            raise UserError(f"count {count}: there is at least one controller")
        if mode not in ("step", "evaluate"):
            raise UserError(f"mode {mode!r:.40}: must be 'step' or 'evaluate'")
        artifact = read_artifact(Path(folder))
        self._twin = build_host(artifact.source, artifact.name, cache_folder("host"))
        self.spec = artifact.manifest.spec
        self.count, self.mode = count, mode
        self.reset()

    def reset(self) -> None:
        """Every controller as after power-up."""
        self._states = self._twin.reset_states(self.count)
        self.status: Words = np.zeros(self.count, np.uint32)

    def step(self, observation: npt.ArrayLike) -> Floats:
        """One step: observation [n] to action [m], or [count, n] to [count, m], float32.

        Raises UserError when the observation has another shape.
        """
        rows = np.asarray(observation, np.float32)
        n = self.spec.observation_size
        if rows.shape != (self.count, n) and not (self.count == 1 and rows.shape == (n,)):
            raise UserError(
                f"observation is {list(rows.shape)}; {self.spec.name} takes "
                f"{[n] if self.count == 1 else [self.count, n]}"
            )
        run = self._twin.many(self._states, rows.reshape(self.count, n), self.mode)
        assert run.states is not None
        self._states, self.status = run.states, run.status
        return run.actions.reshape(*rows.shape[:-1], -1)
