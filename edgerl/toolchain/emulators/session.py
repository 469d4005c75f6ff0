"""Session: what serves an image's requests to its surroundings, over bytes in memory."""

from collections.abc import Callable
from typing import Protocol

Read = Callable[[int, int], bytes]
Write = Callable[[int, bytes], None]


class Session(Protocol):
    """Surroundings of one run: requests can be read, replies gather.

    `exit_code` is None until the program has ended itself.
    """

    exit_code: int | None

    @property
    def replies(self) -> bytes:
        """What the program has answered."""
        ...

    def serve(self, registers: tuple[int, ...], read: Read, write: Write) -> int:
        """Carry out one call, given the registers that make it; the result register.

        `read(address, size)` and `write(address, data)` reach the core's memory.
        """
        ...
