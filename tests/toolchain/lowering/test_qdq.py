"""Models that onnxruntime and NNCF quantised: read exactly, and kept by edgerl's integers."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType
from qdq_models import (
    HIDDEN,
    OBSERVATION,
    by_onnxruntime,
    feed_forward,
    observations,
    policy_of,
    run,
    written_out_gru,
)

from edgerl.errors import UserError
from edgerl.toolchain import interpreter, ir, quantisation
from edgerl.toolchain.emit.plan import plan
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.program import FixedDense

KINDS = {
    "per tensor, uint8": {"per_channel": False, "activations": QuantType.QUInt8},
    "per channel, int8": {},
    "symmetric": {"symmetric": True},
    "int16 activations": {"activations": QuantType.QInt16},
    "uint8 weights": {"weights": QuantType.QUInt8, "activations": QuantType.QUInt8},
    "int16 weights": {"weights": QuantType.QInt16, "activations": QuantType.QUInt16},
    "int4 weights": {"weights": QuantType.QInt4, "activations": QuantType.QInt16},
}


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    return feed_forward()


@pytest.fixture(scope="module")
def quantised(
    plain: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, onnx.ModelProto]:
    made = {
        name: by_onnxruntime(plain, str(tmp_path_factory.mktemp("qdq")), **options)
        for name, options in KINDS.items()
    }
    return made | {"nncf": by_nncf(plain)}


def by_nncf(model: onnx.ModelProto) -> onnx.ModelProto:
    import nncf

    rows = [{"observation": row[None]} for row in observations(200, 7)]
    return nncf.quantize(model, nncf.Dataset(rows), subset_size=200)


def root_mean_square(x: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


NAMES = [*KINDS, "nncf"]


@pytest.mark.parametrize("name", NAMES)
def test_the_program_is_the_graph(name: str, quantised: dict[str, onnx.ModelProto]) -> None:
    model, rows = quantised[name], observations(200, 1)
    program = lower(policy_of(model))
    assert any(isinstance(op, ir.FakeQuantise) for op in program.operations)
    ours, _ = interpreter.run(program, rows, (), np.float32)
    # Sums in another order round to another step now and then.
    apart = np.abs(ours - run(model, rows)).max(axis=1)
    assert np.quantile(apart, 0.9) <= 1e-6
    assert apart.max() <= 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_for_integers_nothing_is_rounded_but_weights(
    name: str, quantised: dict[str, onnx.ModelProto], plain: onnx.ModelProto
) -> None:
    program = lower(policy_of(quantised[name]), integers=True)
    layers = [(type(op), getattr(op, "activation", "")) for op in program.operations]
    assert layers == [(ir.Dense, "relu"), (ir.Dense, "tanh"), (ir.Dense, None)]
    rows = observations(200, 1)
    ours, _ = interpreter.run(program, rows, ())
    assert np.abs(ours - run(plain, rows)).max() <= (0.5 if "int4" in name else 0.03)


@pytest.mark.parametrize("name", NAMES)
def test_quantised_weights_are_parameters_too(
    name: str, quantised: dict[str, onnx.ModelProto], plain: onnx.ModelProto
) -> None:
    assert policy_of(quantised[name]).parameters == policy_of(plain).parameters


def test_ranges_and_scales_are_those_of_the_graph(quantised: dict[str, onnx.ModelProto]) -> None:
    model = quantised["per channel, int8"]
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    given = lower(policy_of(model), integers=True).given
    scale, zero = values["observation_scale"], int(values["observation_zero_point"])
    seen = given.ranges["observation"]
    assert seen.bits == 8
    assert np.allclose(seen.low, (-128 - zero) * scale, rtol=1e-6)
    assert np.allclose(seen.high, (127 - zero) * scale, rtol=1e-6)
    assert (given.ranges["relu_0"].low == 0.0).all()
    matrices = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    first = next(t for t in matrices if list(t.dims) == [HIDDEN, OBSERVATION])
    rows = given.rows["relu_0", "observation"]
    assert np.array_equal(rows.scale, values[first.name.replace("_quantized", "_scale")])
    assert rows.bits == 8


@pytest.mark.parametrize("number_format", ["w16a16", "w8a16", "w8a8"])
@pytest.mark.parametrize("name", NAMES)
def test_integers_err_no_more_than_the_graph_itself(
    name: str,
    number_format: str,
    quantised: dict[str, onnx.ModelProto],
    plain: onnx.ModelProto,
) -> None:
    if number_format == "w8a8" and "16" in name + str(KINDS.get(name)):
        pytest.skip("8-bit activations do not hold what 16 bits do")
    policy, rows = policy_of(quantised[name]), observations(400, 2)
    fixed = quantisation.quantise(
        lower(policy, integers=True), observations(500, 3), number_format, spec=policy.spec
    )
    ours, _ = quantisation.run(fixed, rows, ())
    wanted = run(plain, rows)
    theirs = run(quantised[name], rows) - wanted
    # Where the error is all of the weights, ours is theirs but for our own rounding.
    assert root_mean_square(ours - wanted) <= 1.01 * root_mean_square(theirs)
    assert np.abs(ours - wanted).max() <= 1.01 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["per tensor, uint8", "per channel, int8", "symmetric", "nncf"])
def test_8_bit_weights_stay_the_same_integers(
    name: str, quantised: dict[str, onnx.ModelProto]
) -> None:
    policy = policy_of(quantised[name])
    theirs = [
        numpy_helper.to_array(t)
        for t in policy.graph.graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) == 2
    ]
    fixed = quantisation.quantise(
        lower(policy, integers=True), observations(500, 3), "w8a8", spec=policy.spec
    )
    ours = [op.rows.products[0].weights for op in fixed.operations if isinstance(op, FixedDense)]
    assert len(ours) == len(theirs) == 3
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_gru_that_was_written_out_is_found(tmp_path: Path) -> None:
    model = by_onnxruntime(written_out_gru(), str(tmp_path), activations=QuantType.QInt16)
    policy = policy_of(model)
    program = lower(policy, integers=True)
    (gru,) = [op for op in program.operations if isinstance(op, ir.Gru)]
    assert {(gru.h_next, gru.x), (gru.h_next, gru.h)} <= program.given.rows.keys()
    calibration = observations(400, 4).reshape(40, 10, OBSERVATION)
    fixed = quantisation.quantise(program, calibration, "w16a16", spec=policy.spec)
    ours, theirs = quantisation.reset(fixed, (10,)), interpreter.reset(program, (10,))
    for row in calibration:
        action, ours = quantisation.run(fixed, row, ours)
        wanted, theirs = interpreter.run(program, row, theirs)
        assert np.abs(action - wanted).max() <= 0.03


def test_constants_may_be_quantised_in_the_graph() -> None:
    weight = np.array([[0.5, -1.26, 0.1], [2.0, 0.26, -3.0]], np.float32)
    model = by_hand(
        [
            helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=-2),
            helper.make_node("Gemm", ["observation", "d"], ["action"], transB=1),
        ],
        w=weight,
        s=np.array([0.5, 1.0], np.float32),
        z=np.array([0, 0], np.int8),
    )
    (dense,) = lower(policy_of(model)).operations
    assert isinstance(dense, ir.Dense)
    # To the nearest, ties to even.
    assert np.array_equal(dense.sources[0][1], [[0.5, -1.5, 0.0], [2.0, 0.0, -3.0]])


def by_hand(nodes: list[onnx.NodeProto], **constants: npt.NDArray[np.generic]) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("observation", 3), ("action", 2))
    ]
    graph = helper.make_graph(nodes, "step", ports[:1], ports[1:], weights)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_f32_refuses_what_it_would_not_round(quantised: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(UserError, match=r"given: it was quantised elsewhere.* format, such as w8"):
        plan(lower(policy_of(quantised["nncf"])))


@pytest.mark.parametrize(
    ("second_scale", "scale", "message"),
    [
        (0.25, 0.5, r"tensor 'd'\): does not undo the QuantizeLinear before it"),
        (0.5, 0.0, r"tensor 'q'\): scale 's' is not positive"),
    ],
)
def test_pairs_that_are_none_are_refused(second_scale: float, scale: float, message: str) -> None:
    model = by_hand(
        [
            helper.make_node("QuantizeLinear", ["observation", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "t", "z"], ["d"]),
            helper.make_node("Gemm", ["d", "w"], ["action"], transB=1),
        ],
        w=np.ones((2, 3), np.float32),
        s=np.array(scale, np.float32),
        t=np.array(second_scale, np.float32),
        z=np.array(0, np.int8),
    )
    with pytest.raises(UserError, match=message):
        lower(policy_of(model))


def test_a_scale_for_each_channel_of_an_activation_is_refused() -> None:
    model = by_hand(
        [
            helper.make_node("QuantizeLinear", ["observation", "s", "z"], ["q"], axis=1),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
            helper.make_node("Gemm", ["d", "w"], ["action"], transB=1),
        ],
        w=np.ones((2, 3), np.float32),
        s=np.ones(3, np.float32),
        z=np.zeros(3, np.int8),
    )
    with pytest.raises(UserError, match="a scale for each channel of a run-time tensor"):
        lower(policy_of(model))


def test_other_quantised_formats_are_refused(plain: onnx.ModelProto, tmp_path: Path) -> None:
    model = by_onnxruntime(written_out_gru(), str(tmp_path), quantised_format=QuantFormat.QOperator)
    with pytest.raises(UserError, match=r"QDQ format|not ONNX's own"):
        lower(policy_of(model))
