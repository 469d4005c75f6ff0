"""Stack use by painting: fill the free stack with a pattern, run, see how deep it was touched.

What was touched was used, so this is a lower bound of the worst stack; the call graph gives
the upper one.
"""

import numpy as np

from edgerl.errors import ToolError
from edgerl.toolchain.build.run import Floats, Mode, rows_of
from edgerl.toolchain.emulators.unicorn import UnicornCore

_PAINT = 0xA5


def painted_stack(core: UnicornCore, observations: Floats, mode: Mode = "step") -> int:
    """Most bytes of stack that one `NAME_evaluate` or `NAME_step` took on observations [T, n].

    Raises ToolError when the program faults or fills the whole stack area.
    """
    name = core.image.name
    free = core.stack_top - core.stack_limit
    state, obs, act = core.scratch(
        core.state_bytes, 4 * core.observation_size, 4 * core.action_size
    )
    core.call(f"{name}_reset", state)
    core.write(core.stack_limit, bytes([_PAINT]) * free)
    for row in rows_of(observations, core.observation_size):
        core.write(obs, row.tobytes())
        core.call(f"{name}_{mode}", state, obs, act)
    area = np.frombuffer(core.read(core.stack_limit, free), np.uint8)
    touched = np.flatnonzero(area != _PAINT)
    used = free - int(touched[0]) if touched.size else 0
    if used == free:
        raise ToolError(f"{core.name}: {name}_{mode} overflows the {free:,} B of stack")
    return used
