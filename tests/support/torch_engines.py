"""PyTorch's networks as engines of the fake device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from maintenance.torch_detector import TorchDetector
from maintenance.torch_networks import TorchEngine

from support.fake_device import FakeDevice
from support.fake_engine import FakeEngine


def on_fake_device(made: TorchDetector, device: FakeDevice) -> TorchDetector:
    """Return the detector with engines whose work runs when the fake device's streams do."""
    engines: Any = {part: _fake(engine, device) for part, engine in made.engines.items()}
    return replace(made, engines=engines)


def _fake(engine: TorchEngine, device: FakeDevice) -> FakeEngine:
    bound: dict[tuple[Any, ...], dict[str, tuple[int, ...]]] = {}

    def shapes(input_shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        key = tuple(input_shapes.items())
        if key not in bound:
            bound[key] = dict(engine.create_context().bind(0, input_shapes, 0))
        return bound[key]

    def run(arrays: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            outputs = engine.network(*(torch.from_numpy(arrays[name]) for name in engine.inputs))
        return {name: tensor.numpy() for name, tensor in zip(engine.outputs, outputs, strict=True)}

    return FakeEngine(
        device, inputs=engine.inputs, outputs=engine.outputs, tensors=engine.tensors, run=run, shapes=shapes
    )
