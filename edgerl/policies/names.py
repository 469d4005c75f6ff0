"""Names that come from outside, made fit for a message or for an identifier."""

import re
import unicodedata
from collections.abc import Container

from edgerl.policies.spec import identifier

_SHOWN = 60


def shown(name: str) -> str:
    """`name` for an error message: one short line of plain characters in quotes."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in name)
    return repr(plain if len(plain) <= _SHOWN else plain[:_SHOWN] + "…")


def as_identifier(name: str, prefix: str) -> str:
    """The identifier closest to `name`; `prefix` leads where `name` has no usable start."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")
    if not plain or not plain[0].isalpha():
        plain = f"{prefix}_{plain}".strip("_")
    plain = plain[:40].rstrip("_")
    try:
        return identifier(plain)
    except ValueError:
        return identifier(f"{prefix}_{plain}"[:40].rstrip("_"))


def distinct(name: str, taken: Container[str]) -> str:
    """The identifier `name`, with a number after it where it is `taken`."""
    new, number = name, 1
    while new in taken:
        number += 1
        new = f"{name[:33].rstrip('_')}_{number}"
    return new
