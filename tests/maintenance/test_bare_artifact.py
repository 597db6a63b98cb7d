"""What the GPU tests run engines with, on a device that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gpu.bare_artifact as bare_artifact
import msgspec
import numpy as np
import pytest
from gpu.bare_artifact import BareArtifact
from support.engine_files import source_manifest
from support.fake_device import FakeDevice
from support.simt import require_compiler
from support.tiny_artifact import TinyArtifact, profile

from frcnn.errors import UsageError
from frcnn.files.archive import write_archive
from frcnn.runtime.images.image import RGBImage


@pytest.mark.slow
def test_a_bare_artifact_runs_plainly_then_by_its_graph(tmp_path: Path, monkeypatch: Any) -> None:
    require_compiler()
    source = source_manifest()
    small = msgspec.structs.replace(source.model.transform, min_size=64, max_size=128)
    model = msgspec.structs.replace(source.model, transform=small)
    source = msgspec.structs.replace(source, model=model)
    tiny = TinyArtifact(source, profiles=(profile((1, 2), (64, 128), (64, 128)),))
    path = tmp_path / "tiny.frcnn"
    write_archive(path, tiny.manifest.to_json(), tiny.parts.items())
    device: Any = FakeDevice()
    engines = tiny.engines(device)
    parts = {tiny.read_part(name): made for name, made in engines.items()}
    monkeypatch.setattr(bare_artifact, "load_engine", lambda data, **rest: parts[data])
    image = RGBImage(pixels=np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8), name="noise")
    device.activate()
    with BareArtifact(path, device=device) as bare:
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


def test_a_model_onnx_is_no_engine_artifact(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(bare_artifact, "open_artifact", lambda path: object())
    with pytest.raises(UsageError, match="expected an engine artifact"):
        BareArtifact(tmp_path / "model.onnx")
