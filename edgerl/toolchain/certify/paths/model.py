"""Model: an instruction set as a walk has to know it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from edgerl.toolchain.certify.paths.machine import Machine, Unshown
from edgerl.toolchain.certify.paths.values import Value

Action = Callable[[Machine], None]


@dataclass(frozen=True)
class Step:
    """One instruction: its size, as it reads, what it does, and whether it `decides` where to go
    on. Before it acts, the machine's pc stands behind it."""

    size: int
    text: str
    act: Action
    decides: bool = False


@dataclass(frozen=True)
class Model:
    """How many registers are followed, which are the stack pointer, the link and the arguments,
    which hold a value that nobody changes, and what makes a step of a disassembled instruction."""

    registers: int
    stack: int
    link: int
    arguments: tuple[int, ...]
    step: Callable[[Any], Step]
    fixed: Mapping[int, Value] = field(default_factory=dict)


def not_modelled(_machine: Machine) -> NoReturn:
    """An instruction that nothing is claimed of."""
    raise Unshown("the instruction is not modelled")
