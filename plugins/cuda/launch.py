"""Launch the operators' kernels from Python, on the caller's stream and the caller's memory.

Two layers. :class:`~frcnn.plugins.cuda.driver.LoadedKernel` takes pointers as integers, for engines that keep their own
memory. :class:`LoadedOperator` takes arrays of PyCUDA, CuPy, Numba, PyTorch or DLPack, looks at them without copying
and checks all it is told::

    align = load_operator("MultiscaleRoIAlign", element="float16", layout="channels_last", output_height=7, ...)
    align(rois, f0, f1, f2, f3, out=pooled, stream=stream)
    nms = load_operator("GroupedNMS", iou_threshold=0.5)
    nms(boxes, scores, out=kept_scores, scratch=scratch, stream=stream)

The context that is current on the calling thread is used, and nothing else: every array and the stream must belong to
it. Calls allocate no device memory and wait for nothing, so they can be captured in a CUDA graph once the operator is
loaded. Order is the caller's business: what makes the inputs must come earlier on the same stream or be waited for
there, the arrays (scratch too) must live and stay untouched until the work is done, and two calls that may run at once
need a scratch each. A stream that an array's library used is never waited for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins.cuda.arrays import ArrayView, check_apart, stream_handle, view_of
from frcnn.plugins.cuda.compiler import OLDEST_PTX, compile_kernel, supported_architectures
from frcnn.plugins.cuda.driver import Driver, LoadedKernel, cuda_driver, load_kernel
from frcnn.plugins.kernel import Element, Kernel, check_choice
from frcnn.plugins.operator_kernels import KERNELS
from frcnn.plugins.operator_plan import OperatorPlan, OperatorWiring, Shape
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels

__all__ = ["LoadedOperator", "load_operator", "load_preprocess"]

_PLANS: Final = 256  # launches remembered an operator, for so many combinations of shapes


class LoadedOperator:
    """An operator with its attributes fixed, ready to be called; :func:`load_operator` makes it.

    Args:
        name: how messages call it.
        kernels: its kernels in order, wired by the names of their tensors.

    Attributes:
        name: see above.
        kernels: likewise.
        inputs: what it is called with, in this order.
        output: what it writes.
    """

    def __init__(self, name: str, kernels: Sequence[LoadedKernel]) -> None:
        self.name = name
        self.kernels = tuple(kernels)
        self._wiring = OperatorWiring([loaded.kernel for loaded in kernels])
        self.inputs = self._wiring.inputs
        self.output = self._wiring.output
        self._plan = lru_cache(maxsize=_PLANS)(self._make_plan)

    def output_shape(self, *input_shapes: Sequence[int], **sizes: int) -> Shape:
        """Return the output's shape.

        Args:
            *input_shapes: one per input.
            **sizes: letters of the output that no input has: H and W of a canvas.

        Raises:
            KernelError: shapes that the operator cannot take.
        """
        return self._plan_for(input_shapes, sizes).output_shape

    def scratch_bytes(self, *input_shapes: Sequence[int], **sizes: int) -> int:
        """Return the bytes of device memory that a call needs beside its arrays; for the arguments see above.

        Raises:
            KernelError: shapes that the operator cannot take.
        """
        return self._plan_for(input_shapes, sizes).scratch_bytes

    def __call__(self, *arrays: Any, out: Any, stream: Any, scratch: Any = None) -> None:
        """Launch the kernels.

        Args:
            *arrays: the inputs; channels-last ones have the logical shape (N, C, H, W) and such strides.
            out: the output, which must share memory with nothing else.
            stream: a stream of cuda.core, PyTorch, CuPy or PyCUDA, or a CUstream as an int; 0 is the legacy default
                stream, None is refused.
            scratch: any array of at least ``scratch_bytes`` bytes where the operator needs some; its contents before
                and after mean nothing.

        Raises:
            KernelError: an array of another type, shape, layout or memory than the operator takes; the message says
                which and how to fix it. Nothing was launched then, unless the driver itself refused.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise KernelError(f"{self.name} takes {len(self.inputs)} arrays ({names}), got {len(arrays)}")
        handle = stream_handle(stream)
        views = [view_of(a, f"{self.name}: {t.name}") for a, t in zip(arrays, self.inputs, strict=True)]
        output = view_of(out, f"{self.name}: out")
        if len(output.shape) != len(self.output.shape):
            raise KernelError(f"{output.what} must have the shape ({', '.join(self.output.shape)}), got {output.shape}")
        sizes = {letter: output.shape[i] for letter, i in self._wiring.free.items()}
        plan = self._plan_for([view.shape for view in views], sizes)

        for view, tensor in zip(views, self.inputs, strict=True):
            view.check(tensor.element, view.shape, self._wiring.layouts.get(tensor.name, "planar"))
        output.check(self.output.element, plan.output_shape, self._wiring.layouts.get(self.output.name, "planar"))
        output.check_writable()
        written = [output, *self._scratch_view(plan, scratch)]
        check_apart([*views, *written], len(written))
        self._check_reachable([*views, *written])

        scratch_at = written[1].pointer if len(written) > 1 else 0
        pointers = self._wiring.pointers(plan, [view.pointer for view in views], output.pointer, scratch_at)
        for loaded, launch, addresses in zip(self.kernels, plan.launches, pointers, strict=True):
            loaded.launch(launch, addresses, handle)

    def _plan_for(self, input_shapes: Sequence[Sequence[int]], sizes: Mapping[str, int]) -> OperatorPlan:
        if len(input_shapes) != len(self.inputs):
            raise KernelError(f"{self.name} takes {len(self.inputs)} input shapes, got {len(input_shapes)}")
        if set(sizes) != set(self._wiring.free):
            free = ", ".join(self._wiring.free) or "none"
            raise KernelError(f"{self.name}: sizes must be given for {free}, got {', '.join(sizes) or 'none'}")
        return self._plan(tuple(tuple(map(int, shape)) for shape in input_shapes), tuple(sorted(sizes.items())))

    def _make_plan(self, input_shapes: tuple[Shape, ...], sizes: tuple[tuple[str, int], ...]) -> OperatorPlan:
        return self._wiring.plan(input_shapes, dict(sizes))

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
        driver = self.kernels[0].driver
        for view in views:
            if view.size_bytes and not driver.is_reachable(view.pointer):
                raise KernelError(
                    f"{view.what} must lie in memory of the current CUDA device, got the address {view.pointer:#x}",
                    hint="make the array's device current, or copy the array to the current one",
                )


