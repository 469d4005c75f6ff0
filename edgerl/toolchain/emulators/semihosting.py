"""Semihosting with words of 32 bits, as much as the rig asks for, over files in memory.

RISC-V took over Arm's requests as they are.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from struct import unpack

from edgerl.toolchain.emulators.session import Read, Write

_FAILED = 0xFFFFFFFF
_REQUESTS, _REPLIES = "rig-in", "rig-out"


class Operation(IntEnum):
    """Requests by number (Arm, "Semihosting for AArch32 and AArch64")."""

    OPEN = 0x01
    WRITE = 0x05
    READ = 0x06
    EXIT_EXTENDED = 0x20


@dataclass
class Semihosting:
    """A Session: files by name, of which `requests` is the one that can be read."""

    requests: bytes = b""
    exit_code: int | None = None
    _written: dict[str, bytearray] = field(default_factory=dict)
    _open: list[tuple[str, int]] = field(default_factory=list)

    @property
    def replies(self) -> bytes:
        """What was written to the file of replies."""
        return bytes(self._written.get(_REPLIES, b""))

    def serve(self, registers: tuple[int, ...], read: Read, write: Write) -> int:
        """One request: its operation, and the address of its arguments."""
        operation, block = registers

        def words(count: int) -> tuple[int, ...]:
            return unpack(f"<{count}I", read(block, 4 * count))

        match operation:
            case Operation.OPEN:
                address, mode, length = words(3)
                return self._open_file(read(address, length).decode("ascii", "replace"), mode)
            case Operation.WRITE:
                handle, address, size = words(3)
                return self._write(handle, read(address, size))
            case Operation.READ:
                handle, address, size = words(3)
                data = self._read(handle, size)
                write(address, data)
                return size - len(data)
            case Operation.EXIT_EXTENDED:
                _reason, self.exit_code = words(2)
                return 0
        return _FAILED

    def _open_file(self, name: str, mode: int) -> int:
        if mode >= 4:  # writing modes
            self._written[name] = bytearray()
        elif name != _REQUESTS:
            return _FAILED
        self._open.append((name, 0))
        return len(self._open)

    def _read(self, handle: int, size: int) -> bytes:
        name, at = self._open[handle - 1]
        data = self.requests[at : at + size] if name == _REQUESTS else b""
        self._open[handle - 1] = (name, at + len(data))
        return data

    def _write(self, handle: int, data: bytes) -> int:
        self._written[self._open[handle - 1][0]] += data
        return 0
