"""The tuned file beside a model: what ``provider="tuned"`` runs, and what it refuses."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.images import photographs
from support.tuned import SETTING, a_machine, write_as_int8, write_tuned

from frcnn.errors import ArtifactError, UsageError
from frcnn.runtime import Detector
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.tuned import Tuned, Void, read_machine, read_tuned, read_versions
from frcnn.spec.tuning import Setting

ONE_THREAD = msgspec.structs.replace(SETTING, threads=1)
INT8 = msgspec.structs.replace(ONE_THREAD, int8=True)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_model, tmp_path / "model.onnx"))


def artifact(model: Path) -> OnnxArtifact:
    found = open_artifact(model)
    assert isinstance(found, OnnxArtifact)
    return found


def network(detector: Detector) -> Any:
    backend: Any = detector._backend
    return backend._network


def test_this_machine_is_described() -> None:
    machine, versions = read_machine(), read_versions()
    assert machine == read_machine()
    assert machine.processor and machine.processors >= 1
    assert versions.keys() >= {"frcnn", "onnxruntime"}


def test_the_choice_is_used_and_logged(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("openvino")
    choice = Setting(provider="openvino", precision="fp32", threads=1, batch=2)
    path = write_tuned(model, choice)
    with caplog.at_level(logging.INFO, "frcnn"), Detector.load(model, provider="tuned") as detector:
        assert isinstance(network(detector), OpenVinoBackend)
        assert len(detector(photographs((48, 64))[:2], batch_size=choice.batch)) == 2
    assert caplog.messages == [f"frcnn: tuned: OpenVINO, fp32, 1 thread, batch 2 ({path})"]


def test_without_a_provider_nothing_tuned_is_used(model: Path) -> None:
    write_as_int8(model, model.with_name("model-int8.onnx"))
    write_tuned(model, INT8, allowed=["int8"])
    with Detector.load(model) as detector:
        assert detector.manifest.precision == "fp32"


def test_an_int8_choice_runs_the_int8_model(model: Path) -> None:
    write_as_int8(model, model.with_name("model-int8.onnx"))
    write_tuned(model, INT8, allowed=["int8"])
    with Detector.load(model, provider="tuned") as detector:
        assert detector.manifest.precision == "int8"
    tuned = read_tuned(artifact(model))
    assert isinstance(tuned, Tuned) and tuned.precision == "int8"


def test_without_a_file_the_default_runs_with_a_warning(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Detector.load(model, provider="tuned") as detector:
        assert isinstance(network(detector), OnnxRuntimeBackend)
    assert "there is no" in caplog.text and "frcnn tune" in caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"machine": a_machine(processor="Another")}, "measured on another machine"),
        ({"versions": {"onnxruntime": "0.1"}}, "measured with onnxruntime 0.1"),
    ],
)
def test_a_void_file_gives_the_default_and_says_why(
    model: Path, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_tuned(model, ONE_THREAD, **changes)
    with Detector.load(model, provider="tuned") as detector:
        assert isinstance(network(detector), OnnxRuntimeBackend)
    assert reason in caplog.text


def test_another_model_of_the_name_voids_it(model: Path) -> None:
    write_tuned(model, ONE_THREAD)
    write_as_int8(model, model)
    assert read_tuned(artifact(model)) == Void(reason=f"{model}.tuned.json does not count here: the model has changed")


@pytest.mark.parametrize(("change", "reason"), [("remove", "is missing"), ("rewrite", "has changed")])
def test_another_int8_model_voids_it(model: Path, change: str, reason: str) -> None:
    int8 = write_as_int8(model, model.with_name("model-int8.onnx"))
    write_tuned(model, INT8, allowed=["int8"])
    if change == "remove":
        int8.unlink()
    else:
        shutil.copy(model, int8)
    void = read_tuned(artifact(model))
    assert isinstance(void, Void) and void.reason.endswith(f"model-int8.onnx {reason}")


def test_a_link_in_place_of_the_int8_model_is_refused(model: Path, tmp_path: Path) -> None:
    int8 = write_as_int8(model, model.with_name("model-int8.onnx"))
    write_tuned(model, INT8, allowed=["int8"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    int8.rename(elsewhere / int8.name)
    int8.symlink_to(elsewhere / int8.name)
    with pytest.raises(ArtifactError, match=r"expected model-int8.onnx to be a file of this folder"):
        read_tuned(artifact(model))


def test_an_int8_model_of_another_detector_is_refused(model: Path) -> None:
    spec = artifact(model).manifest.model
    other = msgspec.structs.replace(spec, labels=tuple(f"other {i}" for i in range(spec.num_classes)))
    write_as_int8(model, model.with_name("model-int8.onnx"), model=other)
    write_tuned(model, INT8, allowed=["int8"])
    with pytest.raises(ArtifactError, match=r"model-int8.onnx is another model than model.onnx"):
        read_tuned(artifact(model))


def test_a_float_model_in_place_of_the_int8_model_is_refused(model: Path) -> None:
    shutil.copy(model, model.with_name("model-int8.onnx"))
    write_tuned(model, INT8, allowed=["int8"])
    with pytest.raises(ArtifactError, match=r"model-int8.onnx is fp32, expected int8"):
        read_tuned(artifact(model))


def test_a_file_that_is_no_tuning_is_refused(model: Path) -> None:
    path = Path(f"{model}.tuned.json")
    path.write_bytes(b"{}" * (3 << 20))
    with pytest.raises(ArtifactError, match=r"model.onnx.tuned.json: the tuning is damaged") as caught:
        Detector.load(model, provider="tuned")
    assert "frcnn tune" in caught.value.hint
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        Detector.load(model, provider="tuned")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_in_its_place_does_not_block(model: Path) -> None:
    os.mkfifo(f"{model}.tuned.json")
    with pytest.raises(ArtifactError, match="expected a file, got something else"):
        Detector.load(model, provider="tuned")


def test_the_tuned_provider_takes_no_threads_and_no_gpu(model: Path) -> None:
    with pytest.raises(UsageError, match="threads: provider 'tuned' has its own, got 1"):
        Detector.load(model, provider="tuned", threads=1)
    with pytest.raises(UsageError, match="'tuned' runs on device 'cpu'"):
        Detector.load(model, provider="tuned", device="cuda")
