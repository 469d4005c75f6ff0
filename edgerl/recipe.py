"""Recipe: a whole pipeline in one TOML file, or built from command-line options.

    [source]
    policy = "raptor"            # a family's name, or a file beside the recipe

    [target]
    name = "crazyflie21"

    [check]                      # without this table nothing is checked
    limits = { instructions = 2900, flash_bytes = 12595 }
"""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgerl.errors import UserError
from edgerl.policies.spec import explain


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Table):
    """Where the policy comes from: a family's name or a file, and a spec file if any."""

    policy: str
    spec: Path | None = None


class TargetChoice(_Table):
    """What it is compiled for, and how."""

    name: str
    format: Literal["f32"] = "f32"
    fma: Literal["on", "off", "auto"] = "auto"
    kernels: Literal["auto", "portable"] = "auto"
    compiler: str = "zig"
    output: Path | None = None


class Check(_Table):
    """What is measured and held to. `limits` bound a figure of `measured` from above."""

    episodes: int | None = Field(default=None, ge=1, le=1_000_000)
    cross_check: bool = True
    limits: dict[str, float] = Field(default_factory=dict)


class Recipe(_Table):
    """The pipeline: source, target, and the check if there is one."""

    source: Source
    target: TargetChoice
    check: Check | None = None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file; paths in it are relative to the file.

    Raises UserError, naming file and key, when it cannot be read or is no recipe.
    """
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    try:
        recipe = Recipe.model_validate(rows)
    except ValidationError as error:
        raise UserError(explain(error, str(path))) from error
    source = recipe.source
    beside = path.parent / source.policy
    policy = str(beside) if beside.is_file() else source.policy
    spec = None if source.spec is None else path.parent / source.spec
    return recipe.model_copy(update={"source": Source(policy=policy, spec=spec)})
