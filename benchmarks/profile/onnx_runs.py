"""Runs of a ``model.onnx`` in ONNX Runtime's own profiler, layer by layer: times, shapes, work.

On the processor only: on a GPU that profiler times launches, not the work.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from frcnn.benchmarks.profile.stage_names import NetworkStage, stages_in_order
from frcnn.errors import ArtifactError
from frcnn.files import temporary_folder
from frcnn.runtime.dependencies import import_onnxruntime

__all__ = ["Feeds", "ProfiledSession", "RanLayer", "layers_of_events", "profiled_session"]

Feeds = Mapping[str, NDArray[Any]]
Event = Mapping[str, Any]
Tensor = tuple[str, Sequence[int]]
"""(element type, shape)"""

_KERNEL: Final = "_kernel_time"
_FATAL_ONLY: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RanLayer:
    """A node of the graph that ONNX Runtime made of the file, in one run.

    Attributes:
        name: unique in the run, the same in every run of a session.
        op: the operator; the name may tell what was fused into it.
        stage: the part of the network.
        ms: its time.
        inputs: its inputs, weights among them where the session lists them.
        outputs: its outputs.
    """

    name: str
    op: str
    stage: NetworkStage
    ms: float
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def flops(self) -> float | None:
        """Multiplications and additions of a convolution or matrix product, by the shapes that it ran with.

        ONNX Runtime pads channels to its blocks of 8 or 16; what is computed for the padding counts. None for other
        operators, and where the weights are needed and not listed.
        """
        op = self.op.removeprefix("Fused")
        shapes, out = [shape for _, shape in self.inputs], self.outputs[0][1] if self.outputs else ()
        has_weights = len(shapes) > 1 and len(shapes[0]) == len(shapes[1]) >= 2
        if op == "Conv" and has_weights:  # weights (out, in / groups, kernel height, kernel width)
            return 2.0 * math.prod(out) * math.prod(shapes[1][1:])
        if op == "ConvTranspose" and has_weights:  # weights (in, out / groups, kernel height, kernel width)
            return 2.0 * math.prod(shapes[0]) * math.prod(shapes[1][1:])
        if op == "MatMul":
            return 2.0 * math.prod(out) * shapes[0][-1]
        if op == "Gemm":  # (M, K) or (K, M) times the rest to (M, N): the inner length, transposed or not
            return 2.0 * math.prod(out) * math.prod(shapes[0]) / out[0] if out[0] else 0.0
        return None


class ProfiledSession:
    """A session whose runs are profiled; made by :func:`profiled_session`."""

    def __init__(self, session: Any, path: Path) -> None:
        self._session = session
        self._path = path

    def run(self, feeds: Feeds) -> None:
        """Run once.

        Raises:
            ArtifactError: ONNX Runtime fails.
        """
        try:
            self._session.run(None, dict(feeds))
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            raise ArtifactError(
                f"{self._path}: ONNX Runtime failed on {len(feeds['images'])} image(s): {_one_line(error)}",
                hint="give fewer images at a time or smaller ones where memory ran out",
            ) from error

    def finish(self) -> list[list[RanLayer]]:
        """End profiling, and return the layers of every run in the order in which they ran."""
        return layers_of_events(json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8")))


@contextmanager
def profiled_session(path: Path, *, threads: int, as_written: bool = False) -> Iterator[ProfiledSession]:
    """Open a model file as the runtime does, with the profiler on.

    Args:
        path: a ``model.onnx``.
        threads: of one operator.
        as_written: run the nodes of the file, neither fused nor rearranged, and list all weights.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.enable_profiling = True
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")  # prepacked weights are not listed
    with temporary_folder() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_one_line(error)}") from error
        yield ProfiledSession(session, path)


def layers_of_events(events: Sequence[Event]) -> list[list[RanLayer]]:
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


def _layers(kernels: Sequence[Event]) -> list[RanLayer]:
    names = [str(kernel["name"]).removesuffix(_KERNEL) for kernel in kernels]
    counts = Counter(names)
    return [
        RanLayer(
            name=name if counts[name] == 1 else f"{name} #{details['node_index']}",
            op=str(details["op_name"]),
            stage=stage,
            ms=float(kernel["dur"]) / 1e3,
            inputs=_tensors(details.get("input_type_shape", ())),
            outputs=_tensors(details.get("output_type_shape", ())),
        )
        for kernel, name, stage in zip(kernels, names, stages_in_order(names), strict=True)
        for details in [kernel["args"]]
    ]


def _tensors(listed: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Tensor, ...]:
    return tuple((kind, shape) for entry in listed for kind, shape in entry.items())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
