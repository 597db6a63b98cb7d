"""Profile a ``model.onnx`` in ONNX Runtime's own profiler, with what the runtime does around it.

Layer by layer: times, and work by the shapes that ran. On the processor only: on a GPU that profiler times launches,
not the work.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.candidates.candidate import Report
from frcnn.benchmarks.profile.inputs import Inputs
from frcnn.benchmarks.profile.profile import LayerRun, Measured, StageName, stages_in_order
from frcnn.benchmarks.report.results import StageName as CoarseStage
from frcnn.errors import ArtifactError, UsageError, one_line
from frcnn.files import native_path, temporary_folder
from frcnn.runtime.backend import Device
from frcnn.runtime.dependencies import import_onnxruntime
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.providers import Provider, RunPrecision, check_precision, chosen_provider
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import boxes_in_image, with_pixels
from frcnn.runtime.model_files.artifact import OnnxArtifact
from frcnn.runtime.onnxruntime_sessions import session_options

Feeds = Mapping[str, NDArray[Any]]
Event = Mapping[str, Any]
Tensor = tuple[str, Sequence[int]]
"""(element type, shape)"""

_KERNEL: Final = "_kernel_time"
_BYTES: Final = {"float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "uint8": 1, "int8": 1, "bool": 1}  # of others 4
# element by element, or no more than another view of the same numbers
_MERGED_TEXT: Final = """
    Abs Add And BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape DequantizeLinear Div Equal Erf Exp
    Expand Flatten Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log
    Max Min Mod Mul Neg Not Or Pow QuantizeLinear Range Relu Reshape Shape Sigmoid Slice Split Sqrt Squeeze Sub Tanh
    Transpose Unsqueeze Where
"""
_MERGED: Final = frozenset(_MERGED_TEXT.split())
COARSE: Final[Mapping[StageName, CoarseStage]] = {
    "preprocess": "preprocess",
    "backbone": "backbone+FPN",
    "FPN": "backbone+FPN",
    "RPN head": "RPN",
    "proposals": "RPN",
    "RoI pooling": "RoI pooling",
    "box head": "box head",
    "post": "post",
}
"""The stages that eager torchvision can be timed by, too: its modules."""


class ProfiledSession:
    """A session whose runs are profiled; made by :func:`profiled_session`."""

    def __init__(self, session: Any, path: Path) -> None:
        self._session = session
        self._path = path

    def run(self, feeds: Feeds) -> None:
        """Run once."""
        try:
            self._session.run(None, dict(feeds))
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            raise ArtifactError(
                f"{self._path}: ONNX Runtime failed on {len(feeds['images'])} image(s): {one_line(error)}",
                hint="give fewer images at a time or smaller ones where memory ran out",
            ) from error

    def finish(self) -> list[list[LayerRun]]:
        """End profiling, and return the layers of every run in the order in which they ran."""
        return layers_of_events(json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8")))


@contextmanager
def profiled_session(path: Path, *, threads: int, as_written: bool = False) -> Iterator[ProfiledSession]:
    """Open a model file as the runtime does, with the profiler on.

    ``as_written`` runs the nodes of the file, neither fused nor rearranged, and lists all weights.
    """
    ort = import_onnxruntime()
    options = session_options(ort, threads)
    options.enable_profiling = True
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # prepacked weights are not listed
    with temporary_folder() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            with native_path(path) as name:
                session = ort.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {one_line(error)}") from error
        yield ProfiledSession(session, path)


def work_of_layers(path: Path, feeds: Feeds, *, threads: int) -> list[LayerRun]:
    """Count the work of every node with the shapes that a run has, in the graph as it was written.

    Nodes that a compiler merges into a neighbour (activations, sums, changes of shape and of type) move 0 bytes.
    Function bodies are inlined by ONNX Runtime, so RoI pooling and NMS are counted by the tensors of their nodes.
    """
    with profiled_session(path, threads=threads, as_written=True) as session:
        session.run(feeds)
        (layers,) = session.finish()
    return [replace(layer, bytes=0.0) if layer.op in _MERGED else layer for layer in layers]


def layers_of_events(events: Sequence[Event]) -> list[list[LayerRun]]:
    """Return the layers of every run from the events of ONNX Runtime's profile."""
    kernels = sorted((e for e in events if str(e.get("name", "")).endswith(_KERNEL)), key=_start)
    borders = sorted(_start(e) for e in events if e.get("name") == "model_run")
    ends = [*borders[1:], math.inf]
    return [
        _layers([kernel for kernel in kernels if start <= _start(kernel) < end])
        for start, end in zip(borders, ends, strict=True)
    ]


def _start(event: Event) -> float:
    return float(event["ts"])


