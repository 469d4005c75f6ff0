"""Recipe: a whole pipeline in one TOML file, or built from command-line options.

    [source]
    policy = "raptor"            # a family's name, or a file beside the recipe

    [target]
    name = "crazyflie21"

    [check]                      # without this table nothing is checked
    limits = { instructions = 2900, flash_bytes = 12595 }

Paths in a recipe are relative to the file it stands in.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgerl.documents import read_toml, validated
from edgerl.errors import UserError
from edgerl.policies import FAMILIES
from edgerl.targets import is_board_file
from edgerl.targets.model import Format
from edgerl.toolchain.checks.limits import require_figure


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _figures(limits: dict[str, float]) -> dict[str, float]:
    for name in limits:
        try:
            require_figure(name)
        except UserError as error:
            # What pydantic raises further with the key; an error of ours would lose it.
            raise ValueError(str(error)) from error
    return limits


Bound = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Limits = Annotated[dict[str, Bound], AfterValidator(_figures)]


class Source(_Table):
    """Where the policy comes from: a family's name or a file, and a spec file if any."""

    policy: str = Field(
        description="The name of a family (edgerl policies) or the path of a policy's file, "
        "relative to the recipe."
    )
    spec: Path | None = Field(
        default=None, description="The path of a spec, which says what the policy's numbers mean."
    )
    layers: Path | None = Field(
        default=None, description="The path of a list of layers, where the file is bare weights."
    )
    vecnormalize: Path | None = Field(
        default=None, description="The path of the statistics that VecNormalize.save() wrote."
    )


class TargetChoice(_Table):
    """What it is compiled for, and how."""

    name: str = Field(
        description="The name of a target (edgerl targets) or the path of a board file, "
        "relative to the recipe."
    )
    format: Format | Literal["auto"] | None = Field(
        default=None,
        description="The number format: floats (f32), or integers with so many bits for weights "
        "(w) and activations (a), or auto: the smallest program that holds. Without it: what the "
        "policy's file says, or f32.",
    )
    fma: Literal["on", "off", "auto"] = Field(
        default="auto",
        description="Fused multiply-add; auto takes the form with fewer modelled cycles.",
    )
    sparse: Literal["auto", "flash", "off"] = Field(
        default="auto",
        description="How layers with zeros are written: auto takes, of dense, sparse and block "
        "code, the fewest counted instructions in no more bytes; flash takes the fewest bytes; "
        "off leaves all dense.",
    )
    kernels: Literal["auto", "portable"] = Field(
        default="auto", description="Assembly where there is some, or C alone."
    )
    compiler: Literal["zig", "gcc"] = Field(
        default="zig", description="The cross compiler of the firmware."
    )
    output: Path | None = Field(
        default=None, description="The folder of the artifact, relative to the recipe."
    )


class Quantise(_Table):
    """How integers are chosen, where the format has integers."""

    calibration: Path | None = Field(
        default=None,
        description="The path of a .npy file with observations, [steps, n] or "
        "[steps, sequences, n], relative to the recipe. Without it: flights of the policy where "
        "its plant is known, and the golden trace.",
    )
    method: Literal["minmax", "percentile", "mse"] = Field(
        default="minmax",
        description="How a range is told from observations: what was reached, what all but a few "
        "stay below, or what makes the mean squared error smallest.",
    )
    percentile: float = Field(
        default=99.99, gt=50.0, le=100.0, description="Of the method percentile."
    )


class Check(_Table):
    """What is measured and held to. `limits` bound a figure of `measured` from above."""

    episodes: int | None = Field(
        default=None, ge=1, le=1_000_000, description="The flights of a closed-loop suite."
    )
    cross_check: bool = Field(
        default=True, description="Whether other compilers and emulators here take part."
    )
    limits: Limits = Field(
        default_factory=dict, description="Upper bounds of figures: instructions, flash_bytes."
    )


class Recipe(_Table):
    """The pipeline: source, target, and the check if there is one."""

    source: Source = Field(description="Where the policy comes from.")
    target: TargetChoice = Field(description="What the policy is compiled for, and how.")
    quantise: Quantise | None = Field(
        default=None,
        description="How integers are chosen. Formats of floats have none.",
    )
    check: Check | None = Field(
        default=None, description="What is checked. Without this table nothing is."
    )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file; paths in it are relative to the file.

    Raises UserError, naming file and key, when it cannot be read or is no recipe.
    """
    recipe = validated(Recipe, read_toml(path, "recipe"), str(path))
    source, choice, folder = recipe.source, recipe.target, path.parent
    family = source.policy in FAMILIES
    return recipe.model_copy(
        update={
            "source": Source(
                policy=source.policy if family else str(folder / source.policy),
                spec=_beside(folder, source.spec),
                layers=_beside(folder, source.layers),
                vecnormalize=_beside(folder, source.vecnormalize),
            ),
            "target": choice.model_copy(
                update={
                    "name": str(folder / choice.name)
                    if is_board_file(choice.name)
                    else choice.name,
                    "output": _beside(folder, choice.output),
                }
            ),
            "quantise": recipe.quantise
            and recipe.quantise.model_copy(
                update={"calibration": _beside(folder, recipe.quantise.calibration)}
            ),
        }
    )


def _beside(folder: Path, path: Path | None) -> Path | None:
    return None if path is None else folder / path