def load_operator(
    name: str, *, architecture: str | None = None, driver: Driver | None = None, **attributes: Any
) -> LoadedOperator:
    """Compile and load an operator of the domain ``frcnn``.

    Args:
        name: ``GroupedNMS``, ``MultiscaleRoIAlign`` or ``MultiscaleRoIPool``.
        architecture: ``sm_NN`` or ``compute_NN``; None: that of the current device, or PTX where NVRTC is older.
        driver: None: NVIDIA's.
        **attributes: the operator's attributes, and ``element``, ``layout`` and ``output_layout`` of RoI pooling; see
            ``kernels`` in the operator's folder.

    Raises:
        KernelError: attributes that no kernel can be made for, no current context, or a driver that refuses.
        MissingDependencyError: a package of ``frcnn[cuda]`` is not installed.
    """
    check_choice("operator", name, sorted(KERNELS))
    try:
        inspect.signature(KERNELS[name]).bind(**attributes)
    except TypeError as error:
        known = ", ".join(inspect.signature(KERNELS[name]).parameters)
        raise KernelError(f"{name}: {error}", hint=f"its attributes are {known}") from error
    return _load(name, KERNELS[name](**attributes), architecture, driver)


def load_preprocess(
    *,
    element: Element = "float32",
    image_mean: Sequence[float],
    image_std: Sequence[float],
    architecture: str | None = None,
    driver: Driver | None = None,
) -> LoadedOperator:
    """Compile and load preprocessing, called as ``preprocess(images, out=images, stream=stream)``.

    ``images (N, 8)`` int64 lies in device memory, and so must the images whose addresses it holds, which cannot be
    checked; :data:`~frcnn.plugins.preprocess.IMAGE_COLUMNS` names its columns. ``images (N, 3, H, W)`` gives the
    canvas.

    Args:
        element: type of ``images``.
        image_mean: per channel (R, G, B), of images in [0, 1].
        image_std: likewise.
        architecture: see :func:`load_operator`.
        driver: likewise.

    Raises:
        KernelError: see :func:`load_operator`.
        MissingDependencyError: likewise.
    """
    kernels = preprocess_kernels(element=element, image_mean=image_mean, image_std=image_std)
    return _load("preprocess", kernels, architecture, driver)


def _load(name: str, kernels: Sequence[Kernel], architecture: str | None, driver: Driver | None) -> LoadedOperator:
    chosen = cuda_driver() if driver is None else driver
    if architecture is None:
        architecture = chosen.architecture()
        if architecture not in supported_architectures():
            architecture = OLDEST_PTX
    compiled = (compile_kernel(kernel, architecture) for kernel in kernels)
    return LoadedOperator(name, [load_kernel(code, driver=chosen) for code in compiled])
