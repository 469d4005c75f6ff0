"""Runner: what host twin, emulated core and QEMU machine have in common."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from edgerl.targets.model import Target
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.build.run import Bytes, Flags, Floats, Mode, Run

# Every block of instructions that a call entered, in order: first address and size in bytes.
Path = list[tuple[int, int]]


class Runner(Protocol):
    """Something that runs a compiled controller and tells what came out.

    `name` says what it is for reports, such as "host", "zig/unicorn" or "gcc/qemu".
    """

    @property
    def name(self) -> str:
        """Short name for reports."""
        ...

    def trace(self, observations: Floats, resets: Flags, mode: Mode = "step") -> Run:
        """One controller through T steps, from reset.

        observations [T, n] float32; before step t the state is reset where resets [T] is true.
        Raises ToolError when the program faults or does not end.
        """
        ...


@runtime_checkable
class BatchRunner(Runner, Protocol):
    """A runner that also holds many independent controllers, which closed loops need."""

    def reset_states(self, count: int) -> Bytes:
        """States [count, state_bytes] of freshly reset controllers."""
        ...

    def many(self, states: Bytes, observations: Floats, mode: Mode = "step") -> Run:
        """One step of each of N controllers.

        states [N, state_bytes] before the step, observations [N, n]; the run's rows are the
        controllers and its `states` those after the step. Raises as `trace`.
        """
        ...


class EmulatedCore(Runner, Protocol):
    """A runner on which a program can be counted: an image on the emulated core of a target.

    Each raises ToolError when the program faults or does not end.
    """

    @property
    def image(self) -> Image:
        """What runs."""
        ...

    @property
    def target(self) -> Target:
        """What it runs on."""
        ...

    def run_main(self, requests: bytes) -> bytes:
        """Run the image's own main loop, from reset, on `requests`; the replies."""
        ...

    def paths(self, observations: Floats, mode: Mode) -> Iterator[Path]:
        """The path of each call of `NAME_evaluate` or `NAME_step` on observations [T, n], from
        reset: from the function's entry up to and with its return."""
        ...

    def stack_used(self, observations: Floats, mode: Mode = "step") -> int:
        """Most bytes of stack that one such call was seen to take: a lower bound of the worst,
        while the call graph gives the upper one."""
        ...
