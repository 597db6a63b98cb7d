"""Quantise the networks of a ``model.onnx`` to int8: ONNX Runtime's quantiser with a recipe for detectors.

Calibration runs the float model once on some images and keeps the range of every activation. Quantisation places Q/DQ
nodes with those ranges; it takes a moment, so that recipes can be tried. Weights have a symmetric scale per output
channel. Jacob et al., arXiv:1712.05877, is the scheme.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import onnx
from numpy.typing import NDArray

from frcnn.errors import ExportError, UsageError
from frcnn.exporter.graph.nodes import is_standard
from frcnn.packages import import_package
from frcnn.plugins import DOMAIN

Batch = Mapping[str, NDArray[Any]]
Ranges = Any
"""ONNX Runtime's ``TensorsData``: the range of every activation."""

HEAVY_OPERATORS: Final = ("Conv", "Gemm", "MatMul")
"""What is quantised for its own sake."""

_IN_INT8_BETWEEN: Final = ("Add", "Clip", "MaxPool", "Relu", "Resize")
"""What stays in int8 where it stands between them: ONNX Runtime joins Q/DQ nodes on both sides to one kernel."""

_READERS: Final = ("RegionProposals", "BoxDetections")  # of what layers predict
_FATAL_ONLY: Final = 4  # severity of the messages of ONNX Runtime: errors come as exceptions
_GROUP_DEPTH: Final = 3  # of module paths: backbone/body/layer1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to quantise.

    Symmetric: int8 activations with zero point 0 and Q/DQ nodes at the inputs of heavy layers only, as TensorRT fuses
    them. Otherwise uint8 activations, which processors with VNNI multiply fastest, and Q/DQ nodes at outputs too,
    without which ONNX Runtime does not use its int8 kernels.
    """

    symmetric: bool = False
    float_layers: frozenset[str] = frozenset()  # names of heavy nodes that stay in float32


def layer_groups(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Return the names of the heavy nodes, in execution order, by the module that they are from.

    A group is a module at a depth of three, such as ``backbone/body/layer1`` or ``rpn/head/conv``. Layers that predict
    are in none: those of the RPN and of the box head, which are a thousandth of the work, stay in float32 always.
    """
    predicted = {
        value for node in model.graph.node if node.domain == DOMAIN and node.op_type in _READERS for value in node.input
    }
    groups: dict[str, list[str]] = {}
    for node in model.graph.node:
        path = node.name.split("/")[:-1][:_GROUP_DEPTH]
        if _is_heavy(node) and predicted.isdisjoint(node.output):
            groups.setdefault("/".join(path), []).append(node.name)
    return {name: tuple(nodes) for name, nodes in groups.items()}


