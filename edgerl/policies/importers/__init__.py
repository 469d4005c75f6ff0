"""Importers: what other tools' checkpoints become policies with, one file each.

Reading a file never runs what it holds: weights and structure are read as data, within bounds.
"""

from dataclasses import dataclass
from importlib import import_module

from edgerl.errors import UserError
from edgerl.policies.assembly import Found, assemble
from edgerl.policies.importers.containers.archive import shown_path
from edgerl.policies.importers.layers.template import NeedsLayers
from edgerl.policies.importers.source import Source
from edgerl.policies.policy import Policy
from edgerl.policies.spec import PolicySpec

__all__ = ["IMPORTERS", "Importer", "NeedsLayers", "Source", "importer_for", "read"]


@dataclass(frozen=True)
class Importer:
    """Reads the checkpoints of one framework, known by the endings of their names.

    `module` beside this file has `read(source) -> Found`; it is imported when it is needed.
    `takes` names the files beside a checkpoint that have a meaning to it.
    """

    name: str
    about: str
    suffixes: tuple[str, ...]
    module: str
    takes: tuple[str, ...] = ()

    def read(self, source: Source) -> Found:
        """What the checkpoint holds. Raises UserError and ToolError."""
        found: Found = import_module(f"edgerl.policies.importers.{self.module}").read(source)
        return found


IMPORTERS: tuple[Importer, ...] = (
    Importer(
        "stable-baselines3",
        "PPO, A2C, SAC, TD3, DDPG, DQN and RecurrentPPO, as model.save() writes them",
        (".zip",),
        "stable_baselines",
        ("layers", "vecnormalize"),
    ),
    Importer(
        "torch",
        "TorchScript modules (rsl_rl and Isaac Lab export them), or weights with --layers",
        (".pt", ".pth", ".ckpt"),
        "torch_file",
        ("layers",),
    ),
    Importer(
        "torch-export", "programs that torch.export.save wrote", (".pt2",), "exported_program"
    ),
    Importer(
        "safetensors",
        "weights of any framework, Flax among them, with --layers",
        (".safetensors",),
        "safetensors_file",
        ("layers",),
    ),
    Importer("rltools", "RLtools checkpoints", (".h5", ".hdf5"), "rltools"),
)


_BESIDE = {
    "layers": "the file says itself which layers it has",
    "vecnormalize": "that is for models of Stable-Baselines3; build the normalisation into the "
    "network or its layer list",
}


def importer_for(source: Source) -> Importer | None:
    """The importer that reads files of this name; None when there is none."""
    ending = source.path.suffix.lower()
    return next((each for each in IMPORTERS if ending in each.suffixes), None)


def refuse_beside(source: Source, takes: tuple[str, ...] = ()) -> None:
    """UserError for a file beside the source that it has no use for: left out silently, a
    policy would not be what its user thinks it is."""
    for name in ("layers", "vecnormalize"):
        if getattr(source, name) is not None and name not in takes:
            raise UserError(
                f"{source.where}: takes no --{name} {shown_path(getattr(source, name))}; "
                + _BESIDE[name]
            )


def read(source: Source, spec: PolicySpec | None = None, name: str | None = None) -> Policy:
    """The policy in a checkpoint. Raises UserError, in one line, when it holds none that can be
    read, and ToolError when a package that reading needs is missing."""
    importer = importer_for(source)
    if importer is None:
        known = ", ".join(ending for each in IMPORTERS for ending in each.suffixes)
        raise UserError(f"{source.where}: of no known kind; .onnx, {known} are")
    refuse_beside(source, importer.takes)
    return assemble(importer.read(source), name or source.path.stem, source.where, spec)
