"""Recipe: a whole pipeline in one TOML file, or built from command-line options.

    [source]
    policy = "raptor"            # a family's name, or a file beside the recipe

    [target]
    name = "crazyflie21"

    [check]                      # without this table nothing is checked
    limits = { instructions = 2900, flash_bytes = 12595 }

Paths in a recipe are relative to the file it stands in.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgerl.errors import UserError
from edgerl.policies import FAMILIES
from edgerl.policies.spec import explain
from edgerl.toolchain.checks.limits import require_figure

_MOST_BYTES = 1 << 20


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _figures(limits: dict[str, float]) -> dict[str, float]:
    for name in limits:
        require_figure(name)
    return limits


Bound = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Limits = Annotated[dict[str, Bound], AfterValidator(_figures)]
TableT = TypeVar("TableT", bound=_Table)


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
    compiler: Literal["zig", "gcc"] = "zig"
    output: Path | None = None


class Check(_Table):
    """What is measured and held to. `limits` bound a figure of `measured` from above."""

    episodes: int | None = Field(default=None, ge=1, le=1_000_000)
    cross_check: bool = True
    limits: Limits = Field(default_factory=dict)


class Recipe(_Table):
    """The pipeline: source, target, and the check if there is one."""

    source: Source
    target: TargetChoice
    check: Check | None = None


def validated(kind: type[TableT], rows: Mapping[str, object], where: str) -> TableT:
    """`rows` as a table of `kind`. Raises UserError, naming `where` and the key, if it is none."""
    try:
        return kind.model_validate(rows)
    except ValidationError as error:
        raise UserError(explain(error, where)) from error


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file; paths in it are relative to the file.

    Raises UserError, naming file and key, when it cannot be read or is no recipe.
    """
    recipe = validated(Recipe, _rows(path), str(path))
    source, choice, folder = recipe.source, recipe.target, path.parent
    family = source.policy in FAMILIES
    return recipe.model_copy(
        update={
            "source": Source(
                policy=source.policy if family else str(folder / source.policy),
                spec=None if source.spec is None else folder / source.spec,
            ),
            "target": choice.model_copy(
                update={"output": None if choice.output is None else folder / choice.output}
            ),
        }
    )


def _rows(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > _MOST_BYTES:
        raise UserError(f"{path}: larger than {_MOST_BYTES >> 20} MiB; that is no recipe")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from error
    # A value nested too deeply ends the parser's recursion.
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
