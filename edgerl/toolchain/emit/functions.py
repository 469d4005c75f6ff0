"""Which small C functions a package needs: a compiler warns of those that nobody calls."""

from collections.abc import Iterable

from edgerl.toolchain.emit.plan import DenseStep, Plan, SparseStep, Step, VectorStep

# What each function calls, in an order in which C can define them. `curve_…` stands for one
# function a table.
_CALLS: dict[str, tuple[str, ...]] = {
    "bits_of": (),
    "bits_at": (),
    "float_of": (),
    "mac": (),
    "rectified": ("bits_of", "float_of"),
    "negative_part": ("bits_of", "float_of"),
    "negative_size": ("bits_of", "float_of"),
    "magnitude": ("bits_of", "float_of"),
    "order_of": (),
    "ordered": ("bits_of", "order_of"),
    "standing": ("bits_at",),
    "placed": ("float_of",),
    "lesser": (),
    "greater": (),
    "within": ("bits_at", "float_of", "lesser"),
    "between": ("bits_at", "order_of", "placed", "lesser", "greater"),
    "summed": ("bits_at",),
    "all_within": ("within", "bits_at", "greater"),
    "all_between": ("between", "bits_at", "bits_of", "greater"),
    "unit": ("between",),
    "exponential": ("bits_of", "float_of", "mac", "between"),
    "inverse_root": ("bits_of", "float_of"),
    "cubic": ("bits_of", "mac"),
    "curve_tanh": ("cubic",),
    "curve_phi": ("cubic",),
    "curve_mish": ("cubic",),
    "curve_elu": ("cubic",),
    "curve_softplus": ("cubic",),
}

_BY_OPERATION: dict[str, tuple[str, ...]] = {
    "tanh": ("curve_tanh",),
    "sigmoid": ("curve_tanh",),
    "silu": ("curve_tanh",),
    "gelu": ("curve_phi",),
    "mish": ("curve_mish",),
    "elu": ("rectified", "negative_part", "curve_elu"),
    "selu": ("rectified", "negative_part", "curve_elu"),
    "softplus": ("rectified", "negative_size", "curve_softplus"),
    "relu": ("rectified",),
    "leaky_relu": ("rectified", "negative_part"),
    "hard_sigmoid": ("unit",),
    "hard_swish": ("unit",),
    "softsign": ("magnitude",),
    "exp": ("exponential",),
    "abs": ("magnitude",),
    "min": ("ordered", "lesser", "placed"),
    "max": ("ordered", "greater", "placed"),
    "linear": ("mac",),
    "sparse": ("mac",),
    "block": ("mac",),
    "clip": ("ordered", "between"),
    "softmax": ("ordered", "greater", "placed", "exponential"),
    "argmax": ("standing",),
    "layer_norm": ("mac", "inverse_root"),
}


def common(p: Plan, *, api: Iterable[str]) -> set[str]:
    """The functions that vector steps need, and those named in `api`."""
    vector = [s for s in p.steps if isinstance(s, VectorStep)]
    # A linear step without terms is a constant.
    used = [s.operation for s in vector if s.inputs or s.operation != "linear"]
    used += [s.activation for s in vector if isinstance(s, SparseStep)]
    names = {name for operation in used for name in _BY_OPERATION.get(operation, ())}
    return closure(names | set(api))


def portable(p: Plan, *, guard: Iterable[str]) -> set[str]:
    """The functions that the portable matrix kernels need, and those named in `guard`."""
    matrix = [s for s in p.steps if not isinstance(s, VectorStep)]
    names = set(guard)
    if matrix:
        names.add("mac")
    if any(reads_tanh(s) for s in matrix):
        names.add("curve_tanh")
    if any(isinstance(s, DenseStep) and s.activation == "relu" for s in matrix):
        names.add("rectified")
    return closure(names)


def reads_tanh(step: Step) -> bool:
    """Whether a matrix step's tiles go through the tanh table."""
    if isinstance(step, DenseStep):
        return step.activation in ("tanh", "sigmoid")
    return not isinstance(step, VectorStep)


def in_order(names: Iterable[str]) -> list[str]:
    """The functions in an order in which each stands before its callers."""
    wanted = set(names)
    return [name for name in _CALLS if name in wanted]


def closure(names: set[str]) -> set[str]:
    """The functions and all that they call."""
    found: set[str] = set()
    while names:
        found |= names
        names = {callee for name in names for callee in _CALLS[name]} - found
    return found
