"""Layer list: a TOML file that says how bare weights make a network, read from top to bottom.

    [[layer]]
    kind = "dense"
    weight = "actor.0.weight"
    bias = "actor.0.bias"
    activation = "elu"

Every layer takes what the layer above it gives; the first takes the observation, the last gives
the action. Recurrent layers keep a state that is zero after a reset.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from edgerl.documents import read_toml, validated
from edgerl.errors import UserError, suggestion
from edgerl.policies.graph import ACTIVATIONS
from edgerl.policies.importers.containers.archive import shown_path
from edgerl.policies.names import shown

UNKNOWN = "?"
MOST_LAYERS = 1000
_ACTIVATIONS = sorted([*ACTIVATIONS, "silu", "linear"])


def _known_activation(name: str) -> str:
    if name not in (*_ACTIVATIONS, "identity", "swish"):
        raise ValueError(f"unknown activation {shown(name)}; {suggestion(name, _ACTIVATIONS)}")
    return name


ActivationName = Annotated[str, AfterValidator(_known_activation)]
TensorName = Annotated[str, Field(min_length=1, max_length=1000)]
Numbers = float | Annotated[list[float], Field(min_length=1, max_length=65536)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Dense(_Row):
    """y = activation(W x + b)."""

    kind: Literal["dense"] = Field(description="What the layer does")
    weight: TensorName = Field(description="The weight's tensor, [out, in] as torch has it")
    bias: TensorName | None = Field(None, description="The bias's tensor, [out]; none if left out")
    transposed: bool = Field(
        False, description="True for a weight that is [in, out], as Flax kernels are"
    )
    activation: ActivationName = Field("linear", description="What follows the sum")


class Recurrent(_Row):
    """A gated recurrent layer, or a stack of them, one step at a time."""

    kind: Literal["gru", "lstm"] = Field(description="What the layer does")
    prefix: str = Field(
        max_length=1000,
        description='What its tensors\' names begin with, up to and with the last "." or "/"',
    )
    framework: Literal["torch", "flax"] = Field(
        "torch", description="Whose names, shapes and gate order the tensors have"
    )


class LayerNorm(_Row):
    """y = activation(weight * (x - mean of x) / deviation of x + bias)."""

    kind: Literal["layer_norm"] = Field(description="What the layer does")
    weight: TensorName | None = Field(None, description="The scale's tensor, [n]")
    bias: TensorName | None = Field(None, description="The bias's tensor, [n]")
    epsilon: float = Field(
        gt=0.0, le=1.0, description="What is added to the variance (torch: 1e-5, Flax: 1e-6)"
    )
    activation: ActivationName = Field("linear", description="What follows")


class Normalize(_Row):
    """y = (x - mean) / deviation, from statistics gathered in training."""

    kind: Literal["normalize"] = Field(description="What the layer does")
    mean: TensorName = Field(description="The mean's tensor, [n]")
    std: TensorName | None = Field(None, description="The deviation's tensor, [n]")
    var: TensorName | None = Field(None, description="The variance's tensor, [n], instead of std")
    epsilon: float = Field(
        0.0, ge=0.0, le=1.0, description="What is added to the deviation, or to the variance"
    )

    @model_validator(mode="after")
    def _one_spread(self) -> Self:
        if (self.std is None) == (self.var is None):
            raise ValueError("give either std or var")
        return self


class Scale(_Row):
    """y = x * scale + offset."""

    kind: Literal["scale"] = Field(description="What the layer does")
    scale: Numbers = Field(1.0, description="A number, or one for each value")
    offset: Numbers = Field(0.0, description="A number, or one for each value")


class Clip(_Row):
    """y = min(max(x, low), high)."""

    kind: Literal["clip"] = Field(description="What the layer does")
    low: Numbers = Field(description="A number, or one for each value")
    high: Numbers = Field(description="A number, or one for each value")


class Activation(_Row):
    """A function of every value for itself."""

    kind: Literal["activation"] = Field(description="What the layer does")
    activation: ActivationName = Field(description="The function's name")


class Cut(_Row):
    """Values start to stop - 1 and no others."""

    kind: Literal["cut"] = Field(description="What the layer does")
    start: int = Field(0, ge=0, description="The first value, counted from 0")
    stop: int = Field(ge=1, description="The value after the last one")


class Argmax(_Row):
    """Index of the largest value, the first of equals: a discrete action."""

    kind: Literal["argmax"] = Field(description="What the layer does")


Layer = Dense | Recurrent | LayerNorm | Normalize | Scale | Clip | Activation | Cut | Argmax
KINDS: dict[str, type[_Row]] = {
    "dense": Dense,
    "gru": Recurrent,
    "lstm": Recurrent,
    "layer_norm": LayerNorm,
    "normalize": Normalize,
    "scale": Scale,
    "clip": Clip,
    "activation": Activation,
    "cut": Cut,
    "argmax": Argmax,
}


class LayerList(_Row):
    """The whole file."""

    observation: int | None = Field(
        None, ge=1, le=65536, description="Values of the observation, where no layer tells"
    )
    layer: tuple[Annotated[Layer, Field(discriminator="kind")], ...] = Field(
        min_length=1,
        max_length=MOST_LAYERS,
        strict=False,
        description="The layers, from the observation to the action",
    )


def load_layers(path: Path) -> LayerList:
    """The layer list in a TOML file.

    Raises UserError, in one line that names the file, the layer (counted from 1) and the key,
    when the file cannot be read or is no layer list, or when a `"?"` of a template still stands.
    """
    where = shown_path(path)
    rows = read_toml(path, "layer list")
    layers = rows.get("layer")
    if isinstance(layers, list):
        for number, row in enumerate(layers[:MOST_LAYERS], start=1):
            if isinstance(row, dict):
                _check(row, f"{where}: layer {number}")
    return validated(LayerList, rows, where)


def _check(row: dict[str, Any], where: str) -> None:
    """UserError for a table that is no layer."""
    for key, value in row.items():
        if value == UNKNOWN:
            known = ", ".join(KINDS if key == "kind" else _ACTIVATIONS)
            what = f"; one of {known}" if key in ("kind", "activation") else ""
            raise UserError(f'{where}: {shown(key)} is still "?"; say what it is{what}')
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        given = f"unknown kind {shown(kind)}" if isinstance(kind, str) else "has no kind"
        raise UserError(f"{where}: {given}; one of {', '.join(KINDS)}")
    validated(KINDS[kind], row, where)
