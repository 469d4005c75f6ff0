"""An emulated core: the linked image in unicorn, nothing else of the board.

Memories and system registers are plain RAM; what the image asks of its surroundings, a debugger
or Linux, is answered here. The image's own start-up code runs first, so an FPU is switched on by
the same instructions as on the board.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgerl.errors import ToolError
from edgerl.targets.model import Target
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.build.interrupts import deferred
from edgerl.toolchain.build.run import Bytes, Flags, Floats, Mode, Run, marks_of, rows_of
from edgerl.toolchain.emulators.machines import UNKNOWN, Machine, machine_of
from edgerl.toolchain.emulators.requests import EXIT_CODES
from edgerl.toolchain.emulators.runner import Path

_Element = TypeVar("_Element", bound=np.generic)
_PAGE = 0x1000
# A window beside the target's memories: one page to return to, then room for batches.
_WINDOW_SIZE = 16 << 20
# Steps in one go: few enough that an interrupt of the user is heard soon.
_CHUNK = 256
_STACK_ALIGNMENT = 16
_PAINT = 0xA5


class UnicornCore:
    """The image on an emulated core of `target`. A BatchRunner and an EmulatedCore.

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
        self._machine = machine_of(target.core.architecture)
        self._session = self._machine.session(b"")
        self._uc = _loaded(image, target, self._machine)
        self._constants = _constants(self._machine)
        self._failure: ToolError | None = None
        for register, value in self._machine.setup:
            self._set(register, value)
        self._uc.hook_add(_unicorn().UC_HOOK_INTR, self._interrupt)
        if self._machine.trap:
            trap = getattr(self._constants, self._machine.trap)
            self._uc.hook_add(_unicorn().UC_HOOK_INSN, self._trapped, aux1=trap)
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
        """Call a function of the image on a fresh stack; what its result register holds.

        Arguments are integers or addresses. Raises ToolError, naming the place, when the function
        faults or does not return.
        """
        machine = self._machine
        extra = arguments[len(machine.arguments) :]
        passed = b"".join(value.to_bytes(machine.word, "little") for value in extra)
        stack = self.stack_top - len(passed) & -_STACK_ALIGNMENT
        self.write(stack, passed)
        if machine.link:
            self._set(machine.link, self._home | machine.code_bit)
        else:
            stack -= machine.word
            self.write(stack, self._home.to_bytes(machine.word, "little"))
        self._set(machine.sp, stack)
        for register, value in zip(machine.arguments, arguments, strict=False):
            self._set(register, value)
        self._session = machine.session(b"")
        self._run(self.image.address(symbol), until=self._home)
        if self._session.exit_code is not None:
            raise ToolError(f"{self.name}: {symbol}: {self._exit_meaning()}")
        return self._get(machine.result)

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
        self.write(self.batch, bytes(self.state_bytes))
        self.call(f"{self.image.name}_reset", self.batch)
        state = np.frombuffer(self.read(self.batch, self.state_bytes), np.uint8)
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

    def paths(self, observations: Floats, mode: Mode) -> Iterator[Path]:
        """The blocks that each call enters, on observations [T, n], from reset."""
        path: Path = []

        def entered(_uc: object, address: int, size: int, _data: object) -> None:
            path.append((address, size))

        state, obs, act = self._signals()
        hook = self._uc.hook_add(_unicorn().UC_HOOK_BLOCK, entered)
        # A block translated before knows nothing of the hook.
        self._uc.ctl_flush_tb()
        try:
            for row in rows_of(observations, self.observation_size):
                self.write(obs, row.tobytes())
                path.clear()
                self.call(f"{self.image.name}_{mode}", state, obs, act)
                yield list(path)
        finally:
            self._uc.hook_del(hook)
            self._uc.ctl_flush_tb()

    def stack_used(self, observations: Floats, mode: Mode = "step") -> int:
        """Most bytes of stack that one call took on observations [T, n]: the free stack is
        painted with a pattern, and what was touched was used.

        Raises ToolError when the program fills the whole stack area.
        """
        free = self.stack_top - self.stack_limit
        state, obs, act = self._signals()
        self.write(self.stack_limit, bytes([_PAINT]) * free)
        for row in rows_of(observations, self.observation_size):
            self.write(obs, row.tobytes())
            self.call(f"{self.image.name}_{mode}", state, obs, act)
        area = np.frombuffer(self.read(self.stack_limit, free), np.uint8)
        touched = np.flatnonzero(area != _PAINT)
        used = free - int(touched[0]) if touched.size else 0
        if used == free:
            called = f"{self.image.name}_{mode}"
            raise ToolError(f"{self.name}: {called} overflows the {free:,} B of stack")
        return used

    def _signals(self) -> tuple[int, int, int]:
        """Addresses of a reset state, an observation and an action."""
        sizes = self.state_bytes, 4 * self.observation_size, 4 * self.action_size
        state, obs, act = self.scratch(*sizes)
        self.call(f"{self.image.name}_reset", state)
        return state, obs, act

    def run_main(self, requests: bytes) -> bytes:
        """Run the image's own main loop, from reset, on `requests`; the replies.

        The protocol is that of `edgerl-rig.c.j2`. Raises ToolError when the program ends
        with an error code, faults, or does not end.
        """
        self._session = self._machine.session(requests)
        self._run(self.image.binary.entry, until=self._home)
        if self._session.exit_code != 0:
            raise ToolError(f"{self.name}: {self._exit_meaning()}")
        return self._session.replies

    def _chunks(self, steps: int) -> Iterator[slice]:
        width = 4 * (self.observation_size + self.action_size + 2) + self.state_bytes
        chunk = min(_CHUNK, (_WINDOW_SIZE - _PAGE - self.state_bytes - 64) // width)
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
        start |= self._machine.code_bit
        self._failure = None
        while not self._emulated(start, until):
            start = self._get(self._machine.pc)
        if self._failure is not None:
            raise self._failure
        if self._session.exit_code is None and self._get(self._machine.pc) != until:
            raise self._fault(f"no end after {self.timeout_s:g} s")

    def _emulated(self, start: int, until: int) -> bool:
        """Emulate; False where the image asked something by an instruction unknown to unicorn
        and has yet to go on."""
        try:
            with deferred():
                self._uc.emu_start(start, until, timeout=int(self.timeout_s * 1e6))
        except _unicorn().UcError as error:
            if not self._resumed(self._uc, UNKNOWN):
                raise self._fault(str(error)) from error
            return self._session.exit_code is not None
        return True

    @property
    def _home(self) -> int:
        """Where calls return to."""
        return self._machine.window

    @property
    def batch(self) -> int:
        """The first address of the room for batches."""
        return self._machine.window + _PAGE

    def _get(self, register: str) -> int:
        return int(self._uc.reg_read(getattr(self._constants, self._machine.prefix + register)))

    def _set(self, register: str, value: int) -> None:
        self._uc.reg_write(getattr(self._constants, self._machine.prefix + register), value)

    def _exit_meaning(self) -> str:
        code = self._session.exit_code
        return EXIT_CODES.get(code or 0, f"the image ended with code {code}")

    def _fault(self, what: str) -> ToolError:
        pc = self._get(self._machine.pc)
        return ToolError(f"{self.name}: {what} at {pc:#010x} ({self.image.place(pc)})")

    def _interrupt(self, uc: Any, number: int, _data: object) -> None:
        if not self._resumed(uc, number):
            self._failure = self._fault(f"exception {number}")
            uc.emu_stop()

    def _resumed(self, uc: Any, number: int) -> bool:
        """Serve the image's request, if that is what the exception is."""
        resume = self._machine.resume(number, self._get(self._machine.pc), self.read)
        if resume is None:
            return False
        self._serve(uc)
        self._set(self._machine.pc, resume)
        return True

    def _trapped(self, uc: Any, _data: object) -> None:
        self._serve(uc)

    def _serve(self, uc: Any) -> None:
        """What the image asks of its surroundings."""
        registers = tuple(self._get(name) for name in self._machine.request)
        self._set(self._machine.result, self._session.serve(registers, self.read, self.write))
        if self._session.exit_code is not None:
            uc.emu_stop()


class _Window:
    """Memory of one batch, handed out from the start of the window, 8-byte aligned."""

    def __init__(self, core: UnicornCore) -> None:
        self._core = core
        self._next = core.batch

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


def _loaded(image: Image, target: Target, machine: Machine) -> Any:
    """A core of the target's model with the image in its memories."""
    unicorn = _unicorn()
    model = getattr(_constants(machine), target.core.unicorn, None)
    if model is None or target.flash is None or target.ram is None:
        raise ToolError(f"unicorn has no model of {target.core.name}; use QEMU")
    uc = unicorn.Uc(*(getattr(unicorn, name) for name in machine.engine))
    uc.ctl_set_cpu_model(model)
    spans = [(r.base, r.size) for r in (target.flash, target.ram, *machine.pages)]
    for start, end in _pages([*spans, (machine.window, _WINDOW_SIZE)]):
        uc.mem_map(start, end - start)
    for segment in image.binary.segments:
        uc.mem_write(segment.load, segment.data)
    return uc


def _pages(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Whole pages, from the first to behind the last, that hold `spans` (address, size): no page
    twice, for memories may begin within the page in which another ends."""
    found: list[tuple[int, int]] = []
    for base, size in sorted(spans):
        start, end = base & ~(_PAGE - 1), base + size + _PAGE - 1 & ~(_PAGE - 1)
        if found and start <= found[-1][1]:
            start, end = found[-1][0], max(end, found.pop()[1])
        found.append((start, end))
    return found


def _unicorn() -> Any:
    try:
        import unicorn
    except ImportError as error:
        raise ToolError("unicorn is not installed: pip install 'edgerl[emu]'") from error
    return unicorn


def _constants(machine: Machine) -> Any:
    _unicorn()
    return import_module(f"unicorn.{machine.constants}")
