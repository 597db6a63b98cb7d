"""Detect with PyCUDA's context, stream and arrays, without copies.

python examples/pycuda_detect/detect.py model.frcnn photo.jpg [more.jpg ...] [--score 0.5]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.autoinit  # makes PyCUDA's own context current; frcnn works in it
import pycuda.driver as cuda
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycuda import gpuarray

from frcnn.runtime import Detector


def read(path: Path) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) uint8 RGB in pinned memory, so that copies are asynchronous."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    pinned: NDArray[np.uint8] = cuda.pagelocked_empty((upright.height, upright.width, 3), np.uint8)
    pinned[:] = np.asarray(upright)
    return pinned


def as_gpuarray(array: Any) -> gpuarray.GPUArray:
    """Return an output as a GPUArray over the same memory, which it keeps alive."""
    return gpuarray.GPUArray(array.shape, array.dtype, base=array, gpudata=array.pointer)


def main() -> None:
    """Detect in the images and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.frcnn, made by frcnn build")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--score", type=float, default=0.5, help="print what scores this much or more")
    given = parser.parse_args()

    stream = cuda.Stream()
    with Detector.load(given.model) as detector:
        pixels = [read(path) for path in given.images]  # kept until the stream has copied them
        images = [gpuarray.to_gpu_async(array, stream=stream) for array in pixels]
        # the network waits for the stream and the stream for the network; no thread waits here
        found = detector(images, stream=stream, device_output=True)
        for path, image, output in zip(given.images, images, found, strict=True):
            counts, boxes, scores, labels = (
                as_gpuarray(array).get_async(stream=stream)
                for array in (output.num_detections, output.boxes, output.scores, output.labels)
            )
            stream.synchronize()
            boxes *= output.to_image  # from the network's canvas to the image's own pixels
            print(f"{path}: {image.shape[1]} x {image.shape[0]} pixels, {counts[0]} detections")
            for box, score, label in zip(boxes[: counts[0]], scores, labels, strict=False):
                if score >= given.score:
                    name = detector.labels[label] if detector.labels else label
                    print(f"  {name} {score:.3f} at {', '.join(f'{side:.1f}' for side in box)}")
        del found  # its memory belongs to the context, which autoinit destroys at exit
    print(f"on {pycuda.autoinit.device.name()}, in PyCUDA's own context")


if __name__ == "__main__":
    main()
