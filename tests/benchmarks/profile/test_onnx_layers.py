"""ONNX Runtime's profile: layers, shapes and work of every run."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from frcnn.benchmarks.profile.onnx_profile import layers_of_events, profiled_session
from frcnn.errors import ArtifactError

MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
work (float[1,8,16,16] images) => (float[1,32] out)
{
  a = Conv<group = 2, pads = [1, 1, 1, 1], strides = [2, 2]>(images, w)
  b = ConvTranspose<strides = [2, 2]>(a, u)
  c = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
  d = Flatten(c)
  e = MatMul(d, m)
  out = Gemm<transB = 1>(e, n)
}
"""
WEIGHTS = {"w": (16, 4, 3, 3), "u": (16, 8, 2, 2), "m": (512, 32), "n": (32, 32)}
FEEDS = {"images": np.ones((1, 8, 16, 16), np.float32)}


@pytest.fixture
def model(tmp_path):
    made = onnx.parser.parse_model(MODEL)
    for name, shape in WEIGHTS.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    path = tmp_path / "work.onnx"
    onnx.save(made, path)
    return path


def test_work_of_each_operator_is_its_multiplications_and_additions(model):
    with profiled_session(model, threads=1, as_written=True) as session:
        session.run(FEEDS)
        (layers,) = session.finish()
    flops = {layer.op: layer.flops for layer in layers}
    assert flops == {
        "Conv": 2 * 16 * 8 * 8 * 4 * 9,  # each output sums up half the channels and nine places
        "ConvTranspose": 2 * 16 * 8 * 8 * 8 * 4,  # each input goes to all channels and four places
        "MaxPool": None,
        "Flatten": None,
        "MatMul": 2 * 512 * 32,
        "Gemm": 2 * 32 * 32,
    }
    conv = next(layer for layer in layers if layer.op == "Conv")
    assert conv.bytes == 4 * (8 * 16 * 16 + 16 * 4 * 3 * 3 + 16 * 8 * 8)  # the image, the weights, the output


def test_each_run_has_the_same_unique_layers(model):
    with profiled_session(model, threads=1) as session:
        for _ in range(3):
            session.run(FEEDS)
        runs = session.finish()
    assert len(runs) == 3
    assert [layer.name for layer in runs[0]] == [layer.name for layer in runs[2]]
    assert len({layer.name for layer in runs[0]}) == len(runs[0]) > 3
    assert all(layer.ms >= 0 for run in runs for layer in run)


def kernel(name, ts, dur, index=0, **more):
    return {"name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": "X", "node_index": index, **more}}


def test_events_are_sorted_into_runs_by_time_and_equal_names_are_numbered():
    events = [
        kernel("Cast", 130, 500, 2),
        {"name": "model_run", "ts": 200, "dur": 90},
        kernel("rpn/TopK", 200, 1000, 3),
        {"name": "session_initialization", "ts": 0, "dur": 9},
        kernel("Cast", 120, 250, 1),
        {"name": "model_run", "ts": 100, "dur": 90},
        kernel("rpn/TopK", 110, 2000, 3),
    ]
    first, second = layers_of_events(events)
    assert [(layer.name, layer.ms) for layer in first] == [("rpn/TopK", 2.0), ("Cast #1", 0.25), ("Cast #2", 0.5)]
    assert [layer.stage for layer in first] == ["proposals"] * 3
    assert [(layer.name, layer.ms) for layer in second] == [("rpn/TopK", 1.0)]


def test_unlisted_weights_leave_the_work_unknown():
    shapes = {"input_type_shape": [{"float": [1, 8, 4, 4]}], "output_type_shape": [{"float": [1, 8, 4, 4]}]}
    event = kernel("backbone/Conv", 2, 1, **shapes)
    event["args"]["op_name"] = "Conv"
    ((layer,),) = layers_of_events([{"name": "model_run", "ts": 1, "dur": 9}, event])
    assert layer.flops is None


@pytest.mark.parametrize("operator", ["FusedGemm", "QGemm"])
@pytest.mark.parametrize("left", [[4, 8], [8, 4]])
def test_the_work_of_gemm_counts_the_inner_length_transposed_or_not(left, operator):
    shapes = {"input_type_shape": [{"float": left}, {"float": [16, 8]}], "output_type_shape": [{"float": [4, 16]}]}
    event = kernel("Gemm", 2, 1, **shapes)
    event["args"]["op_name"] = operator
    ((layer,),) = layers_of_events([{"name": "model_run", "ts": 1, "dur": 9}, event])
    assert layer.flops == 2 * 4 * 16 * 8


def test_failures_of_onnx_runtime_are_one_line(model, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with (
        pytest.raises(ArtifactError, match=r"bad\.onnx: ONNX Runtime cannot load it: .*Protobuf") as raised,
        profiled_session(tmp_path / "bad.onnx", threads=1),
    ):
        pass
    assert "\n" not in raised.value.message
    wrong = {"images": np.ones((2, 8, 16, 16), np.float32)}
    with (
        profiled_session(model, threads=1) as session,
        pytest.raises(ArtifactError, match="failed on 2 image"),
    ):
        session.run(wrong)
