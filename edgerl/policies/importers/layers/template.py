"""Layer templates: a first guess at the layer list of bare weights, for the user to finish."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgerl.errors import UserError
from edgerl.policies.importers.layers.file import UNKNOWN
from edgerl.policies.importers.layers.weights import Tensors
from edgerl.policies.names import shown

_MOST_TENSORS = 1000
_LONGEST_NAME = 300
_MOST_TRIES = 100_000
# Parts of a name that tell another network than the one that acts.
_OTHERS = re.compile(
    r"(^|[./_])(critics?|value|values|vf|qf?\d*|q_?net\w*|target\w*|memory_c|optimizer\w*|exp_avg\w*"
    r"|log_?std|disc\w*|reward\w*)([./_]|$)"
)


class NeedsLayers(UserError):
    """A checkpoint of bare weights was given without a layer list; `template` is one to finish."""

    def __init__(self, where: str, template: str) -> None:
        super().__init__(
            f"{where}: holds weights without the network they belong to; say with --layers which "
            "layers they make (edgerl import drafts that list)"
        )
        self.template = template


@dataclass(frozen=True)
class _Unit:
    """One layer that some tensors suggest: sizes, the tensors, and its lines in the file."""

    name: str
    takes: int
    gives: int
    tensors: tuple[str, ...]
    lines: tuple[str, ...]


def template(tensors: Tensors, where: str) -> str:
    """A TOML text that lists the layers which names and shapes suggest, `"?"` for what they
    cannot tell; every tensor that found no place stands in it as a comment.

    Layers are chained by size, in the order of their names as far as that goes, leaving out
    critics and the like.
    """
    short = [name for name in tensors if len(name) <= _LONGEST_NAME]
    names = sorted(short[:_MOST_TENSORS], key=_natural)
    shapes = {name: tuple(int(n) for n in tensors[name].shape) for name in names}
    units = list(_units(shapes))
    acting = [unit for unit in units if not _OTHERS.search(unit.name.lower())]
    chain = _chain(acting or units)
    used = {name for unit in chain for name in unit.tensors}
    lines = [
        f"# The layers of {shown(where)[1:-1]}, from the observation to the action.",
        "# Guessed from names and shapes: check the order, and put a value where a question mark",
        "# stands.",
    ]
    for unit in chain:
        lines += ["", "[[layer]]", *unit.lines]
        lines.append(f"# {unit.takes} values in, {unit.gives} out")
    if not chain:
        lines += ["", "[[layer]]", f'kind = "{UNKNOWN}"']
    rest = [name for name in names if name not in used]
    if rest:
        lines += ["", "# Not used:"]
        lines += [f"# {_toml(name)} {list(shapes[name])}" for name in rest]
    return "\n".join(lines) + "\n"


def _units(shapes: dict[str, tuple[int, ...]]) -> Iterator[_Unit]:
    """The layers that tensors of these shapes suggest, in the order of their names; statistics
    of the observation come first."""
    taken: set[str] = set()
    for kinds in ((_statistics,), (_torch_cell, _flax_cell, _plain)):
        for name in shapes:
            found = (kind(name, shapes) for kind in kinds if name not in taken)
            unit = next((each for each in found if each is not None), None)
            if unit is not None:
                taken.update(unit.tensors)
                yield unit


def _torch_cell(name: str, shapes: dict[str, tuple[int, ...]]) -> _Unit | None:
    found = re.fullmatch(r"(?s)(?P<prefix>.*)(?:weight|bias)_(?:ih|hh)(?P<stacked>_l\d+)?", name)
    if found is None:
        return None
    prefix = found["prefix"]
    first = "_l0" if found["stacked"] else ""
    w_input = shapes.get(f"{prefix}weight_ih{first}", ())
    w_hidden = shapes.get(f"{prefix}weight_hh{first}", ())
    if len(w_input) != 2 or len(w_hidden) != 2 or not w_hidden[1]:
        return None
    kind = {3: "gru", 4: "lstm"}.get(w_hidden[0] // w_hidden[1])
    if kind is None:
        return None
    parts = re.compile(re.escape(prefix) + r"(weight|bias)_(ih|hh)(_l\d+)?")
    tensors = tuple(each for each in shapes if parts.fullmatch(each))
    lines = (f'kind = "{kind}"', f"prefix = {_toml(prefix)}", 'framework = "torch"')
    return _Unit(prefix, w_input[1], w_hidden[1], tensors, lines)


def _flax_cell(name: str, shapes: dict[str, tuple[int, ...]]) -> _Unit | None:
    found = re.fullmatch(
        r"(?s)(?P<prefix>(?:.*[./])?)(?:[ih][rznifgo]|dense_[ih])(?P<dot>[./])(?:kernel|bias)", name
    )
    if found is None:
        return None
    prefix, dot = found["prefix"], found["dot"]
    for kind, (x, h) in {
        "gru": ("ir", "hr"), "lstm": ("ii", "hi"), "": ("dense_i", "dense_h"),
    }.items():  # fmt: skip
        w_input = shapes.get(f"{prefix}{x}{dot}kernel", ())
        w_hidden = shapes.get(f"{prefix}{h}{dot}kernel", ())
        if len(w_input) == 2 and len(w_hidden) == 2 and w_hidden[0]:
            kind = kind or {3: "gru", 4: "lstm"}.get(w_hidden[1] // w_hidden[0], UNKNOWN)
            parts = re.compile(
                re.escape(prefix) + rf"([ih][rznifgo]|dense_[ih]){re.escape(dot)}(kernel|bias)"
            )
            tensors = tuple(each for each in shapes if parts.fullmatch(each))
            lines = (f'kind = "{kind}"', f"prefix = {_toml(prefix)}", 'framework = "flax"')
            return _Unit(prefix, w_input[0], w_hidden[0], tensors, lines)
    return None


def _statistics(name: str, shapes: dict[str, tuple[int, ...]]) -> _Unit | None:
    if not name.endswith("mean") or len(shapes[name]) not in (1, 2):
        return None
    prefix, size = name.removesuffix("mean"), shapes[name][-1]
    for key in ("var", "std"):
        spread = f"{prefix}{key}"
        if shapes.get(spread) == shapes[name]:
            lines = (
                'kind = "normalize"',
                f"mean = {_toml(name)}",
                f"{key} = {_toml(spread)}",
                f'epsilon = "{UNKNOWN}"',
            )
            return _Unit(prefix, size, size, (name, spread), lines)
    return None


def _plain(name: str, shapes: dict[str, tuple[int, ...]]) -> _Unit | None:
    """A dense layer or a layer norm."""
    found = re.fullmatch(r"(?s)(?P<prefix>.*?)(?P<role>weight|kernel|scale)", name)
    if found is None:
        return None
    prefix, role, shape = found["prefix"], found["role"], shapes[name]
    bias = f"{prefix}bias"
    has_bias = bias in shapes
    tensors = (name, bias) if has_bias else (name,)
    with_bias = (f"bias = {_toml(bias)}",) if has_bias else ()
    if len(shape) == 2 and role != "scale":
        gives, takes = shape if role == "weight" else shape[::-1]
        turned = () if role == "weight" else ("transposed = true",)
        lines = (
            'kind = "dense"',
            f"weight = {_toml(name)}",
            *with_bias,
            *turned,
            f'activation = "{UNKNOWN}"',
        )
        return _Unit(prefix, takes, gives, tensors, lines)
    if len(shape) == 1 and role != "kernel" and has_bias and shapes[bias] == shape:
        epsilon = "1e-5" if role == "weight" else "1e-6"
        lines = (
            'kind = "layer_norm"',
            f"weight = {_toml(name)}",
            *with_bias,
            f"epsilon = {epsilon}",
            f'activation = "{UNKNOWN}"',
        )
        return _Unit(prefix, shape[0], shape[0], tensors, lines)
    return None


def _chain(units: list[_Unit]) -> list[_Unit]:
    """The longest chain of units in which each takes what the one before gives, the first that
    is found when searched in the order of names, deepest first, within _MOST_TRIES."""
    best: list[int] = []
    path: list[int] = []
    after: dict[int, list[int]] = {}
    for k, unit in enumerate(units):
        after.setdefault(unit.takes, []).append(k)
    # One iterator over what may come next for each place of the path.
    choices = [iter(range(len(units)))]
    for _ in range(_MOST_TRIES):
        if not choices or len(best) == len(units):
            break
        k = next(choices[-1], -1)
        if k < 0:
            choices.pop()
            if path:
                path.pop()
        elif k not in path:
            path.append(k)
            choices.append(iter(after.get(units[k].gives, ())))
            best = list(path) if len(path) > len(best) else best
    return [units[k] for k in best]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts `layer10` after `layer9`."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p), "") if p.isdecimal() and p.isascii() else (0, 0, p) for p in parts]


def _toml(text: str) -> str:
    """A TOML string."""

    def escaped(c: str) -> str:
        if "\ud800" <= c <= "\udfff":
            return "?"
        return c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}"

    return f'"{"".join(map(escaped, text))}"'
