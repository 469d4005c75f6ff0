"""System calls of Linux, as much as the rig asks for, over bytes in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgerl.toolchain.emulators.session import Read, Write

Call = Literal["read", "write", "exit"]
_INPUT, _OUTPUT = 0, 1
_BAD_FILE, _NO_SUCH_CALL = -9, -38


@dataclass
class SystemCalls:
    """A Session: `requests` on standard input. `calls` names the calls by their numbers, which
    every architecture has its own of."""

    calls: Mapping[int, Call]
    requests: bytes = b""
    exit_code: int | None = None
    _at: int = 0
    _written: bytearray = field(default_factory=bytearray)

    @property
    def replies(self) -> bytes:
        """What was written to standard output."""
        return bytes(self._written)

    def serve(self, registers: tuple[int, ...], read: Read, write: Write) -> int:
        """One call: its number and three arguments."""
        number, first, second, third = registers
        match self.calls.get(number):
            case "read" if first == _INPUT:
                data = self.requests[self._at : self._at + third]
                self._at += len(data)
                write(second, data)
                return len(data)
            case "write" if first == _OUTPUT:
                self._written += read(second, third)
                return third
            case "exit":
                self.exit_code = first & 0xFF
                return 0
            case None:
                return _NO_SUCH_CALL
        return _BAD_FILE
