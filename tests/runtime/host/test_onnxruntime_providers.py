"""ONNX Runtime on a GPU, as far as it goes without one: which providers and options are asked for, what is refused."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime.host.onnxruntime_backend import (
    PROVIDER_NAMES,
    OnnxRuntimeBackend,
    default_folder,
    execution_providers,
)
from frcnn.spec import Manifest

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
SIZES = np.array([[32, 64]], np.int32)
IMAGES = np.full((1, 3, 32, 64), 0.5, np.float32)


def test_the_names_are_onnxruntimes() -> None:
    names = {name for names in PROVIDER_NAMES.values() for name in names}
    assert names <= set(onnxruntime.get_all_providers())


def test_provider_options_of_the_cpu_and_cuda(model_path: Path, tmp_path: Path) -> None:
    assert execution_providers("cpu", model_path, cache=tmp_path) == [(CPU, {})]
    assert execution_providers("cuda", model_path, cache=tmp_path) == [(CUDA, CUDA_OPTIONS)]
    assert not any(tmp_path.iterdir())


def test_tensorrt_computes_as_the_file_says_and_keeps_its_engines(model_path: Path, tmp_path: Path) -> None:
    (first, options), second = execution_providers("tensorrt", model_path, cache=tmp_path / "cache")
    assert (first, second) == (TENSORRT, (CUDA, CUDA_OPTIONS))
    (folder,) = (tmp_path / "cache").iterdir()
    assert options == {
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_cache_tensorrt_keeps_nothing(model_path: Path) -> None:
    (_, options), _ = execution_providers("tensorrt", model_path, cache=None)
    assert options == {"trt_fp16_enable": "0", "trt_int8_enable": "0"}


def test_with_a_cache_that_cannot_be_written_tensorrt_keeps_nothing(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (_, options), _ = execution_providers("tensorrt", model_path, cache=tmp_path / "file")
    (message,) = caplog.messages
    assert message.startswith(f"frcnn: nothing is kept in the cache {tmp_path / 'file'}/")
    assert options == {"trt_fp16_enable": "0", "trt_int8_enable": "0"}


def test_other_weights_have_other_engines_whatever_the_files_are_called(model_path: Path, tmp_path: Path) -> None:
    def folder_of(path: Path) -> str:
        (_, options), _ = execution_providers("tensorrt", path, cache=tmp_path / "cache")
        return options["trt_engine_cache_path"]

    content = model_path.read_bytes()
    paths = [tmp_path / name / "model.onnx" for name in ("same", "other")]
    for path, weights in zip(paths, (content, content.replace(content[-8:], b"\0" * 8)), strict=True):
        path.parent.mkdir()
        path.write_bytes(weights)
    same, other = map(folder_of, paths)
    assert same == folder_of(model_path) != other


def test_the_cache_is_beside_that_of_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    assert default_folder() == tmp_path / "onnxruntime-tensorrt"
    monkeypatch.delenv("FRCNN_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert default_folder() is None


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_names_the_extra(model_path: Path, provider: Any) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    with pytest.raises(
        MissingDependencyError, match=rf"provider '{provider}' \(this onnxruntime has .*{CPU}\)"
    ) as raised:
        OnnxRuntimeBackend(model_path, provider=provider)
    assert raised.value.hint == "pip install 'frcnn[gpu]'"


@dataclasses.dataclass
class StandIn:
    """ONNX Runtime that claims to have a GPU and runs on the CPU: for what is asked of it, and for faults.

    Attributes:
        started: the providers that start.
        fault: raised when a session is made.
        asked: what sessions were asked for.
        preloaded: how often libraries were loaded before.
    """

    started: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    fault: Exception | None = None
    asked: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    preloaded: int = 0

    def preload(self, **options: Any) -> None:
        assert options == {"directory": ""}
        self.preloaded += 1
        print("Failed to load libcublas.so")


class Session:
    def __init__(self, real: Any, started: list[str]) -> None:
        self._real = real
        self._started = started

    def get_providers(self) -> list[str]:
        return self._started

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    stand_in = StandIn()
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, *, providers: list[tuple[str, dict[str, str]]], **more: Any) -> Session:
        stand_in.asked.append({"path": path, "providers": providers, **more})
        if stand_in.fault is not None:
            raise stand_in.fault
        wanted = [name for name, _ in providers]
        return Session(real(path, options, providers=[CPU]), [n for n in stand_in.started if n in (*wanted, CPU)])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", stand_in.preload)
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path / "cache"))
    return stand_in


@pytest.mark.parametrize(("provider", "names"), [("cuda", [CUDA]), ("tensorrt", [TENSORRT, CUDA])])
def test_a_gpus_session_runs(
    gpu: StandIn, model_path: Path, provider: Any, names: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    backend = OnnxRuntimeBackend(model_path, provider=provider, threads=1)
    np.testing.assert_allclose(backend.run(IMAGES, SIZES).scores[:, 0], [0.5])
    (asked,) = gpu.asked
    assert asked["path"] == os.fspath(model_path)
    assert [name for name, _ in asked["providers"]] == names
    assert asked["enable_fallback"] == 0  # ONNX Runtime's own: it prints, and goes on with another provider
    assert gpu.preloaded == 1
    assert capfd.readouterr() == ("", "")


def test_tensorrts_engines_go_to_the_users_cache(gpu: StandIn, model_path: Path, tmp_path: Path) -> None:
    OnnxRuntimeBackend(model_path, provider="tensorrt", threads=1)
    options = dict(gpu.asked[0]["providers"])[TENSORRT]
    assert Path(options["trt_engine_cache_path"]).parent == tmp_path / "cache" / "onnxruntime-tensorrt"


def test_the_cpu_loads_no_cuda_libraries(gpu: StandIn, model_path: Path) -> None:
    OnnxRuntimeBackend(model_path, threads=1)
    assert gpu.preloaded == 0
    assert gpu.asked[0]["providers"] == [(CPU, {})]


@pytest.mark.parametrize(
    ("provider", "started", "missing", "libraries"),
    [
        ("cuda", (CPU,), CUDA, "the CUDA and cuDNN libraries"),
        ("tensorrt", (CUDA, CPU), TENSORRT, "the TensorRT, CUDA and cuDNN libraries"),
        ("tensorrt", (TENSORRT, CPU), CUDA, "the TensorRT, CUDA and cuDNN libraries"),
    ],
)
def test_a_provider_that_does_not_start_is_an_error(
    gpu: StandIn, model_path: Path, provider: Any, started: tuple[str, ...], missing: str, libraries: str
) -> None:
    gpu.started = started
    with pytest.raises(ArtifactError, match=f"'{provider}': ONNX Runtime's {missing} did not start") as raised:
        OnnxRuntimeBackend(model_path, provider=provider, threads=1)
    assert libraries in raised.value.hint


@pytest.mark.parametrize(
    ("precision", "hint"), [("fp32", "export the model again"), ("bf16", "upgrade onnxruntime-gpu")]
)
def test_a_fault_while_loading_is_one_line(
    gpu: StandIn, model_of: Callable[..., Path], manifest_of: Callable[..., Manifest], precision: Any, hint: str
) -> None:
    gpu.fault = RuntimeError("NOT_IMPLEMENTED :\n Could not find an implementation for Conv(22)")
    path = model_of(manifest_of(precision=precision))
    with pytest.raises(ArtifactError, match="cannot load it: NOT_IMPLEMENTED : Could not find") as raised:
        OnnxRuntimeBackend(path, provider="cuda")
    assert hint in raised.value.hint
