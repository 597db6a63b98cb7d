"""Launch the operators' kernels from Python, on the caller's stream and memory.

:class:`LoadedOperator` takes arrays of PyCUDA, CuPy, Numba, PyTorch or DLPack without copying, and checks them::

    align = load_operator("MultiscaleRoIAlign", element="float16", layout="channels_last", output_height=7, ...)
    align(rois, f0, f1, f2, f3, out=pooled, stream=stream)
    detect = load_operator("BoxDetections", element="float16", max_detections=100, ...)
    detect(rois, sizes, logits, deltas, out=(count, boxes, scores, labels), scratch=scratch, stream=stream)

Every array and the stream must belong to the context that is current on the calling thread. Calls allocate no device
memory and wait for nothing, so a loaded operator can be captured in a CUDA graph. The caller orders the work: inputs
must be ready earlier on the same stream, arrays and scratch must stay untouched until the work is done, and calls that
may run at the same time need a scratch each. Streams of the arrays' libraries are not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins.cuda.arrays import ArrayView, check_apart, stream_handle, view_of
from frcnn.plugins.cuda.compiler import OLDEST_PTX, compile_kernel, supported_architectures
from frcnn.plugins.cuda.driver import Driver, LoadedKernel, cuda_driver
from frcnn.plugins.kernel import Element, Kernel
from frcnn.plugins.operator_kernels import kernels_for, wiring_of
from frcnn.plugins.operator_plan import OperatorPlan, Shape
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels
from frcnn.spec import ResizeRule

_PLANS: Final = 256  # combinations of shapes that an operator remembers


class LoadedOperator:
    """An operator with its attributes fixed; :func:`load_operator` returns one.

    Attributes:
        name: its name in messages.
        kernels: in the order in which they run, wired by the names of their tensors.
        inputs: the tensors that it is called with.
        outputs: the tensors that it writes.
    """

    def __init__(self, name: str, kernels: Sequence[LoadedKernel]) -> None:
        self.name = name
        self.kernels = tuple(kernels)
        self._wiring = wiring_of(name, [loaded.kernel for loaded in kernels])
        self.inputs = self._wiring.inputs
        self.outputs = self._wiring.outputs
        self._plan = lru_cache(maxsize=_PLANS)(lambda shapes, sizes: self._wiring.plan(shapes, dict(sizes)))

    def output_shapes(self, *input_shapes: Sequence[int], **sizes: int) -> tuple[Shape, ...]:
        """Return the outputs' shapes.

        Args:
            *input_shapes: one per input.
            **sizes: letters of the first output that no input has: H and W of a canvas.

        Raises:
            KernelError: shapes that the operator cannot take.
        """
        return self.plan(input_shapes, **sizes).output_shapes

    def scratch_bytes(self, *input_shapes: Sequence[int], **sizes: int) -> int:
        """Return the bytes of scratch memory that a call needs; for the arguments see :meth:`output_shapes`."""
        return self.plan(input_shapes, **sizes).scratch_bytes

    def __call__(self, *arrays: Any, out: Any, stream: Any, scratch: Any = None) -> None:
        """Launch the kernels.

        Args:
            *arrays: the inputs; channels-last ones have the logical shape (N, C, H, W) and matching strides.
            out: the output, or a sequence of the outputs in their order; they must not share memory with another array.
            stream: a stream of cuda.core, PyTorch, CuPy or PyCUDA, or a CUstream as an int; 0 is the legacy default
                stream, None is refused.
            scratch: any array of at least ``scratch_bytes`` bytes, where the operator needs some.

        Raises:
            KernelError: an array has another type, shape, layout or memory than the operator takes. Nothing was
                launched, unless the driver itself refused.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise KernelError(f"{self.name} takes {len(self.inputs)} arrays ({names}), got {len(arrays)}")
        handle = stream_handle(stream)
        views = [view_of(a, f"{self.name}: {t.name}") for a, t in zip(arrays, self.inputs, strict=True)]
        outputs = self._output_views(out)
        sizes = {letter: outputs[0].shape[i] for letter, i in self._wiring.free.items()}
        plan = self.plan([view.shape for view in views], **sizes)

        for view, tensor in zip(views, self.inputs, strict=True):
            view.check(tensor.element, view.shape, self._wiring.layouts.get(tensor.name, "planar"))
        for view, tensor, shape in zip(outputs, self.outputs, plan.output_shapes, strict=True):
            view.check(tensor.element, shape, self._wiring.layouts.get(tensor.name, "planar"))
            view.check_writable()
        scratch_views = self._scratch_view(plan, scratch)
        written = [*outputs, *scratch_views]
        check_apart([*views, *written], len(written))
        self._check_reachable([*views, *written])

        scratch_at = scratch_views[0].pointer if scratch_views else 0
        for _, launch in self.bind(plan, [v.pointer for v in views], [v.pointer for v in outputs], scratch_at):
            launch(handle)

    def plan(self, input_shapes: Sequence[Sequence[int]], **sizes: int) -> OperatorPlan:
        """Return the launches and the scratch memory for shapes; see :meth:`output_shapes`, also for errors."""
        if len(input_shapes) != len(self.inputs):
            raise KernelError(f"{self.name} takes {len(self.inputs)} input shapes, got {len(input_shapes)}")
        if set(sizes) != set(self._wiring.free):
            free = ", ".join(self._wiring.free) or "none"
            raise KernelError(f"{self.name}: sizes must be given for {free}, got {', '.join(sizes) or 'none'}")
        return self._plan(tuple(tuple(map(int, shape)) for shape in input_shapes), tuple(sorted(sizes.items())))

    def bind(
        self, plan: OperatorPlan, inputs: Sequence[int], outputs: Sequence[int], scratch: int
    ) -> list[tuple[str, Callable[[int], None]]]:
        """Return each kernel's name and what launches it on a CUstream, for addresses that are not checked."""
        pointers = self._wiring.pointers(plan, inputs, outputs, scratch)
        return [
            (loaded.kernel.entry, partial(loaded.launch, launch, addresses))
            for loaded, launch, addresses in zip(self.kernels, plan.launches, pointers, strict=True)
        ]

    def _output_views(self, out: Any) -> list[ArrayView]:
        arrays = list(out) if isinstance(out, list | tuple) else [out]
        names = [f"{self.name}: {'out' if len(self.outputs) == 1 else tensor.name}" for tensor in self.outputs]
        if len(arrays) != len(self.outputs):
            wanted = ", ".join(tensor.name for tensor in self.outputs)
            raise KernelError(f"{self.name} writes {len(self.outputs)} arrays ({wanted}), got {len(arrays)}")
        views = [view_of(array, name) for array, name in zip(arrays, names, strict=True)]
        for view, tensor in zip(views, self.outputs, strict=True):
            if len(view.shape) != len(tensor.shape):
                raise KernelError(f"{view.what} must have the shape ({', '.join(tensor.shape)}), got {view.shape}")
        return views

    def _scratch_view(self, plan: OperatorPlan, scratch: Any) -> list[ArrayView]:
        if plan.scratch_bytes == 0:
            return []
        if scratch is None:
            raise KernelError(
                f"{self.name} needs {plan.scratch_bytes} bytes of scratch for these shapes, got none",
                hint="pass scratch=, any array in device memory of scratch_bytes(*input_shapes) bytes",
            )
        view = view_of(scratch, f"{self.name}: scratch")
        view.check_bytes(plan.scratch_bytes)
        return [view]

    def _check_reachable(self, views: Sequence[ArrayView]) -> None:
        for view in views:
            if view.size_bytes and not self.kernels[0].driver.is_reachable(view.pointer):
                raise KernelError(
                    f"{view.what} must lie in memory of the current CUDA device, got the address {view.pointer:#x}",
                    hint="make the array's device current, or copy the array to the current one",
                )


