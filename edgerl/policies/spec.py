"""PolicySpec: what a policy's numbers mean to the outside world.

A graph says how 22 floats become 4; the spec says that the first three are metres in the
world frame and that the action is four motor set-points at 100 Hz. It is read from TOML,
checked against the graph, carried in the policy's metadata, and printed into the C header.
"""

import math
import re
from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from edgerl.policies.vocabulary import meaning

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}\Z")
_LABEL = re.compile(r"[A-Za-z0-9 _./^*+%()\-]{0,40}\Z")
_SENTENCE = re.compile(r"[A-Za-z0-9 _.,:;+%()\-]{0,100}\Z")
# Words that C, C++ and the generated code's own names already use.
_RESERVED = frozenset(
    "alignas alignof and asm auto bitand bitor bool break case catch char class compl const "
    "constexpr continue decltype default delete do double else enum explicit export extern "
    "false float for friend goto if inline int long mutable namespace new noexcept not nullptr "
    "operator or private protected public register restrict return short signed sizeof static "
    "struct switch template this throw true try typedef typeid typename typeof union unsigned "
    "using virtual void volatile wchar_t while xor main".split()
)


def identifier(name: str) -> str:
    """`name` unchanged if it may become a C identifier and a file name; ValueError if not."""
    if not _IDENTIFIER.match(name) or "__" in name or name.lower() in _RESERVED:
        raise ValueError(
            f"{name[:60]!r} is not a usable name (a letter, then up to 39 letters, digits or "
            "single underscores, and no word of C or C++)"
        )
    return name


def label(text: str) -> str:
    """`text` unchanged if it is a short printable label (unit, frame, licence)."""
    if not _LABEL.match(text) or "*/" in text or "/*" in text:
        raise ValueError(f"{text[:60]!r} is not a usable label (40 plain characters at most)")
    return text


Identifier = Annotated[
    str,
    AfterValidator(identifier),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_]{0,39}$"}),
]


def sentence(text: str) -> str:
    """`text` unchanged if it is one short line of plain words; ValueError if not."""
    if not _SENTENCE.match(text):
        raise ValueError(f"{text[:60]!r} is not a usable sentence (100 plain characters at most)")
    return text


Sentence = Annotated[
    str,
    AfterValidator(sentence),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9 _.,:;+%()-]{0,100}$"}),
]
Label = Annotated[
    str,
    AfterValidator(label),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9 _./^*+%()-]{0,40}$"}),
]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Signal(_Row):
    """One named slice of the observation or action vector.

    `size` elements, all in `unit` and `frame`, valid in the closed `range`. `labels`, when
    given, names each element (motor positions, joints); `spin` gives each motor's yaw-torque
    sign as the stack sees it; `discrete` says that every element is a whole number, a choice.
    """

    name: Identifier = Field(
        description="The name of the signal. One of the vocabulary brings unit, frame, range and "
        "mostly size (edgerl vocabulary)."
    )
    size: int = Field(ge=1, le=65536, description="The number of elements.")
    unit: Label = Field(default="1", description="The unit of every element, such as m/s.")
    frame: Label = Field(default="", description="The frame of reference, such as body-FLU.")
    range: tuple[float, float] = Field(
        description="The lowest and the highest valid value of every element."
    )
    labels: tuple[Identifier, ...] = Field(
        default=(), description="A name for each element: motor positions, joints."
    )
    spin: tuple[Literal[-1, 1], ...] = Field(
        default=(), description="The sign of each motor's yaw torque as the stack sees it."
    )
    discrete: bool = Field(
        default=False, description="Every element is a whole number: a choice among the range's."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_vocabulary(cls, row: object) -> object:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            return row
        known = meaning(row["name"])
        filled: dict[str, object] = {
            "unit": known.unit,
            "frame": known.frame,
            "range": known.range,
        }
        if known.size is not None:
            filled["size"] = known.size
        return {**filled, **row}

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"range [{low}, {high}] must be finite and increasing")
        if max(abs(low), abs(high)) > 1e30:
            raise ValueError(f"range [{low}, {high}] is too wide (1e30 at most)")
        return value

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        for what in ("labels", "spin"):
            given = len(getattr(self, what))
            if given not in (0, self.size):
                raise ValueError(f"{what} has {given} entries, the signal has {self.size}")
        return self


