"""What the GPU tests and measurements run engines with, on a device that is not there."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from maintenance.bare_detector import BareDetector
from support.engine_files import source_manifest
from support.fake_device import FakeDevice
from support.simt import require_compiler
from support.tiny_artifact import TinyArtifact, profile

from frcnn.runtime.images.image import RGBImage


@pytest.mark.slow
def test_it_runs_plainly_then_by_its_graph() -> None:
    require_compiler()
    source = source_manifest()
    small = msgspec.structs.replace(source.model.transform, min_size=64, max_size=128)
    model = msgspec.structs.replace(source.model, transform=small)
    source = msgspec.structs.replace(source, model=model)
    tiny = TinyArtifact(source, profiles=(profile((1, 2), (64, 128), (64, 128)),))
    device: Any = FakeDevice()
    image = RGBImage(pixels=np.random.default_rng(0).integers(192, 256, (60, 90, 3), dtype=np.uint8), name="noise")
    with BareDetector(tiny.manifest, tiny.read_part, device, tiny.engines(device)) as bare:
        plain, replayed = bare.run([image]), bare.run([image])
        assert set(plain) == {"num_detections", "boxes", "scores", "labels"}
        assert plain["num_detections"][0] > 0
        for name, found in plain.items():
            np.testing.assert_array_equal(found, replayed[name])
        pipeline = bare.pipeline([image])
        assert pipeline.has_graph
        launched = device.calls["graph launch"]
        bare.launch(pipeline)
        assert device.calls["graph launch"] == launched + 1
        device.synchronize(bare.stream)
        assert bare.said == []
    bare.close()
    assert device.left_open() == {}
    assert not device.misuses
