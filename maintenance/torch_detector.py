"""A detector whose networks run in PyTorch: an artifact in memory, with our kernels compiled for one architecture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from frcnn._version import __version__
from frcnn.exporter.engine.precision_proof import ELEMENT_OF_PRECISION
from frcnn.exporter.graph.trace import OPSETS
from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.plugins.cuda.compiler import compile_kernel, compiler_version, fingerprint
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator_kernels import kernels_of_step
from frcnn.plugins.preprocess.kernel import kernels_of_transform
from frcnn.spec import SCHEMA_VERSION, Manifest, Precision
from frcnn.spec.engine import (
    ENGINE_SCHEMA_VERSION,
    INPUTS,
    OUTPUTS,
    EngineManifest,
    EngineStep,
    EngineTensor,
    MemoryNeeds,
    OperatorStep,
    Part,
    Profile,
    Range,
    kernel_part,
)
from maintenance.torch_networks import FlattenedLast, TorchEngine

FEATURES: Final = "engines/features.plan"
BOXES: Final = "engines/boxes.plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchDetector:
    """What ``EngineBackend`` takes, but for the device: manifest, parts and engines."""

    manifest: EngineManifest
    parts: Mapping[str, bytes]
    engines: Mapping[str, TorchEngine]


def make_detector(
    model: FasterRCNN,
    precision: Precision,
    *,
    architecture: str,
    on_gpu: bool = True,
    max_batch: int = 8,
    compile_code: Callable[[Kernel, str], bytes] = compile_kernel,
) -> TorchDetector:
    """Make a detector of a live model, for every canvas.

    Args:
        model: in eval mode; is copied.
        precision: of the networks.
        architecture: of the kernels, ``sm_NN``.
        on_gpu: whether modules run on the current CUDA device, channels-last, or on the CPU.
        max_batch: images in a batch.
        compile_code: returns a kernel's code for an architecture.
    """
    spec = read_model_spec(model)
    module: Any = DeployableFasterRCNN(model, spec, precision)
    module = module.to("cuda" if on_gpu else "cpu", memory_format=torch.channels_last)
    element: Any = ELEMENT_OF_PRECISION[precision]
    channels = int(model.backbone.out_channels)
    levels, pooled_levels = spec.rpn.num_levels, len(spec.roi_heads.pooler.feature_names)
    objectness, deltas = ([f"{name}_{i}" for i in range(levels)] for name in ("objectness", "deltas"))
    features = [f"features_{i}" for i in range(pooled_levels)]
    maps = EngineTensor(element=element, layout="channels_last", channels=channels)
    tensors = {name: EngineTensor(element=element) for name in ("images", *objectness, *deltas)}
    tensors |= dict.fromkeys(features, maps) | {"pooled": maps, "rois": EngineTensor(element="float32")}
    tensors |= {name: EngineTensor(element=element) for name in ("class_logits", "box_deltas")}
    tensors |= {name: EngineTensor(element="float32") for name in ("boxes", "scores")}
    tensors |= {name: EngineTensor(element="int32") for name in ("image_sizes", "num_detections", "labels")}
    steps = _steps(module, objectness, deltas, features)
    parts = {FEATURES: b"PyTorch", BOXES: b"PyTorch"}
    transform = spec.transform
    kernels = list(kernels_of_transform(transform, element))
    kernels += [k for step in steps if isinstance(step, OperatorStep) for k in kernels_of_step(step, tensors)]
    parts |= {kernel_part(k.entry, fingerprint(k), architecture): compile_code(k, architecture) for k in kernels}
    side = Range(min=transform.size_divisible, opt=transform.size_divisible, max=1 << 14)
    versions = {"frcnn": __version__, "torch": torch.__version__}
    manifest = EngineManifest(
        schema_version=ENGINE_SCHEMA_VERSION,
        source=Manifest(
            schema_version=SCHEMA_VERSION,
            model=spec,
            precision=precision,
            canvases=None,
            opset=OPSETS[precision],
            versions=versions,
            source_sha256=None,
            assumptions=(),
        ),
        source_onnx_sha256=hashlib.sha256(b"").hexdigest(),
        target="onnxruntime",
        target_version="0",
        version_compatible=False,
        cuda_major=compiler_version()[0],
        precision=precision,
        profiles=(Profile(batch=Range(min=1, opt=1, max=max_batch), height=side, width=side),),
        compute_capabilities=(),
        architectures=(architecture,),
        tensors=tensors,
        steps=steps,
        parts={name: Part(size_bytes=len(c), sha256=hashlib.sha256(c).hexdigest()) for name, c in parts.items()},
        memory=MemoryNeeds(weights_bytes=0, tensors_bytes=0, workspace_bytes=0),
        versions=versions,
    )
    networks: dict[str, Callable[..., Any]] = {
        FEATURES: _flat(module.features),
        BOXES: _box_network(module.boxes, channels),
    }
    engines = {
        step.part: TorchEngine(
            networks[step.part], inputs=step.inputs, outputs=step.outputs, tensors=tensors, on_gpu=on_gpu
        )
        for step in steps
        if isinstance(step, EngineStep)
    }
    return TorchDetector(manifest=manifest, parts=parts, engines=engines)


def _steps(
    module: DeployableFasterRCNN, objectness: Sequence[str], deltas: Sequence[str], features: Sequence[str]
) -> tuple[EngineStep | OperatorStep, ...]:
    stages = module.stages

    def operator(node: str, stage: Any, inputs: Sequence[str], outputs: Sequence[str]) -> OperatorStep:
        name = stage.spec.name
        attributes = dict(stage.attributes)
        return OperatorStep(
            node=f"{node}/{name}", operator=name, attributes=attributes, inputs=tuple(inputs), outputs=tuple(outputs)
        )

    heads = (*objectness, *deltas)
    images, sizes = INPUTS
    return (
        EngineStep(part=FEATURES, inputs=(images,), outputs=(*heads, *features)),
        operator("rpn", stages.proposals, (sizes, images, *heads), ("rois",)),
        operator("roi_heads", stages.pooling, ("rois", *features), ("pooled",)),
        EngineStep(part=BOXES, inputs=("pooled",), outputs=("class_logits", "box_deltas")),
        operator("roi_heads", stages.detections, ("rois", sizes, "class_logits", "box_deltas"), OUTPUTS),
    )


def _flat(network: Callable[..., Any]) -> Callable[..., Any]:
    """Return the network with its outputs in one list."""
    return lambda images: [tensor for tensors in network(images) for tensor in tensors]


def _box_network(network: nn.Module, channels: int) -> nn.Module:
    head: Any = network.get_submodule("roi_heads.box_head")
    return FlattenedLast(network, head.fc6, channels) if type(head) is TwoMLPHead else network
