"""A policy's graph, written layer by layer: what importers build ONNX with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerl.errors import UserError

OPSET = 20
IR_VERSION = 9

Array = npt.NDArray[np.float32]

# Activations by the name that frameworks and layer lists use: operator and attributes.
ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "elu": ("Elu", {}),
    "selu": ("Selu", {}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "softplus": ("Softplus", {}),
    "mish": ("Mish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1.0 / 6.0, "beta": 0.5}),
    "hard_swish": ("HardSwish", {}),
    "softsign": ("Softsign", {}),
}


class GraphBuilder:
    """An ONNX graph in the making; every method adds a layer and returns its output's name.

    Tensors are [1, n], as in any policy. Weights are float32; `finished` gives the model with
    inputs and outputs in the order in which they were declared. `prefix` leads every name that
    is made here, for graphs that become part of another.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, size: int) -> str:
        """An input [1, size]: the observation first, then states."""
        self._inputs.append(_port(name, size))
        return name

    def output(self, x: str, name: str, size: int) -> None:
        """Tensor `x` [1, size] leaves as `name`: the action first, then next states."""
        self.add("Identity", [x], name=name)
        self._outputs.append(_port(name, size))

    def add(
        self, operator: str, inputs: Sequence[str], *, name: str = "", **attributes: Any
    ) -> str:
        """One node with one output, called `name` or after its operator."""
        return self.add_many(operator, inputs, [name or self._fresh(operator)], **attributes)[0]

    def add_many(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """One node with given outputs ("" for one that nobody reads); returns their names."""
        title = next(name for name in outputs if name)
        self._nodes.append(
            helper.make_node(operator, list(inputs), list(outputs), name=title, **attributes)
        )
        return list(outputs)

    def constant(self, values: npt.ArrayLike, name: str = "") -> str:
        """A float32 constant."""
        return self._constant(np.asarray(values, dtype=np.float32), name)

    def integers(self, values: Sequence[int]) -> str:
        """An int64 constant [len(values)]: axes, sizes, bounds of slices."""
        return self._constant(np.asarray(values, dtype=np.int64), "")

    def dense(self, x: str, weight: Array, bias: Array | None = None, name: str = "") -> str:
        """y = x @ weight.T + bias, weight [out, in] as torch has it, bias [out]."""
        operands = [x, self.constant(weight)]
        if bias is not None:
            operands.append(self.constant(bias.reshape(-1)))
        return self.add("Gemm", operands, name=name, transB=1)

    def activation(self, x: str, kind: str) -> str:
        """An activation of `ACTIVATIONS`, "silu", or "linear". UserError naming an unknown one."""
        if kind in ("linear", "identity"):
            return x
        if kind in ("silu", "swish"):
            return self.add("Mul", [x, self.add("Sigmoid", [x])])
        if kind not in ACTIVATIONS:
            known = ", ".join(sorted([*ACTIVATIONS, "silu", "linear"]))
            raise UserError(f"unknown activation {kind[:40]!r}; known: {known}")
        operator, attributes = ACTIVATIONS[kind]
        return self.add(operator, [x], **attributes)

    def layer_norm(self, x: str, scale: Array, bias: Array, epsilon: float) -> str:
        """Normalisation over the whole vector, then scale and bias, both [n]."""
        operands = [x, self.constant(scale.reshape(-1)), self.constant(bias.reshape(-1))]
        return self.add("LayerNormalization", operands, axis=-1, epsilon=epsilon)

    def affine(self, x: str, scale: npt.ArrayLike, offset: npt.ArrayLike) -> str:
        """y = x * scale + offset, element by element, scale and offset [n]."""
        return self.add("Add", [self.add("Mul", [x, self.constant(scale)]), self.constant(offset)])

    def clip(self, x: str, low: npt.ArrayLike, high: npt.ArrayLike) -> str:
        """y = min(max(x, low), high); low and high are numbers or [n]."""
        above = self.add("Max", [x, self.constant(low)])
        return self.add("Min", [above, self.constant(high)])

    def concat(self, parts: Sequence[str]) -> str:
        """The parts one after another."""
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=1)

    def cut(self, x: str, start: int, stop: int) -> str:
        """Elements [start, stop) of a vector."""
        bounds = [self.integers([k]) for k in (start, stop, 1)]
        return self.add("Slice", [x, *bounds])

    def argmax(self, x: str) -> str:
        """Index of the largest element (the first of equals), as a float [1, 1]."""
        index = self.add("ArgMax", [x], axis=1, keepdims=1)
        return self.add("Cast", [index], to=TensorProto.FLOAT)

    def gru(
        self, x: str, h: str, w_input: Array, w_hidden: Array, b_input: Array, b_hidden: Array
    ) -> str:
        """One step of a GRU as torch defines it, gate rows r, z, n; returns h' [1, H].

        w_input [3H, X], w_hidden [3H, H], biases [3H]; the reset gate is applied after the
        hidden product.
        """

        def update_first(rows: Array) -> Array:
            r, z, n = np.split(rows, 3)
            return np.concatenate([z, r, n])

        biases = np.concatenate([update_first(b_input), update_first(b_hidden)])
        operands = [
            self._sequence(x),
            self.constant(update_first(w_input)[np.newaxis]),
            self.constant(update_first(w_hidden)[np.newaxis]),
            self.constant(biases[np.newaxis]),
            "",
            self._sequence(h),
        ]
        size = w_hidden.shape[1]
        _, last = self.add_many(
            "GRU", operands, ["", self._fresh("GRU")], hidden_size=size, linear_before_reset=1
        )
        return self._flat(last)

    def lstm(
        self, x: str, h: str, c: str, w_input: Array, w_hidden: Array, b_input: Array,
        b_hidden: Array,
    ) -> tuple[str, str]:  # fmt: skip
        """One step of an LSTM as torch defines it, gate rows i, f, g, o; returns h', c' [1, H].

        w_input [4H, X], w_hidden [4H, H], biases [4H].
        """

        def onnx_order(rows: Array) -> Array:
            i, f, g, o = np.split(rows, 4)
            return np.concatenate([i, o, f, g])

        biases = np.concatenate([onnx_order(b_input), onnx_order(b_hidden)])
        operands = [
            self._sequence(x),
            self.constant(onnx_order(w_input)[np.newaxis]),
            self.constant(onnx_order(w_hidden)[np.newaxis]),
            self.constant(biases[np.newaxis]),
            "",
            self._sequence(h),
            self._sequence(c),
        ]
        outputs = ["", self._fresh("LSTM_h"), self._fresh("LSTM_c")]
        self.add_many("LSTM", operands, outputs, hidden_size=w_hidden.shape[1])
        return self._flat(outputs[1]), self._flat(outputs[2])

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes so far, in order."""
        return tuple(self._nodes)

    @property
    def weights(self) -> tuple[onnx.TensorProto, ...]:
        """The constants so far."""
        return tuple(self._weights.values())

    def include(self, model: onnx.ModelProto, inputs: Sequence[str]) -> list[str]:
        """All of another model of the same opset, `inputs` in the place of its own; returns the
        names of its outputs."""
        part = self._fresh("part")
        names = {"": ""}
        names |= {port.name: x for port, x in zip(model.graph.input, inputs, strict=True)}

        def new(name: str) -> str:
            return names.setdefault(name, f"{part}_{name}")

        for tensor in model.graph.initializer:
            kept = onnx.TensorProto()
            kept.CopyFrom(tensor)
            kept.name = new(tensor.name)
            self._weights[kept.name] = kept
        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(map(new, node.input))
            copy.output.extend(map(new, node.output))
            copy.name = f"{part}_{node.name}"
            self._nodes.append(copy)
        return [new(port.name) for port in model.graph.output]

    def finished(self) -> onnx.ModelProto:
        """The model."""
        graph = helper.make_graph(
            self._nodes, "step", self._inputs, self._outputs, list(self._weights.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="edgerl",
        )

    def _sequence(self, x: str) -> str:
        """[1, n] as a sequence of one step [1, 1, n]."""
        return self.add("Unsqueeze", [x, self.integers([0])])

    def _flat(self, x: str) -> str:
        """[1, 1, n] as [1, n]."""
        return self.add("Squeeze", [x, self.integers([0])])

    def _constant(self, values: npt.NDArray[np.generic], name: str) -> str:
        name = name or self._fresh("constant")
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{self._prefix}{stem.lower()}_{self._count}"


def _port(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
