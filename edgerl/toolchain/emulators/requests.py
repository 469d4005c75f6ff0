"""The rig's protocol: requests to the image's main loop and what comes back.

The words are those of `build/templates/edgerl-rig.c.j2`.
"""

import numpy as np

from edgerl.errors import ToolError
from edgerl.toolchain.build.run import Flags, Floats, Mode, Run, marks_of

_EXIT, _RESET, _SELF_TEST, _IDENTIFY = 0, 1, 4, 5
_COMMANDS: dict[Mode, int] = {"evaluate": 2, "step": 3}
BUILD_ID_BYTES = 32

# Exit codes of the image.
EXIT_CODES = {
    70: "a fault handler was reached",
    71: "rig-in or rig-out could not be opened",
    72: "a request was cut short or unknown",
    73: "a reply could not be written",
}


def trace_requests(observations: Floats, resets: Flags, mode: Mode) -> bytes:
    """Requests of a whole trace: observations [T, n], resets [T]; it ends with an exit."""
    marks_of(resets, len(observations))
    rows = np.ascontiguousarray(observations, "<f4").view("<u4")
    commands = np.full((len(rows), 1), _COMMANDS[mode], "<u4")
    words = np.concatenate([commands, rows], axis=1)
    before = np.flatnonzero(resets) * words.shape[1]
    return np.append(np.insert(words.ravel(), before, _RESET), _EXIT).astype("<u4").tobytes()


def trace_replies(replies: bytes, steps: int, action_size: int, mode: Mode) -> Run:
    """The run that `steps` requests brought back. Raises ToolError when some are missing."""
    status = int(mode == "step")
    width = status + action_size
    if len(replies) != 4 * steps * width:
        raise ToolError(
            f"the image answered {len(replies) // (4 * width)} of {steps} requests, then ended"
        )
    words = np.frombuffer(replies, "<u4").astype(np.uint32).reshape(steps, width)
    return Run(
        actions=np.ascontiguousarray(words[:, status:]).view(np.float32),
        status=words[:, 0].copy() if status else np.zeros(steps, np.uint32),
        states=None,
    )


def greeting_requests() -> bytes:
    """Requests for the build id and the self test, then exit."""
    return np.array([_IDENTIFY, _SELF_TEST, _EXIT], "<u4").tobytes()


def greeting_replies(replies: bytes) -> tuple[str, int]:
    """Build id in hexadecimal and self-test status. Raises ToolError when cut short."""
    if len(replies) != BUILD_ID_BYTES + 4:
        raise ToolError(f"the image answered {len(replies)} B where {BUILD_ID_BYTES + 4} are due")
    status = int.from_bytes(replies[BUILD_ID_BYTES:], "little")
    return replies[:BUILD_ID_BYTES].hex(), status
