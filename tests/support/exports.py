"""Exports of the narrowed families, each made once per run and shared by all tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from maintenance.calibrated import calibrate
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.exporter import export_onnx
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.runtime import Detections
from frcnn.spec import Manifest, ModelSpec, Precision, Size
from support.families import build
from support.images import SHAPES, photographs, tensor
from support.made_once import made_once

OUTPUTS = ("num_detections", "boxes", "scores", "labels")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A narrowed family and its export; ``weights_before`` are a copy from before it."""

    path: Path
    model: GeneralizedRCNN
    spec: ModelSpec
    manifest: Manifest
    weights_before: dict[str, Tensor]


class Exports:
    """A memo of exports, of whichever process made them."""

    def __init__(self) -> None:
        self._models: dict[str, GeneralizedRCNN] = {}
        self._exports: dict[tuple[Any, ...], Exported] = {}
        self._sessions: dict[Path, Any] = {}

    def __call__(
        self, family: str, precision: Precision = "fp32", size: Size | tuple[Size, ...] | None = None
    ) -> Exported:
        """Return the export of a calibrated family, made now if it is the first time."""
        key = (family, precision, size)
        if key not in self._exports:
            folder = made_once(f"export {family} {precision} {size}", lambda empty: self._export(empty, *key))
            model, manifest, weights_before = torch.load(folder / "export.pt", weights_only=False)
            path = folder / f"{family}-{precision}.onnx"
            self._exports[key] = Exported(
                path=path, model=model, spec=manifest.model, manifest=manifest, weights_before=weights_before
            )
        return self._exports[key]

    def _export(self, folder: Path, family: str, precision: Precision, size: Size | tuple[Size, ...] | None) -> None:
        model = self.model(family)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        path = folder / f"{family}-{precision}.onnx"
        manifest = export_onnx(model, path, size=size, precision=precision, architecture=family)
        torch.save((model, manifest, before), folder / "export.pt")

    def model(self, family: str) -> GeneralizedRCNN:
        """Return a calibrated family that need not be exported for the test."""
        if family not in self._models:
            self._models[family] = calibrated(family)
        return self._models[family]

    def spec(self, family: str) -> ModelSpec:
        return read_model_spec(self.model(family), architecture=family)

    def session(self, export: Exported) -> Any:
        if export.path not in self._sessions:
            self._sessions[export.path] = bare_session(export.path)
        return self._sessions[export.path]


def calibrated(family: str) -> GeneralizedRCNN:
    """Build a family whose random weights are calibrated on one photograph of each shape."""
    images = [tensor(photographs(shape)[i]) for i, shape in enumerate(SHAPES)]
    return calibrate(build(family), images)


def bare_session(model: Path | bytes) -> Any:
    """Return an ONNX Runtime session that knows nothing of ours, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_bare(session: Any, images: Tensor, sizes: list[Size]) -> list[NDArray[Any]]:
    """Run an exported model on network input: num_detections, boxes, scores, labels."""
    kind = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    feeds = {"images": images.numpy().astype(kind), "image_sizes": np.array(sizes, np.int32)}
    outputs: list[NDArray[Any]] = session.run(list(OUTPUTS), feeds)
    return outputs


def detections(outputs: Any, sizes: list[Size]) -> list[Detections]:
    """Turn padded outputs (arrays or tensors) into one ``Detections`` an image, in canvas pixels."""
    counts, boxes, scores, labels = (torch.as_tensor(value).numpy() for value in outputs)
    return [
        Detections(
            boxes=boxes[i, :count].astype(np.float32),
            scores=scores[i, :count].astype(np.float32),
            labels=labels[i, :count].astype(np.int64),
            image_size=size,
        )
        for i, (count, size) in enumerate(zip(counts, sizes, strict=True))
    ]
