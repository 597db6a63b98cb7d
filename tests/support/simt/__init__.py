"""Run CUDA kernels on the CPU, from the same ``.cu`` files, compiled for the host behind a small SIMT shim.

An access past the end of a tensor ends the process; in the order "reverse", one before its start does. Undefined
behaviour (where the compiler has a library that detects it), a write beside a tensor or into an input, a block that
hangs, and barriers or warp collectives that do not match raise an error. Shared memory and outputs are garbage before
they are written. Timing, the memory model between blocks and the CUDA compiler's code cannot be tested here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from frcnn.plugins.kernel import Kernel, Launch
from support.simt.library import forget, host_function, require_compiler
from support.simt.memory import GuardedTensor

__all__ = ["SCHEDULES", "launch_on_host", "require_compiler", "run_on_host"]

SCHEDULES = {"forward": 0, "reverse": 1, "shuffled": 12345}


def launch_on_host(kernel: Kernel, launch: Launch, pointers: Sequence[int], *, schedule: str = "forward") -> None:
    """Run one launch on addresses of this process: inputs, then outputs. What is wrong with it raises RuntimeError."""
    if 0 in launch.grid:
        return
    failure = host_function(kernel)(
        (ctypes.c_void_p * len(pointers))(*pointers),
        (ctypes.c_int * max(1, len(launch.integers)))(*launch.integers),
        (ctypes.c_uint * 3)(*launch.grid),
        (ctypes.c_uint * 3)(*launch.block),
        SCHEDULES[schedule],
    )
    if failure:
        forget(kernel)
        raise RuntimeError(f"{kernel.entry}: {failure.decode()}")


def run_on_host(
    kernels: Sequence[Kernel],
    inputs: Mapping[str, Tensor],
    *,
    sizes: Mapping[str, int] | None = None,
    schedule: str = "forward",
) -> dict[str, Tensor]:
    """Run the kernels of an operator, wired by the names of their tensors, and return every output of every kernel.

    Inputs lie on the CPU; those in ``Kernel.layouts`` have the logical shape (N, C, H, W) and lie channels-last.
    """
    after_page = schedule == "reverse"
    given = {name: _guarded_input(tensor, after_page) for name, tensor in inputs.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    outputs: dict[str, tuple[GuardedTensor, bool]] = {}
    for kernel in kernels:
        for tensor in kernel.inputs:
            if tensor.name in inputs:
                _check_input(kernel, tensor.name, tensor.element, inputs[tensor.name])
        launch = kernel.bind(kernel.sizes([shapes[tensor.name] for tensor in kernel.inputs]) | dict(sizes or {}))
        for tensor, shape in zip(kernel.outputs, launch.output_shapes, strict=True):
            last = kernel.layouts.get(tensor.name) == "channels_last"
            in_memory = (shape[0], *shape[2:], shape[1]) if last else shape
            made = GuardedTensor(in_memory, getattr(torch, tensor.element), after_page=after_page)
            outputs[tensor.name], given[tensor.name], shapes[tensor.name] = (made, last), made, shape
        pointers = [given[tensor.name].pointer for tensor in (*kernel.inputs, *kernel.outputs)]
        launch_on_host(kernel, launch, pointers, schedule=schedule)
        for tensor in kernel.outputs:
            given[tensor.name].freeze()
    for name in inputs:
        given[name].result(name)
    return {name: _logical(made.result(name), last) for name, (made, last) in outputs.items()}


def _guarded_input(tensor: Tensor, after_page: bool) -> GuardedTensor:
    contiguous = tensor.permute(0, 2, 3, 1) if _is_channels_last(tensor) else tensor
    return GuardedTensor(tuple(contiguous.shape), tensor.dtype, contiguous.contiguous(), after_page=after_page)


def _is_channels_last(tensor: Tensor) -> bool:
    if tensor.ndim != 4 or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last)


def _logical(tensor: Tensor, channels_last: bool) -> Tensor:
    return tensor.permute(0, 3, 1, 2) if channels_last else tensor


def _check_input(kernel: Kernel, name: str, element: str, tensor: Tensor) -> None:
    assert tensor.dtype == getattr(torch, element), f"{name}: {tensor.dtype}, the kernel takes {element}"
    last = kernel.layouts.get(name) == "channels_last"
    expected = torch.channels_last if last else torch.contiguous_format
    assert tensor.is_contiguous(memory_format=expected), f"{name} must lie {expected}"
