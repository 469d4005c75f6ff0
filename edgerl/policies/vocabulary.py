"""The shared vocabulary of signals: what a name means, in which unit and frame.

A signal with a name from this table needs no more than that name in a spec; flight-stack
packages map their own topics onto the same names. Free names are allowed and carry whatever
the spec says about them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

# How like two names are before one passes for a misspelling of the other (difflib's ratio).
_NEAR = 0.8


@dataclass(frozen=True)
class Meaning:
    """What one vocabulary name stands for. `size` is None where any size is meaningful."""

    size: int | None
    unit: str
    frame: str
    range: tuple[float, float]
    about: str


VOCABULARY: dict[str, Meaning] = {
    "position_error": Meaning(3, "m", "world-FLU", (-100.0, 100.0), "position minus its reference"),
    "rotation_matrix": Meaning(
        9, "1", "body-to-world", (-1.001, 1.001), "attitude, row-major rotation matrix"
    ),
    "quaternion": Meaning(4, "1", "body-to-world", (-1.001, 1.001), "attitude, w x y z"),
    "projected_gravity": Meaning(
        3, "1", "body-FLU", (-1.001, 1.001), "unit gravity vector seen from the body"
    ),
    "linear_velocity": Meaning(
        3, "m/s", "world-FLU", (-100.0, 100.0), "velocity minus its reference"
    ),
    "angular_velocity": Meaning(3, "rad/s", "body-FLU", (-100.0, 100.0), "body rates"),
    "linear_acceleration": Meaning(3, "m/s^2", "body-FLU", (-500.0, 500.0), "specific force"),
    "joint_position": Meaning(None, "rad", "joint", (-100.0, 100.0), "joint angles"),
    "joint_velocity": Meaning(None, "rad/s", "joint", (-1000.0, 1000.0), "joint rates"),
    "previous_action": Meaning(None, "1", "", (-1.0, 1.0), "the action fed back"),
    "command": Meaning(None, "1", "", (-100.0, 100.0), "what the operator asks for"),
    "motor": Meaning(None, "1", "", (-1.0, 1.0), "motor speed set-point, -1 idle, 1 full"),
    "thrust": Meaning(1, "1", "body-FLU", (-1.0, 1.0), "collective thrust"),
    "torque": Meaning(None, "N m", "joint", (-1000.0, 1000.0), "joint or body torque"),
}

FREE_SIGNAL = Meaning(None, "1", "", (-1.0e6, 1.0e6), "a signal of the policy's own")


def meaning(name: str) -> Meaning:
    """The vocabulary entry for `name`, or that of a free signal."""
    return VOCABULARY.get(name, FREE_SIGNAL)


def doubts(names: Iterable[str]) -> tuple[str, ...]:
    """What to say of free names that are almost names of the vocabulary.

    A free name is allowed, so this is a remark and no refusal; a name that merely adds a word to
    one of the vocabulary (`motor_left`) is left alone.
    """
    said = []
    for name in names:
        if name in VOCABULARY or set(_tails(name)) & set(VOCABULARY):
            continue
        for near in get_close_matches(name, VOCABULARY, n=1, cutoff=_NEAR):
            said.append(
                f"{name!r} is a signal of the policy's own; did you mean {near!r}, which is known?"
            )
    return tuple(said)


def _tails(name: str) -> list[str]:
    """`name` without its first words, and without its last words."""
    words = name.split("_")
    return [
        "_".join(part)
        for k in range(1, len(words))
        for part in (words[k:], words[: len(words) - k])
    ]
