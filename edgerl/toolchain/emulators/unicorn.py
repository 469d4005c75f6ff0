"""An emulated core: the linked image in unicorn, nothing else of the board.

Memories and the system control page are plain RAM; what the image asks of a debugger
(semihosting) is answered here. The image's own start-up code runs first, so the FPU is
switched on by the same instructions as on the board.
"""

from collections.abc import Iterator
from struct import pack
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgerl.errors import ToolError
from edgerl.targets.model import Region, Target
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.build.interrupts import deferred
from edgerl.toolchain.build.run import Bytes, Flags, Floats, Mode, Run, marks_of, rows_of
from edgerl.toolchain.emulators.requests import EXIT_CODES
from edgerl.toolchain.emulators.semihosting import BREAKPOINT, Semihosting

_Element = TypeVar("_Element", bound=np.generic)
_PAGE = 0x1000
_SYSTEM_CONTROL = Region(base=0xE000E000, size=_PAGE)
# A window of external RAM beside the target's own: one page to return to, then room for batches.
# (unicorn wrongly takes code at 0x60000000 as never executable.)
_WINDOW = Region(base=0x80000000, size=16 << 20)
_RETURN = _WINDOW.base
_BATCH = Region(base=_WINDOW.base + _PAGE, size=_WINDOW.size - _PAGE)
# Steps in one go: few enough that an interrupt of the user is heard soon.
_CHUNK = 256
_EXCEPTION_BREAKPOINT = 7


