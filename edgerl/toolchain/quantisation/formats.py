"""Formats: the number format of a program, and where a layer has one of its own.

`w16a16`, `w8a16` and `w4a16` are one arithmetic and differ in what weights take in flash, so each
layer can have its own of them; `w8a8` and `w32a32` are arithmetics of their own. A format is a
word, or a mapping such as a policy's metadata carries: {"default": "w8a16", "h_next": "w4a16"}
names, by the tensor that it writes, a layer that departs from the default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgerl.errors import UserError, suggestion
from edgerl.toolchain.ir import Dense, Gru, Lstm, Operation, Program, writes
from edgerl.toolchain.quantisation.program import Stored

DEFAULT = "default"
# Bits of a weight in the formats that share the arithmetic of int16 activations.
WEIGHT_BITS: Mapping[str, Stored] = {"w16a16": 16, "w8a16": 8, "w4a16": 4}
_STORED: Mapping[str, Stored] = {**WEIGHT_BITS, "w8a8": 8, "w32a32": 32}
NUMBER_FORMATS = (*WEIGHT_BITS, "w8a8", "w32a32")


@dataclass(frozen=True)
class NumberFormat:
    """The format of every layer of a program: `default`, but for the layers that `tensors` names
    by the tensor that they write."""

    default: str
    tensors: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        apart = ", ".join(f"{tensor} {own}" for tensor, own in self.tensors.items())
        return f"{self.default} ({apart})" if apart else self.default

    def stored(self, program: Program) -> dict[str, Stored]:
        """The bits of a weight in flash, by the first tensor that each layer writes.

        By default w8a16 keeps the layer that stands first and the one that stands last at 16
        bits: a fifth of the weights as a rule, and most of the error. Where that would be every
        layer there is, only the last of two is kept.
        """
        names = [writes(op)[0] for op in program.operations if is_layer(op)]
        bits = dict.fromkeys(names, _STORED[self.default])
        if self.default == "w8a16":
            kept = [names[0], names[-1]] if len(names) > 2 else names[1:]
            bits.update(dict.fromkeys(kept, WEIGHT_BITS["w16a16"]))
        return bits | {name: WEIGHT_BITS[own] for name, own in self.tensors.items()}


def is_layer(operation: Operation) -> bool:
    """Whether an operation has weights."""
    return isinstance(operation, Dense | Gru | Lstm)


def number_format_of(
    given: str | Mapping[str, str] | NumberFormat, program: Program
) -> NumberFormat:
    """The format that a word or a policy's metadata names, for this program.

    Raises UserError, in one line that names it, for a format or tensor that there is not, and for
    a layer whose format is of another arithmetic than the default.
    """
    match given:
        case NumberFormat():
            entries = {DEFAULT: given.default, **given.tensors}
        case str():
            entries = {DEFAULT: given}
        case _:
            entries = {DEFAULT: "w16a16", **given}
    for where, name in entries.items():
        if name not in NUMBER_FORMATS:
            raise UserError(
                f"{_place(where)}number format {name[:60]!r} is unknown to the quantiser; "
                f"{suggestion(name, NUMBER_FORMATS)}"
            )
    default = entries.pop(DEFAULT)
    layers = {writes(op)[0]: op for op in program.operations if is_layer(op)}
    for tensor, name in entries.items():
        if tensor not in layers:
            raise UserError(
                f"number formats: {tensor[:60]!r} is no tensor that a layer writes; "
                f"{suggestion(tensor, tuple(layers))}"
            )
        if not {default, name} <= set(WEIGHT_BITS):
            raise UserError(
                f"number formats: {tensor} cannot be {name} in a program that is {default}; "
                f"formats that mix: {', '.join(WEIGHT_BITS)}"
            )
    return NumberFormat(default, entries)


def _place(where: str) -> str:
    return "" if where == DEFAULT else f"tensor {where[:60]!r}: "
