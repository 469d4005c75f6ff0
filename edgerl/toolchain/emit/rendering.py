"""The templates' language: C literals, comments that stay comments, lines that fit."""

import re
from collections.abc import Sequence
from functools import cache

import jinja2
import numpy as np
import numpy.typing as npt

from edgerl.toolchain.emit.contract import order, signal_rows, state_rows
from edgerl.toolchain.emit.integer.plan import pair_runs
from edgerl.toolchain.emit.plan import VectorStep, describe

_WIDTH = 100
_PLAIN = re.compile(r"[^A-Za-z0-9 _.,:;^+%()\[\]=<>\-*/]")


def render(template: str, context: dict[str, object]) -> str:
    """The text of a template."""
    return _environment().get_template(template).render(context)


def cfloat(value: float) -> str:
    """A float32 as a C literal that reads back exactly, in C and C++ alike."""
    return cfloats([value])[0]


def cfloats(values: npt.ArrayLike) -> list[str]:
    """`cfloat` of each value; formatting all of them at once takes a third of the time."""
    singles = np.asarray(values, np.float32).tolist()
    texts = ("%.9g " * len(singles) % tuple(singles)).split()
    return [f"{text}f" if "." in text or "e" in text else f"{text}.0f" for text in texts]


def cword(value: float | np.uint32) -> str:
    """The bit pattern of a float32, or a word, as a C literal."""
    return chex(int(value if isinstance(value, np.uint32) else np.float32(value).view(np.uint32)))


def chex(value: int) -> str:
    """A word as a C literal."""
    return f"0x{value:08X}u"


def hexes(values: npt.ArrayLike) -> list[str]:
    """Words as C literals."""
    return [chex(value) for value in np.asarray(values).view(np.uint32).tolist()]


def indexed(pointer: str, index: int | str) -> str:
    """What stands `index` elements behind a pointer: of `work + 4` and `i`, `work[i + 4]`."""
    base, *rest = pointer.split(" + ")
    constant = sum(int(part) for part in rest if part.isdigit())
    if isinstance(index, int):
        constant, index = constant + index, ""
    terms = [index, *(part for part in rest if not part.isdigit()), constant or ""]
    return f"{base}[{' + '.join(str(term) for term in terms if term) or '0'}]"


def comment(text: str) -> str:
    """`text` fit to stand in a C comment: it neither ends the comment, nor opens another, nor
    continues a line. What is not plain becomes an underscore."""
    plain = _PLAIN.sub("_", text)
    while "*/" in plain or "/*" in plain:
        plain = plain.replace("*/", "* /").replace("/*", "/ *")
    return plain


def listed(head: str, items: Sequence[object], tail: str) -> str:
    """`head`, the items with commas between, `tail`, broken into lines that fit; later lines
    start under the first item."""
    words = [f"{item}," for item in items[:-1]] + [f"{items[-1]}{tail}"]
    lines = [head + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(" " * len(head) + word)
    return "\n".join(lines)


def noted(instruction: str, note: str) -> str:
    """An assembly instruction with a comment, in the column of comments."""
    return f"    {instruction:<36}@ {note}"


def span(first: int, count: int, register: str = "s") -> str:
    """A list of neighbouring registers."""
    return f"{register}{first}" + (f"-{register}{first + count - 1}" if count > 1 else "")


def _finished(value: object) -> object:
    """A macro's lines without the last newline: the line that calls it brings its own."""
    return value.rstrip("\n") if isinstance(value, str) else value


def _input_name(step: VectorStep, k: int) -> str:
    return "ab"[k] if len(step.inputs) <= 2 else f"x{k}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgerl.toolchain.emit"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finished,
        autoescape=False,  # C and assembly; names are identifiers, free text passes `comment`
    )
    environment.globals.update(listed=listed, noted=noted, span=span)
    environment.filters.update(
        cfloat=cfloat,
        cfloats=cfloats,
        cword=cword,
        cwords=lambda values: list(map(cword, values)),
        chex=chex,
        hexes=hexes,
        indexed=indexed,
        pair_runs=pair_runs,
        corder=lambda value: chex(order(value)),
        rows_of=lambda words, n: [", ".join(words[k : k + n]) for k in range(0, len(words), n)],
        comment=comment,
        signal_rows=signal_rows,
        state_rows=state_rows,
        describe=describe,
        input_name=_input_name,
    )
    return environment
