"""Architecture: an instruction set, as far as a build has to know it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgerl.toolchain.build.instruction import Instruction


@dataclass(frozen=True)
class Architecture:
    """What the build has to know of an instruction set.

    `entry` is the symbol at which an image starts. `capstone` names the disassembler and its
    modes; `read` makes an instruction of what it found, given the one before. `own`, given code
    and its address, reads what the disassembler does not know or takes for something else; None
    where the code starts with nothing of the kind. `pushed` says by
    how many bytes an instruction lowers the stack pointer, None where the code does not show it;
    `return_bytes` is what a call itself puts on the stack.
    """

    entry: str
    capstone: tuple[str, ...]
    read: Callable[[Any, Instruction | None], Instruction]
    pushed: Callable[[Instruction], int | None]
    return_bytes: int = 0
    own: Callable[[bytes, int], Instruction | None] = lambda _code, _address: None
