"""Walk: follow a call through the linked image until it returns or the data decide its way."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from edgerl.errors import ToolError
from edgerl.toolchain.build.disassembly import decoded
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.build.stack import code_spans
from edgerl.toolchain.certify.paths import riscv, thumb
from edgerl.toolchain.certify.paths.machine import HOME, STACK, Machine, Unshown
from edgerl.toolchain.certify.paths.model import Model, Step
from edgerl.toolchain.certify.paths.values import Pointer

_MODELS = {"arm": thumb.MODEL, "riscv": riscv.MODEL}
# Far beyond what a controller's step can take.
MOST_INSTRUCTIONS = 20_000_000


@dataclass(frozen=True)
class Walk:
    """A call as it was walked through.

    `instructions` are those it fetches, predicated ones included, `branches` those of them that
    decide where it goes on. Both are of every call where `unshown` is empty; else they end there,
    and `unshown` names the instruction, its address and function, and why. `functions` it has
    entered, by name.
    """

    root: str
    instructions: int
    branches: int
    functions: tuple[str, ...]
    unshown: str = ""

    @property
    def shown(self) -> bool:
        """Whether no data decide the way."""
        return not self.unshown


def walk(image: Image, root: str, visit: Callable[[Machine], None] | None = None) -> Walk:
    """Walk through a call of the function `root` with pointers to state, observation and action.

    `visit` is called before every instruction. Raises ToolError where the architecture's
    instructions are not modelled, or the image has no such function or bytes that are none.
    """
    model = _MODELS.get(image.architecture)
    if model is None:
        raise ToolError(f"instructions of {image.architecture} are not modelled")
    code = _Code(image, model)
    machine = Machine(image, [None] * model.registers, pc=image.address(root))
    machine.registers[model.stack] = Pointer(STACK)
    machine.registers[model.link] = HOME
    for register, place in zip(model.arguments, ("state", "observation", "action"), strict=False):
        machine.registers[register] = Pointer(place)
    for register, value in model.fixed.items():
        machine.registers[register] = value
    instructions = branches = 0
    unshown = ""
    while not machine.done and not unshown:
        here = machine.pc
        step = code.at(here)
        if visit is not None:
            visit(machine)
        machine.pc = here + step.size
        try:
            if instructions == MOST_INSTRUCTIONS:
                raise Unshown(f"no end after {instructions:,} instructions")
            step.act(machine)
        except Unshown as why:
            unshown = f"{step.text} at {here:#010x} ({image.place(here)}): {why}"
        instructions += 1
        branches += step.decides
    return Walk(root, instructions, branches, tuple(code.entered), unshown)


class _Code:
    """The image's instructions, each function decoded when it is entered."""

    def __init__(self, image: Image, model: Model) -> None:
        self._image, self._model = image, model
        self._steps: dict[int, Step] = {}
        self._starts = [f.address for f in image.functions]
        self.entered: list[str] = []

    def at(self, address: int) -> Step:
        """The instruction at an address."""
        if address not in self._steps:
            self._decode(address)
        return self._steps[address]

    def _decode(self, address: int) -> None:
        function = self._image.functions[bisect_right(self._starts, address) - 1]
        for start, stop in code_spans(self._image, function):
            code = self._image.read(start, stop - start)
            for raw in decoded(code, start, self._image.architecture):
                self._steps[raw.address] = self._model.step(raw)
        self.entered.append(function.name)
        if address not in self._steps:
            where = self._image.place(address)
            raise ToolError(f"no instruction at {address:#010x} ({where})")
