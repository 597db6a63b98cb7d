"""What every network in host memory has in common: the check of its inputs and outputs, threads, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from frcnn.errors import ArtifactError, UsageError
from frcnn.processors import available_cpus
from frcnn.runtime.backend import NetworkOutput
from frcnn.spec.engine import INPUTS, OUTPUTS

REMAKE: Final = "export the model again: frcnn export CHECKPOINT -o model.onnx"


def checked_threads(threads: int | None) -> int:
    """Return the number of threads: by default all processors that this process may use.

    Raises:
        UsageError: less than 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected 1 or more, got {threads}")
    return threads or available_cpus()


def check_values(
    path: Path, inputs: Mapping[str, str], outputs: Mapping[str, str], *, integer: str, floating: Sequence[str]
) -> None:
    """Refuse a model whose inputs and outputs, name to type, are not a detector's, with an ``ArtifactError``.

    ``integer`` is the library's name of int32, ``floating`` are those of float32 and of what else images may be.
    """
    expected = dict(zip(OUTPUTS, (integer, floating[0], floating[0], integer), strict=True))
    if set(inputs) != set(INPUTS) or outputs != expected:
        raise ArtifactError(
            f"{path}: expected inputs {INPUTS} and outputs {expected}, got {tuple(inputs)} and {outputs}", hint=REMAKE
        )
    if (kind := inputs["images"]) not in floating:
        raise ArtifactError(f"{path}: expected images as one of {', '.join(floating)}, got {kind}", hint=REMAKE)


def run_error(path: Path, library: str, images: tuple[int, ...], why: str) -> ArtifactError:
    """Return the error of a network that failed on images ``(N, 3, H, W)``."""
    batch, _, height, width = images
    return ArtifactError(
        f"{path}: {library} failed on {batch} image(s) on a {height}x{width} canvas: {why}",
        hint="give fewer images at a time or smaller ones where memory ran out; otherwise report it",
    )


def checked_output(path: Path, batch: int, outputs: Sequence[NDArray[Any]]) -> NetworkOutput:
    """Return outputs, in the order of ``OUTPUTS``, as the network's; the types are checked when a model is loaded.

    Raises:
        ArtifactError: their shapes are not a detector's, whatever the file declares.
    """
    rows = outputs[1].shape[1:2]
    got = [output.shape for output in outputs]
    if len(rows) != 1 or got != [(batch,), (batch, *rows, 4), (batch, *rows), (batch, *rows)]:
        shapes = ", ".join(f"{name} {shape}" for name, shape in zip(OUTPUTS, got, strict=True))
        raise ArtifactError(f"{path}: expected the outputs of a detector, got {shapes}", hint=REMAKE)
    return NetworkOutput(**dict(zip(OUTPUTS, outputs, strict=True)))