class StateSignal(_Row):
    """One recurrent state vector, zero after reset."""

    name: Identifier = Field(description="The name of the state.")
    size: int = Field(ge=1, le=65536, description="The number of elements.")
    about: Sentence = Field(default="", description="What it holds, in a few words.")


class PolicySpec(_Row):
    """The contract of a policy with the outside world (DESIGN §1).

    `feedback` says which previous action returns in the observation: the network's `raw`
    output, the `clamped` one, or the one the actuators `applied` after slew limits.
    `out_of_range` and `non_finite` say what `_step` does with a bad observation: `saturate`
    replaces each value by the nearest valid one; `hold` repeats the last good action and
    `fallback` outputs `fallback`, and both leave the recurrent state as it was.
    """

    name: Identifier = Field(description="The name of the policy, which its C functions bear.")
    rate_hz: float = Field(
        gt=0.0, le=100_000.0, default=100.0, description="The rate of the control loop in Hz."
    )
    licence: Label = Field(default="", description="The licence of the weights.")
    observation: tuple[Signal, ...] = Field(
        min_length=1, description="The signals of the observation vector, in order."
    )
    action: tuple[Signal, ...] = Field(
        min_length=1, description="The signals of the action vector, in order."
    )
    state: tuple[StateSignal, ...] = Field(
        default=(), description="The recurrent states, in the order of the graph's inputs."
    )
    feedback: Literal["raw", "clamped", "applied"] = Field(
        default="clamped",
        description="Which previous action returns in the observation: the network's raw output, "
        "the clamped one, or the one that the actuators applied.",
    )
    out_of_range: Literal["saturate", "hold", "fallback"] = Field(
        default="saturate",
        description="What is done with an observation outside its range: the nearest valid value "
        "is taken, the last good action held, or the fallback action given.",
    )
    non_finite: Literal["hold", "fallback"] = Field(
        default="hold", description="What is done with an observation that is no finite number."
    )
    fallback: tuple[float, ...] = Field(
        default=(), description="The action of last resort, one value for each element."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for group in (self.observation, self.action, self.state):
            local = [s.name for s in group]
            twice = sorted(n for n, times in Counter(local).items() if times > 1)
            if twice:
                raise ValueError(f"signal {twice[0]!r} appears twice")
        if self.fallback and len(self.fallback) != self.action_size:
            raise ValueError(
                f"fallback has {len(self.fallback)} values, the action has {self.action_size}"
            )
        for value, (low, high) in zip(self.fallback, self.action_ranges(), strict=False):
            if not low <= value <= high:
                raise ValueError(f"fallback value {value} is outside [{low}, {high}]")
        return self

    @property
    def observation_size(self) -> int:
        """Elements of the observation vector."""
        return sum(s.size for s in self.observation)

    @property
    def action_size(self) -> int:
        """Elements of the action vector."""
        return sum(s.size for s in self.action)

    @property
    def state_size(self) -> int:
        """Elements of all state vectors together."""
        return sum(s.size for s in self.state)

    def observation_ranges(self) -> list[tuple[float, float]]:
        """Valid range of every observation element, in order."""
        return [s.range for s in self.observation for _ in range(s.size)]

    def action_ranges(self) -> list[tuple[float, float]]:
        """Saturation limits of every action element, in order."""
        return [s.range for s in self.action for _ in range(s.size)]

    def safe_action(self) -> tuple[float, ...]:
        """What `_step` outputs before the first good observation: `fallback`, or the value
        nearest zero inside each range."""
        if self.fallback:
            return self.fallback
        return tuple(min(max(0.0, low), high) for low, high in self.action_ranges())
