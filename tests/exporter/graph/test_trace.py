"""Tracing: decompositions are left out where they change nothing, and nothing else changes by that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import onnx
import pytest
import torch
from support.exports import bare_session
from support.families import build
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from frcnn.exporter.graph import export, trace
from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.exporter.model.spec_from_model import read_model_spec


class Layers(nn.Module):
    """Two layers and a function of them and images."""

    def __init__(self, function: Callable[[Layers, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear, self.function = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(6, 5), function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self, images)


def exported(network: nn.Module) -> onnx.ModelProto:
    h, w = Dim("h", min=1), Dim("w", min=1)
    images = torch.zeros(2, 3, 64, 96, dtype=next(network.parameters()).dtype)
    return trace._trace(network.eval(), "images", images, {0: Dim("n", min=1), 2: 32 * h, 3: 32 * w}, ["out"], 20)


@pytest.fixture
def decomposed(monkeypatch) -> list[ExportedProgram]:
    """The programs that are decomposed."""
    programs: list[ExportedProgram] = []
    decompose = ExportedProgram.run_decompositions

    def record(program: ExportedProgram, *args: Any, **options: Any) -> ExportedProgram:
        programs.append(program)
        return decompose(program, *args, **options)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", record)
    return programs


def nodes(model: onnx.ModelProto) -> list[Any]:
    """Return operators, attributes and values: constants by their bytes, others numbered."""
    numbers: dict[str, Any] = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}

    def number(names: Iterable[str]) -> list[Any]:
        return [numbers.setdefault(name, len(numbers)) for name in names]

    return [(node.op_type, number(node.input), number(node.output), [*node.attribute]) for node in model.graph.node]


def every_plain_operator(layers: Layers, x: Tensor) -> Tensor:
    x = layers.conv(x)
    for inplace in (False, True):
        x = F.relu(layers.conv(x), inplace=inplace)
        for activation in (F.relu6, F.leaky_relu, F.hardtanh, F.hardswish, F.hardsigmoid, F.silu, F.elu, F.mish):
            x = activation(2 * x, inplace=inplace)  # type: ignore[operator]
    x = F.gelu(x) - x.sigmoid() / torch.tanh(x)
    x += x.sigmoid_()
    x = F.avg_pool2d(F.max_pool2d(x, 3, 1, 1), 2)
    x = torch.cat([x, x * F.adaptive_avg_pool2d(x, 1)], dim=1)
    x = F.interpolate(x, scale_factor=2.0) + F.interpolate(x, size=(64, 32), mode="bilinear").mean([2, 3], keepdim=True)
    y: Tensor = layers.linear(x.mean([2, 3]))
    return y


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_plain_operators_become_the_same_nodes_with_and_without_decompositions(dtype, decomposed, monkeypatch):
    network = Layers(every_plain_operator).to(dtype)
    without = exported(network)
    assert not decomposed
    monkeypatch.setattr(trace, "_capture", lambda network, given, dims: network)
    assert nodes(without) == nodes(exported(network))
    assert decomposed


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet50_fpn_v2", "mobilenet_v3_large_fpn", "vgg16"])
def test_convolutional_backbones_are_not_decomposed(family, decomposed):
    model = build(family).eval()
    spec = read_model_spec(model)
    steps: list[str] = []
    trace.trace_networks(DeployableFasterRCNN(model, spec), spec, "fp32", None, steps.append)
    assert steps == ["tracing the backbone network", "tracing the box head"]
    assert [program.graph_signature.user_outputs[0] for program in decomposed] in ([], ["linear_2"], ["linear_1"])


def read_before_and_after(layers: Layers, x: Tensor) -> Tensor:
    y = layers.conv(x)
    before = y * 2
    y.relu_()  # what it returns is not used
    return before + y


def overwritten_through_a_view(layers: Layers, x: Tensor) -> Tensor:
    y = layers.conv(x)
    y[:, :1].relu_()
    return y * 2


def overwritten_under_a_view(layers: Layers, x: Tensor) -> Tensor:
    y = layers.conv(x)
    view = y[:, 1:]
    y.relu_()
    return y + view.sum(1, keepdim=True)


def overwritten_through_dropout(layers: Layers, x: Tensor) -> Tensor:
    y = layers.conv(x)
    F.dropout(y, training=False).relu_()
    return y * 2


def overwritten_in_a_narrower_type(layers: Layers, x: Tensor) -> Tensor:
    y = layers.conv(x).half()
    y += x  # float32
    return y


def pooled_to_more_than_one_cell(layers: Layers, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(layers.conv(x), (1, 1)) + F.adaptive_avg_pool2d(x[..., :32, :32], (2, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        read_before_and_after,
        overwritten_through_a_view,
        overwritten_under_a_view,
        overwritten_through_dropout,
        overwritten_in_a_narrower_type,
        pooled_to_more_than_one_cell,
    ],
)
def test_what_is_overwritten_is_as_pytorch_computes_it(function):
    network = Layers(function)
    session = bare_session(exported(network).SerializeToString())
    images = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {"images": images.numpy()})
    expected = network(images.clone())
    assert torch.from_numpy(found).dtype == expected.dtype
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_the_users_threads_are_as_before(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(export, "trace_networks", lambda *args: seen.append(torch.get_num_threads()) or 1 / 0)
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        export.export_onnx(build("vgg16"), tmp_path / "model.onnx")
    assert (seen, torch.get_num_threads()) == ([1], before)
