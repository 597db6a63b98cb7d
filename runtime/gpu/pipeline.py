"""One shape of a detection, bound: contexts, addresses and launches, made once and put on a stream many times.

Everything between the upload of the images' table and the download of the answers is fixed, so that it can be
captured in one CUDA graph. Only the pixels themselves are not in it: their sizes differ, and the table says where they
are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError, KernelError
from frcnn.plugins.operator_plan import OperatorPlan
from frcnn.plugins.preprocess import IMAGE_COLUMNS
from frcnn.runtime.device_detections import Field
from frcnn.runtime.gpu.device import Device, EngineContext, Graph, LayerReport, PinnedMemory, Shape
from frcnn.runtime.gpu.memory_plan import Block, aligned, lay_out
from frcnn.runtime.gpu.program import ELEMENT_DTYPES, LoadedOperator, Program
from frcnn.spec import Size
from frcnn.spec.engine import OUTPUTS, EngineStep

__all__ = ["Launched", "Pipeline", "PipelineKey"]

Launch = Callable[[int], None]
Say = Callable[[str], None]


class Launched(NamedTuple):
    """One thing that a detection puts on its stream.

    Attributes:
        kind: what it is.
        name: which of its kind: the input, the kernel, the engine's part, the operator's node in ``model.onnx``.
    """

    kind: Literal["upload", "preprocess", "engine", "operator", "download"]
    name: str


class PipelineKey(NamedTuple):
    """What a pipeline is made for.

    Attributes:
        batch: images.
        canvas: (height, width) in pixels.
        from_pixels: whether images come as bytes, and the kernel makes ``images`` of them; else ``images`` come.
    """

    batch: int
    canvas: Size
    from_pixels: bool


class Pipeline:
    """A detection of one shape; belongs to one worker.

    Made in two steps: the constructor binds the engines, which tells how much memory they need; :meth:`place_in`
    gives them that memory.

    Args:
        program: what a detection does.
        device: where.
        key: the shape.
        profile: the engines' profile that holds it.
        stream: where it is warmed up.

    Attributes:
        key: see above.
        arena_bytes: device memory it needs.
        sizes: (N, 2) int32 in pinned memory, to be filled before :meth:`launch`: images' resized (height, width).
        table: (N, 8) int64 in pinned memory, likewise; see ``IMAGE_COLUMNS``. Where ``key.from_pixels``.
        images: (N, 3, H, W) in pinned memory, likewise, bfloat16 as its bits. Where not.
        answers: the outputs by name, in pinned memory, there once the stream is done.
        answers_pointer: address of the outputs on the device.
        answers_bytes: their size.
        fields: where each of them lies there.

    Raises:
        ArtifactError: an engine refuses the shape, or memory is short.
        KernelError: a kernel does.
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
        """Fix all addresses.

        Args:
            arena: address of ``arena_bytes`` bytes of device memory.
        """
        at = {name: arena + offset for name, offset in self._offsets.items()}
        for name, place in self.fields.items():
            at[name] = at["answers"] + place.offset
        self.answers_pointer = at["answers"]
        self._launches = [*self._uploads(at), *self._preprocess(at)]
        contexts = iter(self._contexts)
        for index, step in enumerate(self._program.steps):
            if isinstance(step, EngineStep):
                pointers = {name: at[name] for name in (*step.inputs, *step.outputs)}
                enqueue = partial(next(contexts).enqueue, pointers, at[f"workspace {index}"])
                self._launches.append((Launched("engine", step.part), enqueue))
            else:
                self._launches += self._operator(step, self._plans[index], at, at[f"workspace {index}"])
        pinned = self._taken().pointer + self._answers_at
        download = partial(self._device.copy, pinned, self.answers_pointer, self.answers_bytes)
        self._launches.append((Launched("download", "answers"), download))

    def launch(self, stream: int, say: Say) -> None:
        """Put everything on a stream: plainly the first time, which warms the engines up, then as one graph.

        Args:
            stream: the worker's; what was put on it before must be done but for what this call needs.
            say: is told why there is no graph, where there is none.

        Raises:
            ArtifactError: TensorRT or CUDA refuse.
            KernelError: CUDA refuses a launch.
        """
        if self._is_warm and self._may_capture:
            self._capture(stream, say)
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self._enqueue(stream)
            self._is_warm = True  # only now: a launch that failed has not warmed up what comes after it

    def launch_in_steps(self, stream: int, after: Callable[[Launched], None]) -> None:
        """Put everything on a stream plainly, whether there is a graph or not, and tell each part once it is there.

        Args:
            stream: see :meth:`launch`.
            after: called with each part, behind which the caller may put something of its own.

        Raises:
            ArtifactError: TensorRT or CUDA refuse.
            KernelError: CUDA refuses a launch.
        """
        for launched, launch in self._launches:
            launch(stream)
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
        with ExitStack() as stack:  # each is released, whatever becomes of the others
            for context in self._contexts:
                stack.callback(context.close)
            if self._pinned is not None:
                stack.callback(self._pinned.close)
            if self._graph is not None:
                stack.callback(self._graph.close)
            self._contexts, self._pinned, self._graph, self._launches = [], None, None, []

    def _bind(self, profile: int, stream: int) -> tuple[dict[str, Shape], dict[int, OperatorPlan]]:
        """Bind the engines, step by step, and return all tensors' shapes and the operators' plans."""
        batch, canvas, _ = self.key
        shapes: dict[str, Shape] = {"images": (batch, 3, *canvas), "image_sizes": (batch, 2)}
        plans = {}
        for index, step in enumerate(self._program.steps):
            if isinstance(step, LoadedOperator):
                plans[index] = step.wiring.plan([shapes[name] for name in step.step.inputs], {})
                shapes[step.step.output] = plans[index].output_shape
                continue
            context = self._program.engines[step.part].create_context()
            self._contexts.append(context)
            made = context.bind(profile, {name: shapes[name] for name in step.inputs}, stream)
            for name in step.outputs:
                shape = made.get(name)
                if shape is None or min(shape, default=0) < 0:
                    raise ArtifactError(
                        f"{step.part}: expected an output {name} of a fixed shape, got {shape}",
                        hint=self._program.manifest.build_command("model.frcnn"),
                    )
                shapes[name] = tuple(shape)
        return shapes, plans

    def _lay_out(self) -> None:
        """Lay out every tensor, scratch and workspace in the arena. Steps are numbered from 2, after both inputs."""
        first = {"images": 1 if self.key.from_pixels else 0, "image_sizes": 0}
        last = dict.fromkeys(first, 1)
        workspaces = []
        contexts = iter(self._contexts)
        for number, step in enumerate(self._program.steps, 2):
            plain = step.step if isinstance(step, LoadedOperator) else step
            outputs = plain.outputs if isinstance(plain, EngineStep) else (plain.output,)
            first |= dict.fromkeys(outputs, number)
            last |= dict.fromkeys((*plain.inputs, *outputs), number)
            needed = (
                next(contexts).workspace_bytes
                if isinstance(step, EngineStep)
                else self._plans[number - 2].scratch_bytes
            )
            workspaces.append(Block(f"workspace {number - 2}", needed, number, number))
        self.fields, self.answers_bytes = self._fields()
        blocks = [
            Block(name, self._bytes_of(name), first[name], last[name]) for name in first if name not in self.fields
        ]
        end = 2 + len(self._program.steps)
        blocks.append(Block("answers", self.answers_bytes, min(first[name] for name in OUTPUTS), end))
        if self.key.from_pixels:
            blocks.append(Block("table", self.key.batch * len(IMAGE_COLUMNS) * 8, 0, 1))
        self._offsets, self.arena_bytes = lay_out([*blocks, *workspaces])

    def _fields(self) -> tuple[dict[str, Field], int]:
        """Return where the outputs lie in one block, so that they come down in one copy."""
        fields, end = {}, 0
        for name in OUTPUTS:
            shape = self._shapes[name]
            fields[name] = Field(end, shape, ELEMENT_DTYPES[self._program.manifest.tensors[name].element])
            end += aligned(self._bytes_of(name))
        return fields, end

    def _bytes_of(self, name: str) -> int:
        element = ELEMENT_DTYPES[self._program.manifest.tensors[name].element]
        return math.prod(self._shapes[name]) * element.itemsize

    def _take_pinned(self) -> None:
        batch = self.key.batch
        inputs: dict[str, tuple[np.dtype[Any], Shape]] = {"image_sizes": (np.dtype(np.int32), (batch, 2))}
        if self.key.from_pixels:
            inputs["table"] = (np.dtype(np.int64), (batch, len(IMAGE_COLUMNS)))
        else:
            inputs["images"] = (
                ELEMENT_DTYPES[self._program.manifest.tensors["images"].element],
                self._shapes["images"],
            )
        places, end = {}, 0
        for name, (dtype, shape) in inputs.items():
            places[name] = Field(end, shape, dtype)
            end += aligned(math.prod(shape) * dtype.itemsize)
        self._answers_at, self._inputs = end, places
        self._pinned = self._device.allocate_pinned(end + self.answers_bytes)
        memory = self._pinned.array
        self.answers = {name: _view(memory[end:], place) for name, place in self.fields.items()}
        self.sizes = self._input("image_sizes", memory)
        self.table = self._input("table", memory)
        self.images = self._input("images", memory)

    def _input(self, name: str, memory: NDArray[np.uint8]) -> NDArray[Any]:
        return _view(memory, self._inputs.get(name, Field(0, (0,), np.dtype(np.uint8))))

    def _taken(self) -> PinnedMemory:
        assert self._pinned is not None
        return self._pinned

    def _uploads(self, at: Mapping[str, int]) -> list[tuple[Launched, Launch]]:
        pinned = self._taken().pointer
        return [
            (
                Launched("upload", name),
                partial(
                    self._device.copy, at[name], pinned + place.offset, math.prod(place.shape) * place.dtype.itemsize
                ),
            )
            for name, place in self._inputs.items()
        ]

    def _preprocess(self, at: Mapping[str, int]) -> list[tuple[Launched, Launch]]:
        if not self.key.from_pixels:
            return []
        loaded = self._program.preprocess
        height, width = self.key.canvas
        launch = loaded.kernel.bind({"N": self.key.batch, "H": height, "W": width})
        kernel = partial(loaded.launch, launch, (at["table"], at["images"]))
        return [(Launched("preprocess", loaded.kernel.entry), kernel)]

    def _operator(
        self, operator: LoadedOperator, plan: OperatorPlan, at: Mapping[str, int], scratch: int
    ) -> list[tuple[Launched, Launch]]:
        inputs = [at[name] for name in operator.step.inputs]
        pointers = operator.wiring.pointers(plan, inputs, at[operator.step.output], scratch)
        return [
            (
                Launched("operator", f"{operator.step.node} ({loaded.kernel.entry})"),
                partial(loaded.launch, launch, addresses),
            )
            for loaded, launch, addresses in zip(operator.kernels, plan.launches, pointers, strict=True)
        ]

    def _enqueue(self, stream: int) -> None:
        for _, launch in self._launches:
            launch(stream)

    def _capture(self, stream: int, say: Say) -> None:
        """Capture the graph, once; where that is impossible the launches stay plain for ever."""
        self._may_capture = False
        if not all(context.is_capturable(stream) for context in self._contexts):
            say("an engine cannot be captured in a CUDA graph; its layers are launched one by one, which is slower")
            return
        try:
            self._graph = self._device.capture(stream, lambda: self._enqueue(stream))
        except (ArtifactError, KernelError) as error:
            say(f"capturing a CUDA graph failed; layers are launched one by one, which is slower: {error.message}")


def _view(memory: NDArray[np.uint8], place: Field) -> NDArray[Any]:
    return np.ndarray(place.shape, place.dtype, buffer=memory, offset=place.offset)
