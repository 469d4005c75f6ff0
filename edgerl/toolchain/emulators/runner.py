"""Runner: what host twin, emulated core and QEMU machine have in common."""

from typing import Protocol

from edgerl.toolchain.build.run import Bytes, Flags, Floats, Mode, Run


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
