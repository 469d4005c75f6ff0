"""Source: the files a policy is read from."""

from dataclasses import dataclass
from pathlib import Path

from edgerl.policies.importers.containers.archive import shown_path


@dataclass(frozen=True)
class Source:
    """A checkpoint and what lies beside it.

    `layers` is a TOML file that lists the layers where the checkpoint holds bare weights (see
    `layers`); `vecnormalize` the statistics that Stable-Baselines3 keeps in a file of their
    own.
    """

    path: Path
    layers: Path | None = None
    vecnormalize: Path | None = None

    @property
    def where(self) -> str:
        """The checkpoint's name for messages."""
        return shown_path(self.path)
