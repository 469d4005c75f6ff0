"""Machine: how unicorn runs an architecture, and what its calls look like."""

from collections.abc import Callable
from dataclasses import dataclass

from edgerl.targets.model import Region
from edgerl.toolchain.emulators.session import Read, Session

# The number of an instruction that unicorn does not know, beside those of exceptions.
UNKNOWN = -1


@dataclass(frozen=True)
class Machine:
    """An architecture as unicorn emulates it.

    Names are those of unicorn's constants: its module, architecture and mode, registers without
    their common `prefix`. A call passes `arguments` in registers of `word` bytes and further ones
    on the stack, returns to `link` (to the top of the stack where that is empty) and leaves its
    `result`. `code_bit` is set in the addresses of code.

    The image asks its surroundings by an exception, or by the instruction `trap` where that is
    none, with the registers `request`; `session` serves it. `resume(number, pc, read)` is where
    it goes on after exception `number`, None when that was no request.

    `window` is the first address of memory beside any target's own, for batches; `pages` are
    further memories that the image writes to; `setup` are registers as whatever starts the image
    leaves them.
    """

    constants: str
    engine: tuple[str, str]
    prefix: str
    pc: str
    sp: str
    link: str
    arguments: tuple[str, ...]
    result: str
    word: int
    request: tuple[str, ...]
    session: Callable[[bytes], Session]
    resume: Callable[[int, int, Read], int | None]
    window: int
    trap: str = ""
    code_bit: int = 0
    pages: tuple[Region, ...] = ()
    setup: tuple[tuple[str, int], ...] = ()
