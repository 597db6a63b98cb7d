"""The smallest artifact: two networks as Python functions, RoI pooling between them, and the choice of detections.

Its outputs depend on every pixel and the image's size only, so that mixed up images or batches are detected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from frcnn.plugins.box_detections.reference import box_detections
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool
from frcnn.plugins.operator_kernels import kernels_of_step
from frcnn.plugins.preprocess import kernels_of_transform
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.spec import Manifest
from frcnn.spec.engine import EngineStep, EngineTensor, OperatorStep, Profile, Range, kernel_part
from support.engine_files import NO_MEMORY, engine_manifest, listed_parts
from support.fake_device import FakeDevice, code_of
from support.fake_engine import FakeEngine

K = 5
CELL = 32
CLASSES = 4  # one a colour, and the background

Arrays = dict[str, np.ndarray]


def profile(batch: tuple[int, int], height: tuple[int, int], width: tuple[int, int]) -> Profile:
    ranges = (Range(min=minimum, opt=maximum, max=maximum) for minimum, maximum in (batch, height, width))
    return Profile(**dict(zip(("batch", "height", "width"), ranges, strict=True)))


DYNAMIC = profile((1, 4), (64, 256), (64, 256))
POOLING: dict[str, Any] = {
    "output_height": 1,
    "output_width": 1,
    "spatial_scales": (1 / CELL,),
    "level_thresholds": (1e6,),
}
DETECTIONS: dict[str, Any] = {
    "box_weights": (10.0, 10.0, 5.0, 5.0),
    "max_log_scale": 4.0,
    "score_threshold": 1e-6,
    "iou_threshold": 0.5,
    "min_size": 0.01,
    "max_detections": K,
}

_FLOATS = ("images", "features_0", "rois", "pooled", "class_logits", "box_deltas", "boxes", "scores")
TENSORS = {name: EngineTensor(element="float32") for name in _FLOATS}
TENSORS |= {name: EngineTensor(element="int32") for name in ("image_sizes", "num_detections", "labels")}
FEATURES = EngineStep(part="engines/features.plan", inputs=("images",), outputs=("rois", "features_0"))
POOL = OperatorStep(
    node="roi_heads/MultiscaleRoIPool",
    operator="MultiscaleRoIPool",
    attributes=POOLING,
    inputs=("rois", "features_0"),
    outputs=("pooled",),
)
BOXES = EngineStep(part="engines/boxes.plan", inputs=("pooled",), outputs=("class_logits", "box_deltas"))
CHOOSE = OperatorStep(
    node="roi_heads/BoxDetections",
    operator="BoxDetections",
    attributes=DETECTIONS,
    inputs=("rois", "image_sizes", "class_logits", "box_deltas"),
    outputs=("num_detections", "boxes", "scores", "labels"),
)


def features(arrays: Arrays) -> Arrays:
    """Give each cell of 32 x 32 pixels its mean colour and two RoIs, the second nearly the first."""
    images = arrays["images"].astype(np.float32)
    n, _, h, w = images.shape
    means = images.reshape(n, 3, h // CELL, CELL, w // CELL, CELL).mean(axis=(3, 5)).astype(np.float32)
    rows, columns = np.divmod(np.arange(means[0, 0].size), w // CELL)
    corner = np.stack([columns, rows, columns, rows], axis=1).astype(np.float32) * CELL
    first = corner + np.array([2, 2, 14, 14], np.float32)
    rois = np.stack([first, first + 1], axis=1).reshape(-1, 4)
    return {"rois": np.tile(rois, (n, 1, 1)), "features_0": means}


def boxes(arrays: Arrays) -> Arrays:
    """Move each RoI to the end of its cell; its class is the strongest colour, and the mean makes its score."""
    colours = arrays["pooled"][:, :, 0, 0]
    rows = np.arange(len(colours))
    logits = np.full((len(colours), CLASSES), -20, np.float32)
    logits[:, 0] = 0
    logits[rows, 1 + colours.argmax(axis=1)] = 64 * (colours.mean(axis=1) - np.float32(0.5)) - rows % 2
    deltas = np.zeros((len(colours), CLASSES, 4), np.float32)
    deltas[:, :, :2] = 15
    return {"class_logits": logits, "box_deltas": deltas.reshape(len(colours), -1)}


def tiny_outputs(images: np.ndarray, image_sizes: np.ndarray) -> Arrays:
    """Return what the artifact results, without any of the runtime."""
    made = {name: torch.from_numpy(array) for name, array in features({"images": images}).items()}
    pooled = multiscale_roi_pool(made["rois"], [made["features_0"]], **POOLING)
    made |= {name: torch.from_numpy(array) for name, array in boxes({"pooled": pooled.numpy()}).items()}
    sizes = torch.from_numpy(np.asarray(image_sizes, np.int32))
    found = box_detections(made["rois"], sizes, made["class_logits"], made["box_deltas"], **DETECTIONS)
    return {name: value.numpy() for name, value in found._asdict().items()}


class TinyArtifact:
    """The artifact and engines for a device; ``profiles`` are the shapes that the engines take."""

    def __init__(
        self,
        source: Manifest,
        *,
        profiles: tuple[Profile, ...] = (DYNAMIC,),
        images: Any = "float32",
        architectures: tuple[str, ...] = ("sm_89", "compute_75"),
    ) -> None:
        transform = source.model.transform
        tensors = TENSORS | {"images": EngineTensor(element=images)}
        (preprocess,) = kernels_of_transform(transform, images)
        self.kernels: tuple[Kernel, ...] = (
            preprocess,
            *kernels_of_step(POOL, tensors),
            *kernels_of_step(CHOOSE, tensors),
        )
        self.parts = {
            kernel_part(kernel.entry, fingerprint(kernel), name): code_of(kernel, name)
            for kernel in self.kernels
            for name in architectures
        }
        self.parts |= {FEATURES.part: b"first", BOXES.part: b"second"}
        self.manifest = engine_manifest(
            listed_parts(self.parts),
            source=source,
            precision="fp32",
            profiles=profiles,
            architectures=architectures,
            tensors=tensors,
            steps=(FEATURES, POOL, BOXES, CHOOSE),
            memory=NO_MEMORY,
        )

    def read_part(self, name: str) -> bytes:
        return self.parts[name]

    def engines(self, device: FakeDevice, **options: Any) -> dict[str, FakeEngine]:
        def of_features(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
            n, _, h, w = shapes["images"]
            rows, columns = h // CELL, w // CELL
            return {"rois": (n, 2 * rows * columns, 4), "features_0": (n, 3, rows, columns)}

        def of_boxes(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
            rows = shapes["pooled"][0]
            return {"class_logits": (rows, CLASSES), "box_deltas": (rows, 4 * CLASSES)}

        makers: tuple[tuple[EngineStep, Callable[[Arrays], Arrays], Any], ...] = (
            (FEATURES, features, of_features),
            (BOXES, boxes, of_boxes),
        )
        return {
            step.part: FakeEngine(
                device,
                inputs=step.inputs,
                outputs=step.outputs,
                tensors=self.manifest.tensors,
                run=run,
                shapes=shapes,
                profiles=len(self.manifest.profiles),
                **options,
            )
            for step, run, shapes in makers
        }

    def backend(self, device: FakeDevice, *, workers: int = 2, **options: Any) -> EngineBackend:
        return EngineBackend(self.manifest, self.read_part, device, self.engines(device, **options), workers=workers)