class UnicornCore:
    """The image on an emulated core of `target`. A BatchRunner.

    Every run is bounded by `timeout_s` seconds for each call or chunk of at most 256 steps.
    Raises ToolError when unicorn is missing or has no model of the core.
    """

    def __init__(self, image: Image, target: Target, *, timeout_s: float = 60.0) -> None:
        self.image = image
        self.target = target
        self.timeout_s = timeout_s
        self.stack_top = image.address("edgerl_rig_stack_top")
        self.stack_limit = image.address("edgerl_rig_stack_limit")
        self.state_bytes = image.state_bytes
        self.observation_size, self.action_size = image.signal_sizes
        self._files = Semihosting({})
        self._uc = _machine(image, target)
        self._failure: ToolError | None = None
        self._uc.hook_add(_unicorn().UC_HOOK_INTR, self._interrupt)
        self._run(image.binary.entry, until=image.address("main"))

    @property
    def name(self) -> str:
        """Compiler and emulator, for reports."""
        return f"{self.image.family}/unicorn"

    @property
    def uc(self) -> Any:
        """The machine (`unicorn.Uc`, which is untyped), for counters that hook it."""
        return self._uc

    def call(self, symbol: str, *arguments: int) -> int:
        """Call a function of the image on a fresh stack; its word result (r0).

        Arguments are words: integers or addresses, the fifth and later go on the stack. Raises
        ToolError, naming the place, when the function faults or does not return.
        """
        arm = _arm()
        extra = arguments[4:]
        stack = self.stack_top - (4 * len(extra) + 7 & ~7)
        if extra:
            self._uc.mem_write(stack, pack(f"<{len(extra)}I", *extra))
        self._uc.reg_write(arm.UC_ARM_REG_SP, stack)
        self._uc.reg_write(arm.UC_ARM_REG_LR, _RETURN | 1)
        registers = (arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3)
        for register, value in zip(registers, arguments, strict=False):
            self._uc.reg_write(register, value)
        self._files = Semihosting({})
        self._run(self.image.address(symbol), until=_RETURN)
        if self._files.exit_code is not None:
            raise ToolError(f"{self.name}: {symbol}: {self._exit_meaning()}")
        return int(self._uc.reg_read(arm.UC_ARM_REG_R0))

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the core's memory."""
        return bytes(self._uc.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Overwrite the core's memory."""
        self._uc.mem_write(address, data)

    def scratch(self, *sizes: int) -> tuple[int, ...]:
        """Addresses of blocks of memory outside the target's, valid until the next batch."""
        window = _Window(self)
        return tuple(window.reserve(size) for size in sizes)

    def reset_states(self, count: int) -> Bytes:
        """States [count, state_bytes] of freshly reset controllers."""
        self.write(_BATCH.base, bytes(self.state_bytes))
        self.call(f"{self.image.name}_reset", _BATCH.base)
        state = np.frombuffer(self.read(_BATCH.base, self.state_bytes), np.uint8)
        return np.tile(state, (count, 1))

    def trace(self, observations: Floats, resets: Flags, mode: Mode = "step") -> Run:
        """One controller through T steps, from reset: observations [T, n], resets [T]."""
        rows = rows_of(observations, self.observation_size)
        marks = marks_of(resets, len(rows))
        state = self.reset_states(1)
        runs = []
        for part in self._chunks(len(rows)):
            window = _Window(self)
            steps = part.stop - part.start
            at = window.put(state)
            obs, mark = window.put(rows[part]), window.put(marks[part])
            act, status, states = self._results(window, steps)
            self.call(
                "edgerl_rig_trace", at, steps, obs, mark, int(mode == "step"), act, status, states
            )
            state = window.get(at, (1, self.state_bytes), np.uint8)
            runs.append(self._collect(window, steps, act, status, states))
        return _joined(runs)

    def many(self, states: Bytes, observations: Floats, mode: Mode = "step") -> Run:
        """One step of each of N controllers: states [N, state_bytes], observations [N, n]."""
        rows = rows_of(observations, self.observation_size)
        if states.shape != (len(rows), self.state_bytes):
            raise ValueError(f"states are {states.shape} for {len(rows)} observations")
        runs = []
        for part in self._chunks(len(rows)):
            window = _Window(self)
            count = part.stop - part.start
            obs = window.put(rows[part])
            act, status, after = self._results(window, count)
            self.write(after, np.ascontiguousarray(states[part], np.uint8).tobytes())
            self.call("edgerl_rig_many", after, count, obs, int(mode == "step"), act, status)
            runs.append(self._collect(window, count, act, status, after))
        return _joined(runs)

    def run_main(self, requests: bytes) -> bytes:
        """Run the image's own main loop, from reset, on `requests`; the replies.

        The protocol is that of `edgerl-rig.c.j2`. Raises ToolError when the program ends
        with an error code, faults, or does not end.
        """
        self._files = Semihosting({"rig-in": requests})
        self._run(self.image.binary.entry, until=_RETURN)
        if self._files.exit_code != 0:
            raise ToolError(f"{self.name}: {self._exit_meaning()}")
        return bytes(self._files.outputs.get("rig-out", b""))

    def _chunks(self, steps: int) -> Iterator[slice]:
        width = 4 * (self.observation_size + self.action_size + 2) + self.state_bytes
        chunk = min(_CHUNK, (_BATCH.size - self.state_bytes - 64) // width)
        if chunk < 1:
            raise ToolError(f"{self.name}: one step of {width:,} B exceeds the batch window")
        for start in range(0, steps, chunk):
            yield slice(start, min(start + chunk, steps))

    def _results(self, window: "_Window", rows: int) -> tuple[int, int, int]:
        return (
            window.reserve(4 * rows * self.action_size),
            window.reserve(4 * rows),
            window.reserve(rows * self.state_bytes),
        )

    def _collect(self, window: "_Window", rows: int, act: int, status: int, states: int) -> Run:
        return Run(
            actions=window.get(act, (rows, self.action_size), np.float32),
            status=window.get(status, (rows,), np.uint32),
            states=window.get(states, (rows, self.state_bytes), np.uint8),
        )

    def _run(self, start: int, *, until: int) -> None:
        """Emulate from `start` to `until` or the program's own end."""
        unicorn, arm = _unicorn(), _arm()
        self._failure = None
        try:
            with deferred():
                self._uc.emu_start(start | 1, until, timeout=int(self.timeout_s * 1e6))
        except unicorn.UcError as error:
            raise self._fault(str(error)) from error
        if self._failure is not None:
            raise self._failure
        if self._files.exit_code is None and self._uc.reg_read(arm.UC_ARM_REG_PC) != until:
            raise self._fault(f"no end after {self.timeout_s:g} s")

    def _exit_meaning(self) -> str:
        code = self._files.exit_code
        return EXIT_CODES.get(code or 0, f"the image ended with code {code}")

    def _fault(self, what: str) -> ToolError:
        pc = self._uc.reg_read(_arm().UC_ARM_REG_PC)
        return ToolError(f"{self.name}: {what} at {pc:#010x} ({self.image.place(pc)})")

    def _interrupt(self, uc: Any, number: int, _data: object) -> None:
        arm = _arm()
        pc = uc.reg_read(arm.UC_ARM_REG_PC)
        halfword = int.from_bytes(uc.mem_read(pc, 2), "little")
        if number != _EXCEPTION_BREAKPOINT or halfword != BREAKPOINT:
            self._failure = self._fault(f"exception {number}")
            uc.emu_stop()
            return
        operation, block = uc.reg_read(arm.UC_ARM_REG_R0), uc.reg_read(arm.UC_ARM_REG_R1)
        result = self._files.serve(operation, block, self.read, self.write)
        uc.reg_write(arm.UC_ARM_REG_R0, result)
        uc.reg_write(arm.UC_ARM_REG_PC, pc + 2 | 1)
        if self._files.exit_code is not None:
            uc.emu_stop()


class _Window:
    """Memory of one batch, handed out from the start of the window, 8-byte aligned."""

    def __init__(self, core: UnicornCore) -> None:
        self._core = core
        self._next = _BATCH.base

    def reserve(self, size: int) -> int:
        address = self._next
        self._next += size + 7 & ~7
        return address

    def put(self, values: npt.NDArray[np.generic]) -> int:
        address = self.reserve(values.nbytes)
        self._core.write(address, values.tobytes())
        return address

    def get(
        self, address: int, shape: tuple[int, ...], dtype: type[_Element]
    ) -> npt.NDArray[_Element]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self._core.read(address, size), dtype).reshape(shape)


def _joined(runs: list[Run]) -> Run:
    states = [run.states for run in runs if run.states is not None]
    return Run(
        actions=np.concatenate([run.actions for run in runs]),
        status=np.concatenate([run.status for run in runs]),
        states=np.concatenate(states),
    )


def _machine(image: Image, target: Target) -> Any:
    """A core of the target's model with the image in its memories."""
    unicorn, arm = _unicorn(), _arm()
    model = getattr(arm, target.core.unicorn, None)
    if model is None or target.flash is None or target.ram is None:
        raise ToolError(f"unicorn has no model of {target.core.name}; use QEMU")
    # Not UC_MODE_MCLASS: that takes an M33 whatever model is asked for.
    uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB)
    uc.ctl_set_cpu_model(model)
    for region in (target.flash, target.ram, _SYSTEM_CONTROL, _WINDOW):
        uc.mem_map(region.base, region.size + _PAGE - 1 & ~(_PAGE - 1))
    for segment in image.binary.segments:
        uc.mem_write(segment.load, segment.data)
    return uc


def _unicorn() -> Any:
    try:
        import unicorn
    except ImportError as error:
        raise ToolError("unicorn is not installed: pip install 'edgerl[emu]'") from error
    return unicorn


def _arm() -> Any:
    from unicorn import arm_const

    return arm_const
