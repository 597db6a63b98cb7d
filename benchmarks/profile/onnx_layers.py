"""The layers of a ``model.onnx`` in a benchmark run: time by stage, and work for the roofline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from frcnn.benchmarks.profile.onnx_runs import Feeds, RanLayer, profiled_session
from frcnn.benchmarks.profile.stage_names import NetworkStage
from frcnn.benchmarks.report.results import StageName

__all__ = ["Layer", "network_stage_ms", "work_of_layers"]

_BYTES: Final = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
_REPEATS: Final = 3
# element by element, or no more than another view of the same numbers
_MERGED_TEXT: Final = """
    Abs Add And BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Div Equal Erf Exp Expand Flatten Floor
    Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log Max Min Mod Mul Neg Not Or
    Pow Range Relu Reshape Shape Sigmoid Slice Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where
"""
_MERGED: Final = frozenset(_MERGED_TEXT.split())
_STAGES: Final[Mapping[NetworkStage, StageName]] = {
    "backbone": "backbone+FPN",
    "FPN": "backbone+FPN",
    "RPN head": "RPN",
    "proposals": "RPN",
    "RoI pooling": "RoI pooling",
    "box head": "box head",
    "post": "post",
}
"""The stages that eager torchvision can be timed by, too: its modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A node of the graph, run once.

    Attributes:
        stage: the part of the network.
        flops: multiplications and additions of convolutions and matrix products; 0 for others.
        bytes: its inputs, weights among them, and outputs, each once; 0 for nodes that a compiler merges into a
            neighbour: activations, sums, changes of shape and of type.
    """

    stage: StageName
    flops: float
    bytes: float


def network_stage_ms(path: Path, feeds: Feeds, *, threads: int) -> dict[StageName, float]:
    """Return the median milliseconds of each stage of the network, kernels only, as the file runs by default."""
    with profiled_session(path, threads=threads) as session:
        for _ in range(_REPEATS + 1):
            session.run(feeds)
        runs = session.finish()[1:]
    stages = dict.fromkeys(_STAGES.values())
    return {
        stage: median(sum(layer.ms for layer in run if _STAGES[layer.stage] == stage) for run in runs)
        for stage in stages
    }


def work_of_layers(path: Path, feeds: Feeds, *, threads: int) -> list[Layer]:
    """Count the work of every node with the shapes that a run has, in the graph as it was written.

    Function bodies are inlined by ONNX Runtime, so RoI pooling and NMS are counted by the tensors of their nodes.
    """
    with profiled_session(path, threads=threads, as_written=True) as session:
        session.run(feeds)
        (layers,) = session.finish()
    return [Layer(stage=_STAGES[ran.stage], flops=ran.flops or 0.0, bytes=_bytes(ran)) for ran in layers]


def _bytes(layer: RanLayer) -> float:
    if layer.op in _MERGED:
        return 0.0
    return float(sum(_BYTES.get(kind, 4) * math.prod(shape) for kind, shape in (*layer.inputs, *layer.outputs)))
