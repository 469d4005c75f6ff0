"""Torch's operators that move elements or make tensors: slices, shapes, joins, constants.

Moving elements is done by numpy on the *numbers* of the elements, as views of one storage;
no node is written before something computes with the result.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from edgerl.policies.importers.aten.elementwise import Operand, tensor
from edgerl.policies.importers.aten.symbolic import (
    LONGEST_ROW,
    Mismatch,
    Refused,
    Storage,
    Tensor,
    Tracer,
    common_shape,
    shown_part,
)

# torch.dtype by number (c10/core/ScalarType.h): whole numbers, floats, truth values, halves.
_WHOLE = (0, 1, 2, 3, 4)
_FLOATS = (6, 7)
_BOOL = 11


def _slice(
    t: Tracer, self: Tensor, dim: int = 0, start: int | None = None, end: int | None = None,
    step: int = 1,
) -> Tensor:  # fmt: skip
    if step < 1:
        raise Refused(f"has step {step}")
    cut = slice(start, end, step)
    return t.view(self, lambda k: k[_axis_key(k.ndim, dim, cut)])


def _axis_key(axes: int, dim: int, key: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * (dim % axes if -axes <= dim < axes else axes), key)


def _select(t: Tracer, self: Tensor, dim: int, index: int) -> Tensor:
    return t.view(self, lambda k: np.take(k, index, axis=dim))


def _narrow(t: Tracer, self: Tensor, dim: int, start: int, length: int) -> Tensor:
    return _slice(t, self, dim, start, start + length)


def _squeeze(t: Tracer, self: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    axes = range(len(self.shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    ones = tuple(axis for axis in axes if self.shape and self.shape[axis] == 1)
    return t.view(self, lambda k: np.squeeze(k, ones))


def reshaped(t: Tracer, self: Tensor, size: Sequence[int]) -> Tensor:
    """The same elements in another shape, one size of which may be -1."""
    sizes = [int(n) for n in size]
    others = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1 or any(n < -1 for n in sizes):
        raise Refused(f"asks for sizes {sizes}")
    if sizes.count(-1) == 1 and others and self.size % others == 0:
        sizes[sizes.index(-1)] = self.size // others
    elif self.size != others:
        why = f"puts {self.size} elements into sizes {sizes}"
        raise Mismatch(why, self.size, others)
    return t.view(self, lambda k: k.reshape(sizes))


def flat(t: Tracer, self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes start_dim to end_dim as one."""
    axes = max(len(self.shape), 1)
    shape = self.shape or (1,)
    start, end = start_dim % axes, end_dim % axes + 1
    return reshaped(t, self, [*shape[:start], math.prod(shape[start:end]), *shape[end:]])