def load_operator(
    name: str, *, architecture: str | None = None, driver: Driver | None = None, **attributes: Any
) -> LoadedOperator:
    """Compile and load an operator of the domain ``frcnn``.

    Args:
        name: a name of :data:`frcnn.plugins.OPERATORS`.
        architecture: ``sm_NN`` or ``compute_NN``; None: that of the current device, or PTX where NVRTC is older.
        driver: None: NVIDIA's.
        **attributes: the operator's attributes, ``element``, and ``layout``, ``output_layout`` and ``channels`` of RoI
            pooling.

    Raises:
        KernelError: no kernel has these attributes, no context is current, or the driver refuses.
        MissingDependencyError: a package of ``frcnn[cuda]`` is not installed.
    """
    return _load(name, kernels_for(name, attributes), architecture, driver)


def load_preprocess(
    *,
    element: Element = "float32",
    image_mean: Sequence[float],
    image_std: Sequence[float],
    resize: ResizeRule = "torchvision",
    architecture: str | None = None,
    driver: Driver | None = None,
) -> LoadedOperator:
    """Compile and load preprocessing, called as ``preprocess(sources, out=images, stream=stream)``.

    ``sources (N, 8)`` int64 lies in device memory, and so must the images whose addresses it holds, which cannot be
    checked; :data:`~frcnn.plugins.preprocess.IMAGE_COLUMNS` names its columns. The shape of ``images (N, 3, H, W)``
    gives the canvas.

    Args:
        element: type of ``images``.
        image_mean: per channel (R, G, B), of images in [0, 1].
        image_std: likewise.
        resize: whose rule of resizing holds, see ``TransformSpec``.
        architecture: see :func:`load_operator`, which raises the same errors.
        driver: likewise.
    """
    kernels = preprocess_kernels(element=element, image_mean=image_mean, image_std=image_std, resize=resize)
    return _load("preprocess", kernels, architecture, driver)


def _load(name: str, kernels: Sequence[Kernel], architecture: str | None, driver: Driver | None) -> LoadedOperator:
    chosen = cuda_driver() if driver is None else driver
    if architecture is None:
        architecture = chosen.architecture()
        if architecture not in supported_architectures():
            architecture = OLDEST_PTX
    loaded = []
    for kernel in kernels:
        handle = chosen.load(kernel, compile_kernel(kernel, architecture))
        loaded.append(LoadedKernel(kernel=kernel, handle=handle, driver=chosen))
    return LoadedOperator(name, loaded)
