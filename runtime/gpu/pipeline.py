"""One detection of fixed shape: contexts, addresses and launches, made once and enqueued many times.

Everything between the upload of the images' table and the download of the outputs is fixed, so one CUDA graph holds
it. Only the pixels are outside: their sizes differ, and the table holds their addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError, KernelError
from frcnn.plugins.operator_plan import OperatorPlan, aligned
from frcnn.plugins.preprocess import IMAGE_COLUMNS
from frcnn.runtime.device_detections import Field
from frcnn.runtime.gpu.device import Device, EngineContext, Graph, LayerReport, PinnedMemory, Shape
from frcnn.runtime.gpu.program import ELEMENT_DTYPES, Program
from frcnn.spec import Size
from frcnn.spec.engine import OUTPUTS, EngineStep, OperatorStep

Launch = Callable[[int], None]
Warn = Callable[[str], None]


class Launched(NamedTuple):
    """One step of a detection: its input, kernel, engine's part, or operator's node in ``model.onnx``."""

    kind: Literal["upload", "preprocess", "engine", "operator", "download"]
    name: str


class PipelineKey(NamedTuple):
    """The shape of a pipeline; ``from_pixels``: a kernel makes ``images``, otherwise the CPU prepared them."""

    batch: int
    canvas: Size
    from_pixels: bool


class Pipeline:
    """A detection of one shape; belongs to one worker.

    The constructor binds the engines, which tells how much memory they need; :meth:`place_in` gives them that memory.

    Attributes:
        arena_bytes: device memory it needs.
        sizes: ``(N, 2)`` int32 in pinned memory, to be filled before :meth:`launch`: images' resized (height, width).
        table: ``(N, 8)`` int64, likewise, if ``key.from_pixels``; see ``IMAGE_COLUMNS``.
        images: ``(N, 3, H, W)``, likewise, otherwise; bfloat16 as its bits.
        outputs: the outputs by name, in pinned memory, complete when the stream is done.
        output_pointer: address of the ``output_bytes`` bytes of outputs on the device.
        fields: the outputs' places there.
    """

    def __init__(self, program: Program, device: Device, key: PipelineKey, profile: int, stream: int) -> None:
        self.key = key
        self._program = program
        self._device = device
        self._contexts: list[EngineContext] = []
        self._pinned: PinnedMemory | None = None
        self._launches: list[tuple[Launched, Launch]] = []
        self._graph: Graph | None = None
        self._is_warm = False
        self._may_capture = True
        try:
            self._shapes, self._plans = self._bind(profile, stream)
            self._lay_out()
            self._take_pinned()
        except BaseException:
            self.close()
            raise

    def place_in(self, arena: int) -> None:
        """Fix all addresses, in ``arena_bytes`` bytes of device memory."""
        at = {name: arena + offset for name, offset in self._offsets.items()}
        for name, place in self.fields.items():
            at[name] = at["outputs"] + place.offset
        self.output_pointer = at["outputs"]
        assert self._pinned is not None
        pinned, copy = self._pinned.pointer, self._device.copy
        self._launches = [
            (Launched("upload", name), partial(copy, at[name], pinned + place.offset, place.size_bytes))
            for name, place in self._inputs.items()
        ]
        if self.key.from_pixels:
            height, width = self.key.canvas
            plan = self._program.preprocess.plan([self._inputs["table"].shape], H=height, W=width)
            bound = self._program.preprocess.bind(plan, [at["table"]], [at["images"]], 0)
            self._launches += [(Launched("preprocess", entry), launch) for entry, launch in bound]
        contexts = iter(self._contexts)
        for index, step in enumerate(self._program.manifest.steps):
            if isinstance(step, EngineStep):
                pointers = {name: at[name] for name in (*step.inputs, *step.outputs)}
                enqueue = partial(next(contexts).enqueue, pointers, at[f"workspace {index}"])
                self._launches.append((Launched("engine", step.part), enqueue))
            else:
                inputs, outputs = ([at[name] for name in names] for names in (step.inputs, step.outputs))
                bound = self._program.operators[index].bind(
                    self._plans[index], inputs, outputs, at[f"workspace {index}"]
                )
                self._launches += [(Launched("operator", f"{step.node} ({entry})"), launch) for entry, launch in bound]
        download = partial(copy, pinned + self._outputs_at, self.output_pointer, self.output_bytes)
        self._launches.append((Launched("download", "outputs"), download))

    def launch(self, stream: int, warn: Warn) -> None:
        """Enqueue everything: plainly the first time, which warms the engines up, then as one graph.

        Earlier work on the stream must be done, except what this call needs. ``warn`` takes the reason if there is no
        graph.
        """
        if self._is_warm and self._may_capture:
            self._capture(stream, warn)
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self.launch_in_steps(stream)
            self._is_warm = True  # only now: a failed launch has not warmed up the steps after it

    def launch_in_steps(self, stream: int, after: Callable[[Launched], object] | None = None) -> None:
        """Enqueue everything plainly, whether there is a graph or not; ``after`` takes each step that was enqueued."""
        for launched, launch in self._launches:
            launch(stream)
            if after is not None:
                after(launched)

    def report_layers(self, report: LayerReport) -> None:
        """Report every layer of every engine from now on; see :meth:`EngineContext.report_layers`."""
        for context in self._contexts:
            context.report_layers(report)

    @property
    def has_graph(self) -> bool:
        """Whether it is captured."""
        return self._graph is not None

    def close(self) -> None:
        """Release everything; the work must be done."""
        with ExitStack() as stack:  # releases each, even if another fails
            for context in self._contexts:
                stack.callback(context.close)
            if self._pinned is not None:
                stack.callback(self._pinned.close)
            if self._graph is not None:
                stack.callback(self._graph.close)
            self._contexts, self._pinned, self._graph, self._launches = [], None, None, []

    def _bind(self, profile: int, stream: int) -> tuple[dict[str, Shape], dict[int, OperatorPlan]]:
        """Bind the engines in order and return all tensors' shapes and the operators' plans."""
        batch, canvas, _ = self.key
        shapes: dict[str, Shape] = {"images": (batch, 3, *canvas), "image_sizes": (batch, 2)}
        plans = {}
        for index, step in enumerate(self._program.manifest.steps):
            if isinstance(step, OperatorStep):
                plans[index] = self._program.operators[index].plan([shapes[name] for name in step.inputs])
                shapes |= zip(step.outputs, plans[index].output_shapes, strict=True)
                continue
            context = self._program.engines[step.part].create_context()
            self._contexts.append(context)
            tensors = self._program.manifest.tensors
            made = context.bind(profile, {n: tensors[n].engine_shape(shapes[n]) for n in step.inputs}, stream)
            for name in step.outputs:
                shape = made.get(name)
                if shape is None or min(shape, default=0) < 0:
                    raise ArtifactError(
                        f"{step.part}: expected an output {name} of a fixed shape, got {shape}",
                        hint=self._program.manifest.build_command("model.frcnn"),
                    )
                shapes[name] = tensors[name].operator_shape(tuple(shape))
        return shapes, plans

    def _lay_out(self) -> None:
        """Lay out every tensor, scratch and workspace in the arena. Steps are numbered from 2, after both inputs."""
        first = {"images": 1 if self.key.from_pixels else 0, "image_sizes": 0}
        last = dict.fromkeys(first, 1)
        workspaces = []
        contexts = iter(self._contexts)
        for number, step in enumerate(self._program.manifest.steps, 2):
            first |= dict.fromkeys(step.outputs, number)
            last |= dict.fromkeys((*step.inputs, *step.outputs), number)
            is_engine = isinstance(step, EngineStep)
            needed = next(contexts).workspace_bytes if is_engine else self._plans[number - 2].scratch_bytes
            workspaces.append(Block(f"workspace {number - 2}", needed, number, number))
        self.fields, self.output_bytes = self._fields()
        blocks = [
            Block(name, self._field(name).size_bytes, first[name], last[name])
            for name in first
            if name not in self.fields
        ]
        end = 2 + len(self._program.manifest.steps)
        blocks.append(Block("outputs", self.output_bytes, min(first[name] for name in OUTPUTS), end))
        if self.key.from_pixels:
            blocks.append(Block("table", self.key.batch * len(IMAGE_COLUMNS) * 8, 0, 1))
        self._offsets, self.arena_bytes = lay_out([*blocks, *workspaces])

    def _fields(self) -> tuple[dict[str, Field], int]:
        """Return the outputs' places in one block, which one copy downloads."""
        fields, end = {}, 0
        for name in OUTPUTS:
            fields[name] = self._field(name, end)
            end += aligned(fields[name].size_bytes)
        return fields, end

    def _field(self, name: str, offset: int = 0) -> Field:
        return Field(offset, self._shapes[name], ELEMENT_DTYPES[self._program.manifest.tensors[name].element])

    def _take_pinned(self) -> None:
        sizes = Field(0, (self.key.batch, 2), np.dtype(np.int32))
        begin = aligned(sizes.size_bytes)
        if self.key.from_pixels:
            name, pixels = "table", Field(begin, (self.key.batch, len(IMAGE_COLUMNS)), np.dtype(np.int64))
        else:
            name, pixels = "images", self._field("images", begin)
        self._inputs = {"image_sizes": sizes, name: pixels}
        self._outputs_at = begin + aligned(pixels.size_bytes)
        self._pinned = self._device.allocate_pinned(self._outputs_at + self.output_bytes)
        memory = self._pinned.array
        self.outputs = {name: _view(memory[self._outputs_at :], place) for name, place in self.fields.items()}
        self.sizes = _view(memory, sizes)
        self.table = self.images = _view(memory, pixels)

    def _capture(self, stream: int, warn: Warn) -> None:
        """Capture the graph, once; if that is impossible, the launches stay plain."""
        self._may_capture = False
        if not all(context.is_capturable(stream) for context in self._contexts):
            warn("an engine cannot be captured in a CUDA graph; its layers are launched one by one, which is slower")
            return
        try:
            self._graph = self._device.capture(stream, lambda: self.launch_in_steps(stream))
        except (ArtifactError, KernelError) as error:
            warn(f"capturing a CUDA graph failed; layers are launched one by one, which is slower: {error.message}")


def _view(memory: NDArray[np.uint8], place: Field) -> NDArray[Any]:
    return np.ndarray(place.shape, place.dtype, buffer=memory, offset=place.offset)


@dataclass(frozen=True, slots=True)
class Block:
    """Memory that is needed from step ``first`` to step ``last``, both included."""

    name: str
    size_bytes: int
    first: int
    last: int


def lay_out(blocks: Iterable[Block]) -> tuple[dict[str, int], int]:
    """Place blocks so that those needed at the same step do not overlap; return their offsets and the total bytes.

    The largest is placed first, each at the lowest offset that is free while it is needed ("greedy by size",
    arXiv:2001.03288). A convolutional network comes within a few percent of its largest step.
    """
    placed: list[tuple[int, int, Block]] = []
    for block in sorted(blocks, key=lambda block: (-block.size_bytes, block.first, block.name)):
        size, offset = aligned(block.size_bytes), 0
        for start, end, other in sorted(placed, key=lambda entry: entry[0]):
            if other.last < block.first or block.last < other.first or end <= offset:
                continue
            if offset + size <= start:
                break
            offset = end
        placed.append((offset, offset + size, block))
    return {block.name: start for start, _, block in placed}, max((end for _, end, _ in placed), default=0)
