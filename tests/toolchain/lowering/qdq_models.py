"""Policies as ONNX models, float and quantised by onnxruntime and NNCF."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from edgerl.policies import Policy
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.onnx_file import parse

Singles = npt.NDArray[np.float32]

OBSERVATION, HIDDEN, ACTION = 9, 16, 3


def policy_of(model: onnx.ModelProto) -> Policy:
    return parse(model.SerializeToString(), "given.onnx")


def observations(count: int, seed: int = 0) -> Singles:
    return np.random.default_rng(seed).standard_normal((count, OBSERVATION)).astype(np.float32)


def feed_forward(seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    build = GraphBuilder()
    x = build.input("observation", OBSERVATION)
    for rows, columns, kind in (
        (HIDDEN, OBSERVATION, "relu"),
        (HIDDEN, HIDDEN, "tanh"),
        (ACTION, HIDDEN, "linear"),
    ):
        weight = rng.normal(scale=columns**-0.5, size=(rows, columns)).astype(np.float32)
        bias = rng.normal(scale=0.2, size=rows).astype(np.float32)
        x = build.activation(build.dense(x, weight, bias), kind)
    build.output(x, "action", ACTION)
    return build.finished()


def written_out_gru(seed: int = 0) -> onnx.ModelProto:
    """A GRU in primitives, as exporters of cells write it, and a layer after it."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder()
    x, h = build.input("observation", OBSERVATION), build.input("h", HIDDEN)

    def dense(of: str, rows: int, columns: int) -> str:
        weight = rng.normal(scale=columns**-0.5, size=(rows, columns)).astype(np.float32)
        return build.dense(of, weight, rng.normal(scale=0.2, size=rows).astype(np.float32))

    of_x, of_h = dense(x, 3 * HIDDEN, OBSERVATION), dense(h, 3 * HIDDEN, HIDDEN)
    parts = [[build.cut(v, k * HIDDEN, (k + 1) * HIDDEN) for k in range(3)] for v in (of_x, of_h)]
    (x_r, x_z, x_n), (h_r, h_z, h_n) = parts
    r = build.activation(build.add("Add", [x_r, h_r]), "sigmoid")
    z = build.activation(build.add("Add", [x_z, h_z]), "sigmoid")
    n = build.activation(build.add("Add", [x_n, build.add("Mul", [r, h_n])]), "tanh")
    after = build.add("Add", [n, build.add("Mul", [z, build.add("Sub", [h, n])])])
    build.output(dense(after, ACTION, HIDDEN), "action", ACTION)
    build.output(after, "h_next", HIDDEN)
    return build.finished()


class _Reader(CalibrationDataReader):
    def __init__(self, model: onnx.ModelProto, count: int = 80) -> None:
        rng = np.random.default_rng(7)
        sizes = {i.name: i.type.tensor_type.shape.dim[1].dim_value for i in model.graph.input}
        self._rows: Iterator[dict[str, Singles]] = iter(
            {
                name: np.tanh(v) if name == "h" else v
                for name, n in sizes.items()
                for v in (rng.standard_normal((1, n)).astype(np.float32),)
            }
            for _ in range(count)
        )

    def get_next(self) -> dict[str, Singles] | None:
        return next(self._rows, None)


def by_onnxruntime(
    model: onnx.ModelProto,
    folder: str,
    weights: QuantType = QuantType.QInt8,
    activations: QuantType = QuantType.QInt8,
    per_channel: bool = True,
    symmetric: bool = False,
    quantised_format: QuantFormat = QuantFormat.QDQ,
) -> onnx.ModelProto:
    onnx.save(model, f"{folder}/plain.onnx")
    quantize_static(
        f"{folder}/plain.onnx",
        f"{folder}/quantised.onnx",
        _Reader(model),
        quant_format=quantised_format,
        per_channel=per_channel,
        weight_type=weights,
        activation_type=activations,
        extra_options={"ActivationSymmetric": symmetric},
    )
    return onnx.load(f"{folder}/quantised.onnx")


def run(model: onnx.ModelProto, rows: Singles) -> Singles:
    """Actions of a feed-forward model, operator by operator: onnxruntime's fused int8 kernels
    saturate on some processors."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"observation": row[None]})[0] for row in rows])
