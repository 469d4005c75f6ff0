"""Support: what has no integer form, refused by name before anything is calibrated."""

from edgerl.errors import UserError
from edgerl.toolchain.ir import (
    Activate,
    Binary,
    Gather,
    Gru,
    LayerNorm,
    Lstm,
    Operation,
    Program,
    Softmax,
    writes,
)
from edgerl.toolchain.quantisation.arithmetic import Width

# An argument of so many bits would need a table of its own kind, and a product 64 bits.
_WIDEST = 16


def require_supported(program: Program, width: Width) -> None:
    """UserError, naming the tensor and the operator, where a rewritten program (`rewriting.py`)
    has something that integers of `width` bits have no form for."""
    after = {name for _, name in program.states}
    for operation in program.operations:
        name = ", ".join(writes(operation))
        what = _unsupported(operation, program, width)
        if what:
            raise UserError(f"{name}: {what} has no integer form; {_way_out(operation, width)}")
        if not isinstance(operation, Gather | Gru | Lstm) and after.intersection(writes(operation)):
            kind = type(operation).__name__
            raise UserError(
                f"{name}: {kind} that writes a recurrent state has no integer form; compile this "
                "policy with format f32, or train it with a GRU or LSTM"
            )


def _unsupported(operation: Operation, program: Program, width: Width) -> str:
    """What it is that has no integer form; nothing where it has one."""
    states = set(program.states)
    match operation:
        case Softmax() | LayerNorm():
            return type(operation).__name__
        case Activate(activation=activation) if width > _WIDEST:
            return f"activation {activation} of {width} bits"
        case Binary() if width > _WIDEST:
            return f"a product of vectors of {width} bits"
        case Gru(h=h, h_next=h_next) if (h, h_next) not in states:
            return "Gru on a state that is not the program's"
        case Lstm(h=h, c=c, h_next=h_next, c_next=c_next) if (
            not {
                (h, h_next),
                (c, c_next),
            }
            <= states
        ):
            return "Lstm on a state that is not the program's"
    return ""


def _way_out(operation: Operation, width: Width) -> str:
    if isinstance(operation, Activate | Binary):
        return "compile this policy with format w16a16 or f32"
    return "compile this policy with format f32"
