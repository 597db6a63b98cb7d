"""Loading an artifact: everything that can be checked is checked before TensorRT sees an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.engine_files import RTX_VERSION, write_engine_file
from support.fake_device import FakeDevice
from support.tiny_artifact import TinyArtifact

from frcnn.errors import ArtifactError, FrcnnError, UsageError
from frcnn.files.archive import write_archive
from frcnn.runtime import Detector, loading
from frcnn.runtime.engines import compatibility
from frcnn.runtime.model_files.engine_artifact import open_engine_artifact
from frcnn.spec import Manifest


class System:
    """A system with a fake GPU; records the engines that are deserialised."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.version = RTX_VERSION
        self.driver = "13.0"
        self.engines: dict[bytes, Any] = {}
        self.loaded: list[bytes] = []

    def load_engine(self, data: bytes, **_: object) -> Any:
        self.loaded.append(data)
        return self.engines[data]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> System:
    made = System(device)
    monkeypatch.setattr(loading, "CudaDevice", lambda: device)
    monkeypatch.setattr(loading, "driver_cuda_version", lambda: made.driver)
    monkeypatch.setattr(compatibility, "import_tensorrt", lambda _library: SimpleNamespace(__version__=made.version))
    monkeypatch.setattr(loading, "load_engine", made.load_engine)
    return made


def damaged(path: Path, part: str) -> Path:
    """Flip a bit in the middle of a part."""
    content = open_engine_artifact(path).read_part(part)
    data = bytearray(path.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("part", ["engines/features.plan", "engines/boxes.plan", "precision.json"])
def test_a_damaged_part_is_found_before_any_engine_is_loaded(tmp_path: Path, system: System, part: str) -> None:
    path = damaged(write_engine_file(tmp_path / "model.frcnn"), part)
    with pytest.raises(ArtifactError, match=f"SHA-256.*|.*{part}") as raised:
        Detector.load(path)
    assert "SHA-256" in raised.value.message
    assert part in raised.value.message
    assert system.loaded == []


@pytest.mark.parametrize(
    ("differs", "text"),
    [
        ({"version": "1.6.0"}, f"TensorRT-RTX {RTX_VERSION}"),
        ({"driver": "12.8"}, "CUDA 12.8"),
    ],
)
def test_an_artifact_of_another_system_is_refused_before_any_engine_is_loaded(
    tmp_path: Path, system: System, differs: dict[str, str], text: str
) -> None:
    vars(system).update(differs)
    with pytest.raises(ArtifactError) as raised:
        Detector.load(write_engine_file(tmp_path / "model.frcnn"))
    assert text in raised.value.message
    assert "frcnn build model.onnx -o " in raised.value.hint
    assert system.loaded == []
    assert not system.device.is_open


@pytest.mark.parametrize("architecture", ["sm_90", "sm_100", "sm_103", "sm_110"])
def test_a_gpu_that_tensorrt_rtx_does_not_serve_is_refused_before_it_is_imported(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    system.device = FakeDevice(architecture=architecture)
    monkeypatch.setattr(loading, "CudaDevice", lambda: system.device)
    monkeypatch.setattr(compatibility, "import_tensorrt", lambda _library: pytest.fail("TensorRT-RTX was asked for"))
    with pytest.raises(ArtifactError) as raised:
        Detector.load(write_engine_file(tmp_path / "model.frcnn"))
    assert raised.value.message.endswith(f" and later, not {system.device.compute_capability}")
    assert raised.value.hint.endswith("frcnn build model.onnx --target tensorrt")
    assert system.loaded == []
    assert not system.device.is_open


def test_the_networks_of_onnxruntime_are_loaded_for_any_gpu(
    tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.device = FakeDevice(architecture="sm_90")
    package = SimpleNamespace(__version__="1.31.1")
    loaded = []

    def engine(*given: object, **options: Any) -> Any:
        loaded.append((given[0], options["provider"], options["device_id"], options["precision"], options["name"]))
        raise ArtifactError("no further")

    monkeypatch.setattr(loading, "CudaDevice", lambda: system.device)
    monkeypatch.setattr(loading, "import_onnxruntime_gpu", lambda: package)
    monkeypatch.setattr(loading, "OnnxRuntimeEngine", engine)
    path = write_engine_file(tmp_path / "model.frcnn", target="onnxruntime")
    with pytest.raises(ArtifactError, match="no further"):
        Detector.load(path)
    assert loaded == [(package, "cuda", 0, "fp16", f"{path}, engines/features.onnx")]
    system.device = FakeDevice(architecture="sm_90")
    system.device.is_primary_context = False
    with pytest.raises(ArtifactError, match="primary context only") as raised:
        Detector.load(path)
    assert "autoprimaryctx" in raised.value.hint
    assert not system.device.is_open
    with pytest.raises(ArtifactError, match="is not among trusted_hashes"):
        Detector.load(path, trusted_hashes=["0" * 64])
    assert len(loaded) == 1


def test_a_file_that_is_not_trusted_is_not_loaded(tmp_path: Path, system: System) -> None:
    with pytest.raises(ArtifactError, match=r"is not among trusted_hashes, and its engines .* are code"):
        Detector.load(
            write_engine_file(tmp_path / "model.onnx"), trusted_hashes=["0" * 64]
        )  # recognised by its content
    assert system.loaded == []


@pytest.mark.parametrize("option", [{"threads": 2}, {"provider": "cuda"}, {"device": "cpu"}, {"workers": 0}])
def test_options_that_do_not_apply_to_an_engine_are_refused(
    tmp_path: Path, system: System, option: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        Detector.load(write_engine_file(tmp_path / "model.frcnn"), **option)
    assert system.loaded == []


@pytest.fixture
def tiny(tmp_path: Path, system: System, manifest_of: Callable[..., Manifest]) -> TinyArtifact:
    """A whole artifact in ``model.frcnn``, whose engines the system can load."""
    made = TinyArtifact(manifest_of())
    write_archive(tmp_path / "model.frcnn", made.manifest.to_json(), made.parts.items())
    system.version = made.manifest.target_version
    system.engines = {made.parts[name]: engine for name, engine in made.engines(system.device).items()}
    return made


def test_a_loaded_detector_closes_everything(tmp_path: Path, system: System, tiny: TinyArtifact) -> None:
    with Detector.load(tmp_path / "model.frcnn") as detector:
        assert detector.manifest == tiny.manifest.source
        assert system.loaded == [b"first", b"second"]
    assert system.device.left_open() == {}


@pytest.mark.usefixtures("tiny")
def test_an_engine_that_does_not_load_leaves_nothing_open(tmp_path: Path, system: System) -> None:
    system.engines.pop(b"second").close()
    with pytest.raises(KeyError):
        Detector.load(tmp_path / "model.frcnn")
    assert system.loaded == [b"first", b"second"]
    assert system.device.left_open() == {}


def test_without_a_gpu_the_error_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FrcnnError) as raised:
        Detector.load(write_engine_file(tmp_path / "model.frcnn"))
    assert "\n" not in raised.value.message
    assert raised.value.hint
