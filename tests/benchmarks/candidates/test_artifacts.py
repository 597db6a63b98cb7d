"""Facts of artifacts of either kind."""

from __future__ import annotations

from typing import Any

import pytest
from support.engine_files import engine_manifest, engine_parts, source_manifest, static_profile

from frcnn.benchmarks.candidates.artifacts import canvases_of, device_for, engine_info, model_manifest
from frcnn.benchmarks.report.results import EngineInfo
from frcnn.spec import PRECISIONS
from frcnn.spec.engine import EngineManifest, Part


def engine(**changes: Any) -> EngineManifest:
    files = engine_parts(target=changes.get("target", "tensorrt-rtx"))
    parts = {name: Part(size_bytes=len(data), sha256="0f" * 32) for name, data in files.items()}
    return engine_manifest(parts, **changes)


def test_an_engine_holds_the_models_manifest():
    source = source_manifest()
    assert model_manifest(source) is source
    assert model_manifest(engine(source=source)) is source


def test_an_engines_canvases_are_its_profiles():
    made = engine(profiles=(static_profile(832, 1344),))
    assert canvases_of(made).canvas_of((800, 1201), name="a.png") == (832, 1344)
    assert canvases_of(made.source).canvas_of((800, 1201), name="a.png") == (800, 1216)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_engines_and_bf16_run_on_a_gpu(precision):
    assert device_for(engine(precision=precision)) == "cuda"
    assert device_for(source_manifest(precision=precision)) == ("cuda" if precision == "bf16" else "cpu")


@pytest.mark.parametrize(
    ("target", "form"), [("tensorrt", "plan"), ("tensorrt-rtx", "split"), ("onnxruntime", "split")]
)
def test_an_engine_of_one_step_is_a_plan(target, form):
    made = engine(target=target, precision="fp16")
    assert engine_info(made) == EngineInfo(target=target, version=made.target_version, form=form, precision="fp16")
    assert engine_info(source_manifest()) is None