def _layers(kernels: Sequence[Event]) -> list[LayerRun]:
    """Return layers; a name tells what was fused into the operator, and is numbered where a run has it twice."""
    names = [str(kernel["name"]).removesuffix(_KERNEL) for kernel in kernels]
    counts, layers = Counter(names), []
    for kernel, name, stage in zip(kernels, names, stages_in_order(names), strict=True):
        details, op = kernel["args"], str(kernel["args"]["op_name"])
        inputs, outputs = (_tensors(details.get(f"{side}_type_shape", ())) for side in ("input", "output"))
        layers.append(
            LayerRun(
                name=name if counts[name] == 1 else f"{name} #{details['node_index']}",
                op=op,
                stage=stage,
                ms=float(kernel["dur"]) / 1e3,
                flops=_flops(op.removeprefix("Fused"), [shape for _, shape in inputs], [s for _, s in outputs]),
                bytes=float(sum(_BYTES.get(kind, 4) * math.prod(shape) for kind, shape in (*inputs, *outputs))),
            )
        )
    return layers


def _tensors(listed: Sequence[Mapping[str, Sequence[int]]]) -> list[Tensor]:
    return [(kind, shape) for entry in listed for kind, shape in entry.items()]


def _flops(op: str, inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> float | None:
    """Return the multiplications and additions of a convolution or matrix product, by the shapes that it ran with.

    ONNX Runtime pads channels to its blocks of 8 or 16; what is computed for the padding counts. None for other
    operators, and where the weights are needed and not listed.
    """
    out = outputs[0] if outputs else ()
    has_weights = len(inputs) > 1 and len(inputs[0]) == len(inputs[1]) >= 2
    if op == "Conv" and has_weights:  # weights (out, in / groups, kernel height, kernel width)
        return 2.0 * math.prod(out) * math.prod(inputs[1][1:])
    if op == "ConvTranspose" and has_weights:  # weights (in, out / groups, kernel height, kernel width)
        return 2.0 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if op == "MatMul":
        return 2.0 * math.prod(out) * inputs[0][-1]
    if op in ("Gemm", "QGemm"):  # (M, K) or (K, M) times the rest to (M, N): the inner length, transposed or not
        return 2.0 * math.prod(out) * math.prod(inputs[0]) / out[0] if out[0] else 0.0
    return None


def check_on_processor(device: Device | None, provider: Provider | None, precision: RunPrecision | None = None) -> None:
    """Refuse to profile a ``model.onnx`` on a GPU, or in another library than ONNX Runtime."""
    chosen = chosen_provider(device, provider)
    check_precision(chosen, precision)
    if chosen in ("openvino", "tuned"):
        raise UsageError(
            f"provider: only the layers of ONNX Runtime can be timed, got {chosen!r}",
            hint="leave provider out; whole runs are timed by frcnn bench",
        )
    if chosen != "cpu":
        raise UsageError(
            "device 'cuda': of a model.onnx only the processor can be profiled: on a GPU ONNX Runtime's profiler "
            "times launches, not the work",
            hint="profile an engine: frcnn build model.onnx -o model.frcnn; whole runs are timed by frcnn bench",
        )


def profile_onnx(
    artifact: OnnxArtifact,
    inputs: Inputs,
    *,
    batch: int,
    repeats: int,
    threads: int,
    report: Report = lambda what, share: None,
) -> Measured:
    """Do what the runtime does with a batch, the network with and without the profiler; once more to warm up."""
    ms: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timing(stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        ms[stage].append((time.perf_counter() - started) * 1e3)

    manifest, plain = artifact.manifest, OnnxRuntimeBackend(artifact.path, threads=threads)
    dtype = np.float16 if manifest.precision == "fp16" else np.float32
    with closing(plain), profiled_session(artifact.path, threads=threads) as profiled:
        for run in range(repeats + 1):
            report("profiling", run / (repeats + 1))
            chosen = inputs.batch(max(run - 1, 0), batch)
            if inputs.files:
                with timing("decode"):
                    for index in chosen:
                        RGBImage.open(inputs.files[index])
            with timing("preprocess"):
                prepared = [with_pixels(inputs.placed[index], manifest.model.transform) for index in chosen]
                images = np.stack([item.pixels for item in prepared]) if batch > 1 else prepared[0].pixels[None]
            sizes = np.array([item.resized for item in prepared], np.int32)
            with timing("plain"):
                output = plain.run(images, sizes)
            with timing("profiled"):
                profiled.run({"images": images.astype(dtype, copy=False), "image_sizes": sizes})
            with timing("post"):
                for count, boxes, item in zip(output.num_detections, output.boxes, prepared, strict=True):
                    boxes_in_image(boxes[: int(count)], item)
        runs = profiled.finish()[1:]
    ms.update({stage: times[1:] for stage, times in ms.items()})
    more: dict[StageName, list[float]] = {
        "preprocess": ms["preprocess"],
        "post": ms["post"],
        "between layers": [
            max(0.0, whole - sum(layer.ms for layer in run)) for whole, run in zip(ms["profiled"], runs, strict=True)
        ],
    }
    return Measured(
        device="cpu",
        runs=runs,
        more=more | ({"decode": ms["decode"]} if inputs.files else {}),
        network_ms=median(ms["plain"]),
        profiled_ms=median(ms["profiled"]),
    )