def calibrate(model: onnx.ModelProto, batches: Iterable[Batch], *, threads: int) -> Ranges:
    """Run a model on calibration batches and return the range of every activation.

    A range is the mean over the batches of their smallest and largest values: a mean is not as wide as the one batch
    with an outlier makes it. Only these two numbers of an activation are kept of a batch, so that memory is that of an
    inference, however many there are. ``model`` is float32 and not changed; batches are its inputs by name. Raises
    UsageError if there are none, and MissingDependencyError without ONNX Runtime.
    """
    quantization = _onnxruntime()
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise UsageError("calibration: expected images, got none", hint="give a folder of images")
    with tempfile.TemporaryDirectory(prefix="frcnn-calibration-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path)
        calibrator = _calibrator(quantization, path, Path(folder) / "augmented.onnx", threads)
        calibrator.collect_data(SimpleNamespace(get_next=partial(next, map(dict, chain((first,), remaining)), None)))
        ranges: Ranges = calibrator.compute_data()
        return ranges


def quantize(model: onnx.ModelProto, ranges: Ranges, recipe: Recipe) -> onnx.ModelProto:
    """Return a model with Q/DQ nodes; metadata and functions are those of the float model, which is not changed.

    Raises ExportError if the result is not valid ONNX, and MissingDependencyError without ONNX Runtime.
    """
    quantization = _onnxruntime()
    heavy = {name for names in layer_groups(model).values() for name in names} - recipe.float_layers
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if not heavy:  # the quantiser takes none for all
        return result
    # the types are known; to infer them the quantiser would write a file whose name, by uuid1, asks for a socket
    result.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    types, wanted = list(HEAVY_OPERATORS), heavy
    if recipe.symmetric:
        activations = quantization.QuantType.QInt8
        # TensorRT takes no int32 bias
        options = {"OpTypesToExcludeOutputQuantization": types, "ActivationSymmetric": True, "QuantizeBias": False}
    else:
        activations = quantization.QuantType.QUInt8
        options = {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}
        types, wanted = [*types, *_IN_INT8_BETWEEN], heavy | _between(result.graph, heavy)
    quantizer = quantization.QDQQuantizer(
        result,
        per_channel=True,
        reduce_range=False,
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=activations,
        tensors_range=ranges,
        nodes_to_quantize=sorted(wanted),
        nodes_to_exclude=[],
        op_types_to_quantize=types,
        extra_options=options,
    )
    with _handled_root():
        quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    if recipe.symmetric:
        _share_identities(quantized.graph)
    quantizer.model.topological_sort()
    for name in ("metadata_props", "producer_name", "producer_version"):
        quantized.ClearField(name)
    quantized.metadata_props.extend(model.metadata_props)
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    try:
        onnx.checker.check_model(quantized)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the quantised graph is not valid ONNX: {error}") from error
    return quantized


def _is_heavy(node: onnx.NodeProto) -> bool:
    return is_standard(node.domain) and node.op_type in HEAVY_OPERATORS


def _between(graph: onnx.GraphProto, heavy: set[str]) -> set[str]:
    """Return the names of the nodes that read nothing but the outputs of int8 convolutions and of one another."""
    values, names = set[str](), set[str]()
    for node in graph.node:
        inputs = node.input if node.op_type == "Add" else node.input[:1]  # not bounds of Clip, sizes of Resize
        if node.op_type in _IN_INT8_BETWEEN and values.issuperset(inputs):
            names.add(node.name)
        elif node.op_type != "Conv" or node.name not in heavy:
            continue
        values.update(node.output)
    return names


def _share_identities(graph: onnx.GraphProto) -> None:
    """Let the identity of a residual block be read in int8 where it is there, as NVIDIA's guide to Q/DQ has it.

    A convolution whose output is added to it then ends in one kernel with the addition.
    """
    source = {node.output[0]: node for node in graph.node if len(node.output) == 1}
    dequantized = {
        source[node.input[0]].input[0]: node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in source
    }
    for node in graph.node:
        makers = [source[name].op_type if name in source else "" for name in node.input]
        if node.op_type == "Add" and "Conv" in makers:
            node.input[:] = [
                name if maker == "Conv" else dequantized.get(name, name)
                for name, maker in zip(node.input, makers, strict=True)
            ]


def _onnxruntime() -> Any:
    """Return ONNX Runtime's quantiser."""
    return import_package("onnxruntime.quantization", package="onnxruntime", extra="cpu", why="quantising a model")


def _calibrator(quantization: Any, model: Path, augmented: Path, threads: int) -> Any:
    """Return ONNX Runtime's calibrator, in a session that needs no more memory than one for detection.

    Left to itself, a session may compute the ranges when all activations are there, and its arena keeps what they took:
    6.3 GB for ResNet-50 at 800x1088, 1.0 GB with these options, in the same time.
    """
    ort: Any = importlib.import_module("onnxruntime")

    class Calibrator(quantization.MinMaxCalibrater):  # type: ignore[misc]
        def create_inference_session(self) -> None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = _FATAL_ONLY
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
            self.infer_session = ort.InferenceSession(
                self.augmented_model_path, options, providers=["CPUExecutionProvider"]
            )

    calibrator = Calibrator(
        model, [*HEAVY_OPERATORS, *_IN_INT8_BETWEEN], augmented_model_path=str(augmented), moving_average=True
    )
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator


@contextmanager
def _handled_root() -> Iterator[None]:
    """Keep ONNX Runtime's messages from the terminal: by the root logger, they would set up logging for the program."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
