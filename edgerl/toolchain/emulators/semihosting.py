"""Arm semihosting, as much as the rig asks for, over files in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from struct import unpack

BREAKPOINT = 0xBEAB
_FAILED = 0xFFFFFFFF


class Operation(IntEnum):
    """Requests by number (Arm, "Semihosting for AArch32 and AArch64")."""

    OPEN = 0x01
    WRITE = 0x05
    READ = 0x06
    EXIT_EXTENDED = 0x20


@dataclass
class Semihosting:
    """One session: `inputs` by file name can be read, what is written gathers in `outputs`.

    `exit_code` is None until the program has ended itself.
    """

    inputs: dict[str, bytes]
    outputs: dict[str, bytearray] = field(default_factory=dict)
    exit_code: int | None = None
    _open: list[tuple[str, int]] = field(default_factory=list)

    def serve(
        self,
        operation: int,
        block: int,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
    ) -> int:
        """Carry out one request and return its result (the new r0).

        `block` is the address of the arguments; `read(address, size)` and
        `write(address, data)` reach the core's memory.
        """

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
            self.outputs[name] = bytearray()
        elif name not in self.inputs:
            return _FAILED
        self._open.append((name, 0))
        return len(self._open)

    def _read(self, handle: int, size: int) -> bytes:
        name, at = self._open[handle - 1]
        data = self.inputs[name][at : at + size]
        self._open[handle - 1] = (name, at + len(data))
        return data

    def _write(self, handle: int, data: bytes) -> int:
        self.outputs[self._open[handle - 1][0]] += data
        return 0