def _unflatten(t: Tracer, self: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    dim %= len(self.shape)
    whole = list(sizes)
    if -1 in whole:
        others = math.prod(n for n in whole if n != -1)
        whole[whole.index(-1)] = self.shape[dim] // max(others, 1)
    if math.prod(whole) != self.shape[dim]:
        got, wanted = self.shape[dim], math.prod(whole)
        raise Mismatch(f"puts {got} elements into sizes {whole}", got, wanted)
    return reshaped(t, self, [*self.shape[:dim], *whole, *self.shape[dim + 1 :]])


def _expand(t: Tracer, self: Tensor, size: Sequence[int], implicit: bool = False) -> Tensor:
    lead = len(size) - len(self.shape)
    if lead < 0:
        raise Refused(f"asks for sizes {list(size)} of a tensor with {len(self.shape)} axes")
    old = (*[1] * lead, *self.shape)
    shape = tuple(o if n == -1 else int(n) for o, n in zip(old, size, strict=True))
    return t.broadcast(self, shape)


def _transpose(t: Tracer, self: Tensor, dim0: int, dim1: int) -> Tensor:
    return t.view(self, lambda k: np.swapaxes(k, dim0, dim1))


def _t(t: Tracer, self: Tensor) -> Tensor:
    if len(self.shape) > 2:
        raise Refused(f"gets a tensor of {len(self.shape)} axes")
    return t.view(self, np.transpose)


def _as_it_is(t: Tracer, self: Tensor, *_: object, **__: object) -> Tensor:
    return self


def _copy_of(t: Tracer, self: Tensor, *_: object, **__: object) -> Tensor:
    return t.copy(self)


def _dropout(t: Tracer, input: Tensor, p: float = 0.5, train: bool = False) -> Tensor:
    if train and p > 0:
        raise Refused("drops values out in training mode; call model.eval() before exporting")
    return input


def joined(t: Tracer, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after another along an axis."""
    t.spend(0, len(tensors))
    # An empty tensor of one axis joins with anything, as in torch.
    parts = [x for x in tensors if x.shape != (0,)]
    if not parts:
        raise Refused("joins nothing")
    t.check((sum(x.size for x in parts),))
    if all(x.known for x in parts):
        return t.constant(np.concatenate([x.values for x in parts], axis=dim))
    storage, numbers = _pooled(t, parts)
    for x in parts[1:]:
        for axis, (a, b) in enumerate(zip(parts[0].shape, x.shape, strict=True)):
            if a != b and axis != dim % len(x.shape):
                raise Mismatch(f"joins sizes {a} and {b}", a, b)
    index = np.concatenate(numbers, axis=dim)
    return shown_part(storage, index)


def _pooled(t: Tracer, parts: Sequence[Tensor]) -> tuple[Storage, list[Any]]:
    """One storage with all parts in a row, and the numbers of each part's elements there."""
    filled = [x for x in parts if x.size]
    row = t.graph.concat([t.row(x) for x in filled])
    total = sum(x.size for x in filled)
    t.check((total,), LONGEST_ROW)
    starts = np.cumsum([0, *(x.size for x in parts)])
    numbers = [
        np.arange(start, start + x.size).reshape(x.shape)
        for start, x in zip(starts[:-1], parts, strict=True)
    ]
    return Storage(row, total, "float"), numbers


def _stack(t: Tracer, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    t.spend(0, len(tensors))
    return joined(t, [t.view(x, lambda k: np.expand_dims(k, dim)) for x in tensors], dim)


def _split(t: Tracer, self: Tensor, split_size: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    whole = self.shape[dim]
    if isinstance(split_size, int):
        if split_size < 1:
            raise Refused(f"splits into parts of {split_size}")
        t.spend(0, whole // split_size)
        sizes = [min(split_size, whole - k) for k in range(0, whole, split_size)]
    else:
        sizes = [int(n) for n in split_size]
    if sum(sizes) != whole:
        raise Mismatch(f"splits {whole} into parts of {sizes}", whole, sum(sizes))
    t.spend(0, len(sizes))
    ends = np.cumsum([0, *sizes])
    return [_slice(t, self, dim, int(a), int(b)) for a, b in pairwise(ends)]


def _chunk(t: Tracer, self: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    if chunks < 1:
        raise Refused(f"asks for {chunks} parts")
    return _split(t, self, max(1, -(-self.shape[dim] // chunks)), dim)


def _unbind(t: Tracer, self: Tensor, dim: int = 0) -> list[Tensor]:
    t.spend(0, self.shape[dim])
    return [_select(t, self, dim, k) for k in range(self.shape[dim])]


def _index(t: Tracer, self: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    keys = tuple(slice(None) if k is None else k.values for k in indices)
    asked = common_shape(*(k.shape for k in indices if k is not None))
    rest = [n for axis, n in enumerate(self.shape) if axis >= len(keys) or indices[axis] is None]
    return t.view(self, lambda k: k[keys], math.prod((*asked, *rest)))


def _index_select(t: Tracer, self: Tensor, dim: int, index: Tensor) -> Tensor:
    picked = index.values
    size = self.size // max(self.shape[dim], 1) * picked.size
    return t.view(self, lambda k: np.take(k, picked, axis=dim), size)


def _repeat(t: Tracer, self: Tensor, repeats: Sequence[int]) -> Tensor:
    times = [int(n) for n in repeats]
    if min(times, default=1) < 0 or len(times) < len(self.shape):
        raise Refused(f"repeats {times} times")
    return t.view(self, lambda k: np.tile(k, times), self.size * math.prod(times))


def _roll(t: Tracer, self: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    axes = None if dims in ((), []) else tuple(np.atleast_1d(dims).tolist())
    by = np.atleast_1d(shifts).tolist()
    return t.view(self, lambda k: np.roll(k, by if axes else by[0], axes))


def _where(t: Tracer, condition: Tensor, self: Operand, other: Operand) -> Tensor:
    a, b = tensor(t, self), tensor(t, other)
    if not condition.known:
        raise Refused("chooses by a value that is only known at run time")
    shape = common_shape(condition.shape, a.shape, b.shape)
    a, b = t.broadcast(a, shape), t.broadcast(b, shape)
    chosen = np.broadcast_to(condition.values.astype(bool), shape)
    if a.known and b.known:
        return t.constant(np.where(chosen, a.values, b.values))
    storage, (first, second) = _pooled(t, (a, b))
    return shown_part(storage, np.where(chosen, first, second))


def _slice_scatter(
    t: Tracer, self: Tensor, src: Tensor, dim: int = 0, start: int | None = None,
    end: int | None = None, step: int = 1,
) -> Tensor:  # fmt: skip
    result = t.copy(self)
    t.write(_slice(t, result, dim, start, end, step), src)
    return result


def _select_scatter(t: Tracer, self: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    result = t.copy(self)
    t.write(_select(t, result, dim, index), src)
    return result


def cast(t: Tracer, self: Tensor, dtype: int | None) -> Tensor:
    """A tensor in another type, by torch's number of that type."""
    if dtype is None or (dtype in _FLOATS and self.kind == "float"):
        return self
    if dtype in _FLOATS:
        if self.known:
            return t.constant(self.values.astype(np.float32))
        return t.computed(t.row(self), self.shape)
    if dtype in _WHOLE and self.kind in ("int", "bool"):
        return t.constant(self.values.astype(np.int64)) if self.known else self
    if dtype in _WHOLE and self.known:
        return t.constant(self.values.astype(np.int64))
    if dtype == _BOOL and self.known:
        return t.constant(self.values.astype(bool))
    halves = {5: "float16", 15: "bfloat16"}
    raise Refused(
        f"converts to {halves[dtype]}; export the model in float32 (model.float())"
        if dtype in halves
        else "rounds or compares a value that is only known at run time"
    )


def _to(t: Tracer, self: Tensor, *arguments: object, **named: object) -> Tensor:
    given = [named.get("dtype"), *arguments]
    types = [a for a in given if isinstance(a, int) and not isinstance(a, bool)]
    return cast(t, self, types[0] if types else None)


def _full(t: Tracer, size: Sequence[int], fill_value: Operand, **_: object) -> Tensor:
    value = tensor(t, fill_value)
    shape = tuple(int(n) for n in size)
    t.check(shape)
    return t.copy(t.broadcast(value, shape))


def _filled(value: float) -> Callable[..., Tensor]:
    return lambda t, size, *_, **__: t.full([int(n) for n in size], value)


def _like(value: float) -> Callable[..., Tensor]:
    return lambda t, self, *_, **__: t.full(self.shape, value)


def _new(value: float) -> Callable[..., Tensor]:
    return lambda t, self, size, *_, **__: t.full([int(n) for n in size], value)


def _tensor(t: Tracer, data: Any, dtype: int | None = None, **_: object) -> Tensor:
    made = data if isinstance(data, Tensor) else t.constant(np.asarray(data))
    return t.copy(cast(t, made, dtype))


def _arange(t: Tracer, *bounds: float, **_: object) -> Tensor:
    numbers = [b for b in bounds if isinstance(b, int | float) and not isinstance(b, bool)]
    start, end, step = {1: (0, *numbers, 1), 2: (*numbers, 1)}.get(len(numbers), tuple(numbers[:3]))
    t.check((max(0, math.ceil((end - start) / step)),))
    return t.constant(np.arange(start, end, step))


def _identity(t: Tracer, n: int, m: int | None = None, *_: object, **__: object) -> Tensor:
    t.check((n, n if m is None else m))
    return t.constant(np.eye(n, m))


def _sizes(t: Tracer, self: Tensor, dim: int | None = None) -> int | list[int]:
    return list(self.shape) if dim is None else self.shape[dim]


def _item(t: Tracer, self: Tensor) -> float | int | bool:
    if self.size != 1:
        raise Refused(f"takes one number out of {self.size}")
    value: float | int | bool = self.values.reshape(-1)[0].item()
    return value


LAYOUT: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ["alias", "contiguous", "detach", "lift", "lift_fresh", "requires_grad", "set_data"],
        _as_it_is,
    ),
    **dict.fromkeys(["clone", "detach_copy", "lift_fresh_copy", "alias_copy"], _copy_of),
    **dict.fromkeys(["dropout", "feature_dropout", "alpha_dropout"], _dropout),
    **dict.fromkeys(["reshape", "view", "_unsafe_view", "_reshape_alias", "view_copy"], reshaped),
    "arange": _arange,
    "as_tensor": _tensor,
    "cat": joined,
    "chunk": _chunk,
    "concat": joined,
    "concatenate": joined,
    "copy": lambda t, self, src, non_blocking=False: t.copy(t.broadcast(src, self.shape)),
    "dim": lambda t, self: len(self.shape),
    "empty": _filled(0.0),
    "empty_like": _like(0.0),
    "expand": _expand,
    "expand_as": lambda t, self, other: t.broadcast(self, other.shape),
    "eye": _identity,
    "fill": lambda t, self, value: _full(t, self.shape, value),
    "flatten": flat,
    "flip": lambda t, self, dims: t.view(self, lambda k: np.flip(k, tuple(dims))),
    "float": lambda t, self: cast(t, self, 6),
    "full": _full,
    "full_like": lambda t, self, fill_value, **_: _full(t, self.shape, fill_value),
    "gather": lambda t, self, dim, index, sparse_grad=False: t.view(
        self, lambda k: np.take_along_axis(k, index.values, dim), index.size
    ),
    "index": _index,
    "index_select": _index_select,
    "item": _item,
    "len": lambda t, self: self.shape[0],
    "masked_fill": lambda t, self, mask, value: _where(t, mask, value, self),
    "movedim": lambda t, self, source, destination: t.view(
        self, lambda k: np.moveaxis(k, source, destination)
    ),
    "narrow": _narrow,
    "new_full": lambda t, self, size, fill_value, **_: _full(t, size, fill_value),
    "new_ones": _new(1.0),
    "new_zeros": _new(0.0),
    "numel": lambda t, self: self.size,
    "ones": _filled(1.0),
    "ones_like": _like(1.0),
    "permute": lambda t, self, dims: t.view(self, lambda k: np.transpose(k, tuple(dims))),
    "repeat": _repeat,
    "reshape_as": lambda t, self, other: reshaped(t, self, other.shape),
    "roll": _roll,
    "scalar_tensor": _tensor,
    "select": _select,
    "select_scatter": _select_scatter,
    "size": _sizes,
    "slice": _slice,
    "slice_scatter": _slice_scatter,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "swapaxes": _transpose,
    "sym_size": _sizes,
    "t": _t,
    "tensor": _tensor,
    "to": _to,
    "_to_copy": _to,
    "transpose": _transpose,
    "unsafe_chunk": _chunk,
    "unsafe_split": _split,
    "unsafe_split_with_sizes": _split,
    "type_as": lambda t, self, other: self if other.kind == self.kind else cast(t, self, 6),
    "unbind": _unbind,
    "unflatten": _unflatten,
    "unsqueeze": lambda t, self, dim: t.view(self, lambda k: np.expand_dims(k, dim)),
    "view_as": lambda t, self, other: reshaped(t, self, other.shape),
    "where": _where,
    "zero": _like(0.0),
    "zeros": _filled(0.0),
    "zeros_like": _like(0.0),
}
