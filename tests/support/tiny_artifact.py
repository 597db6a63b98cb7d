"""The smallest artifact: an engine, NMS, another engine, with Python functions for engines.

Its outputs depend on every pixel and the image's size only, so that mixed up images or batches are detected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.grouped_nms.reference import grouped_nms
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator_kernels import kernels_of
from frcnn.plugins.preprocess import kernels as preprocess_kernels
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.spec import Manifest
from frcnn.spec.engine import EngineStep, EngineTensor, OperatorStep, Profile, Range, kernel_part
from support.engine_files import NO_MEMORY, engine_manifest, listed_parts
from support.fake_device import FakeDevice, code_of
from support.fake_engine import FakeEngine

K = 5
IOU = 0.5
CELL = 32

Arrays = dict[str, np.ndarray]


def profile(batch: tuple[int, int], height: tuple[int, int], width: tuple[int, int]) -> Profile:
    ranges = (Range(min=minimum, opt=maximum, max=maximum) for minimum, maximum in (batch, height, width))
    return Profile(**dict(zip(("batch", "height", "width"), ranges, strict=True)))


DYNAMIC = profile((1, 4), (64, 256), (64, 256))

_FLOATS = ("images", "candidates", "candidate_scores", "kept", "boxes", "scores")
TENSORS = {name: EngineTensor(element="float32") for name in _FLOATS}
TENSORS |= {name: EngineTensor(element="int32") for name in ("image_sizes", "num_detections", "labels")}
STEPS = (
    EngineStep(part="engines/0.plan", inputs=("images",), outputs=("candidates", "candidate_scores")),
    OperatorStep(
        node="nms",
        operator="GroupedNMS",
        attributes={"iou_threshold": IOU},
        inputs=("candidates", "candidate_scores"),
        output="kept",
    ),
    EngineStep(
        part="engines/1.plan",
        inputs=("candidates", "kept", "image_sizes"),
        outputs=("num_detections", "boxes", "scores", "labels"),
    ),
)


def propose(arrays: Arrays) -> Arrays:
    """Give each cell of 32 x 32 pixels two boxes, the second nearly the first, and its mean for a score."""
    images = arrays["images"].astype(np.float32)
    n, _, h, w = images.shape
    cells = images.reshape(n, 3, h // CELL, CELL, w // CELL, CELL).mean(axis=(1, 3, 5)).reshape(n, -1)
    rows, columns = np.divmod(np.arange(cells.shape[1]), w // CELL)
    corner = np.stack([columns, rows], axis=1).astype(np.float32) * CELL
    first = np.concatenate([corner, corner + CELL], axis=1)
    second = first + np.array([0, 0, 3, 3], np.float32)
    boxes = np.concatenate([first, second]).astype(np.float32)
    scores = np.concatenate([cells, cells * np.float32(0.9)], axis=1).astype(np.float32)
    return {"candidates": np.tile(boxes, (n, 1, 1)), "candidate_scores": scores}


def select(arrays: Arrays) -> Arrays:
    """Take the best K of what was kept, clipped to the image."""
    kept, sizes = arrays["kept"], arrays["image_sizes"]
    order = np.argsort(-kept, axis=1, kind="stable")[:, :K]
    scores = np.take_along_axis(kept, order, axis=1)
    boxes = np.take_along_axis(arrays["candidates"], order[:, :, None], axis=1)
    limits = sizes[:, [1, 0, 1, 0]].astype(np.float32)[:, None]
    present = scores > 0
    return {
        "num_detections": present.sum(axis=1).astype(np.int32),
        "boxes": np.where(present[:, :, None], np.minimum(boxes, limits), 0).astype(np.float32),
        "scores": np.where(present, scores, 0).astype(np.float32),
        "labels": np.where(present, 1 + order % 3, 0).astype(np.int32),
    }


def tiny_outputs(images: np.ndarray, image_sizes: np.ndarray) -> Arrays:
    """Return what the artifact results, without any of the runtime."""
    arrays: Arrays = {"images": images, "image_sizes": image_sizes}
    arrays |= propose(arrays)
    boxes, scores = (torch.from_numpy(arrays[name]) for name in ("candidates", "candidate_scores"))
    arrays["kept"] = grouped_nms(boxes, scores, iou_threshold=IOU).numpy()
    return select(arrays)


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
        kernels: list[Kernel] = [
            *kernels_of("GroupedNMS", {"iou_threshold": IOU}, element="float32"),
            *preprocess_kernels(element=images, image_mean=transform.image_mean, image_std=transform.image_std),
        ]
        self.parts = {
            kernel_part(kernel.entry, fingerprint(kernel), name): code_of(kernel, name)
            for kernel in kernels
            for name in architectures
        }
        self.parts |= {"engines/0.plan": b"first", "engines/1.plan": b"second"}
        self.manifest = engine_manifest(
            listed_parts(self.parts),
            source=source,
            precision="fp32",
            profiles=profiles,
            architectures=architectures,
            tensors=TENSORS | {"images": EngineTensor(element=images)},
            steps=STEPS,
            memory=NO_MEMORY,
        )

    def read_part(self, name: str) -> bytes:
        return self.parts[name]

    def engines(self, device: FakeDevice, **options: Any) -> dict[str, FakeEngine]:
        def candidates(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
            n, _, h, w = shapes["images"]
            count = 2 * (h // CELL) * (w // CELL)
            return {"candidates": (n, count, 4), "candidate_scores": (n, count)}

        def detections(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
            n = shapes["kept"][0]
            return {"num_detections": (n,), "boxes": (n, K, 4), "scores": (n, K), "labels": (n, K)}

        makers: tuple[tuple[Callable[[Arrays], Arrays], Any], ...] = ((propose, candidates), (select, detections))
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
            for step, (run, shapes) in zip((STEPS[0], STEPS[2]), makers, strict=True)
            if isinstance(step, EngineStep)
        }

    def backend(self, device: FakeDevice, *, workers: int = 2, **options: Any) -> EngineBackend:
        return EngineBackend(self.manifest, self.read_part, device, self.engines(device, **options), workers=workers)
