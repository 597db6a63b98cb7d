"""frcnn.spec.engine: an artifact's manifest is strict, and knows the command that makes it."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from typing import Any

import msgspec
import pytest
from support.engine_files import engine_manifest, engine_parts, source_manifest, static_profile

from frcnn.errors import ArtifactError
from frcnn.exporter.commands import build
from frcnn.exporter.engine.profiles import make_profiles
from frcnn.spec.engine import (
    PART_NAME,
    TARGETS,
    EngineManifest,
    EngineStep,
    EngineTensor,
    OperatorStep,
    Part,
    Profile,
    Range,
    kernel_part,
)

LISTED = {name: Part(size_bytes=len(data), sha256="ab" * 32) for name, data in engine_parts().items()}
DYNAMIC = Profile(
    batch=Range(min=1, opt=2, max=8),
    height=Range(min=320, opt=800, max=1344),
    width=Range(min=320, opt=1088, max=1344),
)


def manifest(**changes: Any) -> EngineManifest:
    return engine_manifest(LISTED, **changes)


def read_changed(*path: str | int, value: object) -> EngineManifest:
    """Read a manifest in which one value is another."""
    whole = json.loads(manifest().to_json())
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return EngineManifest.from_json(json.dumps(whole).encode(), source="a.frcnn")


@pytest.mark.parametrize("target", TARGETS)
def test_a_manifest_comes_back(target: str) -> None:
    parts = dict.fromkeys(engine_parts(target=target), LISTED["precision.json"])
    made = engine_manifest(parts, target=target, profiles=(DYNAMIC, static_profile(800, 1344)))
    assert EngineManifest.from_json(made.to_json(), source="a.frcnn") == made
    assert [type(step) for step in made.steps].count(OperatorStep) == (0 if target == "tensorrt" else 3)


def test_sizes() -> None:
    assert DYNAMIC.holds(8, (320, 1344)) and not DYNAMIC.holds(9, (320, 1344)) and not DYNAMIC.holds(1, (319, 1344))
    assert str(DYNAMIC) == "320x320:800x1088:1344x1344" and not DYNAMIC.is_static
    assert str(static_profile(800, 1344)) == "800x1344" and static_profile(800, 1344).is_static
    assert str(Range(min=4, opt=4, max=4)) == "4" and str(DYNAMIC.batch) == "1:2:8"
    assert 1.0 not in DYNAMIC.batch
    with pytest.raises(ValueError, match="min <= opt <= max, got 2:1:3"):
        Range(min=2, opt=1, max=3)


def test_of_several_profiles_a_static_one_is_taken_first() -> None:
    made = manifest(profiles=(DYNAMIC, static_profile(800, 1344), static_profile(800, 1344, (1, 1, 16))))
    assert made.profile_for(8, (800, 1344)) == 1
    assert made.profile_for(16, (800, 1344)) == 2
    assert made.profile_for(1, (320, 320)) == 0
    assert made.profile_for(1, (320, 288)) is None


@pytest.mark.parametrize(
    ("gpu", "code"),
    [
        ("sm_90", ("sm_90", "compute_90", "compute_75")),
        ("sm_120", ("compute_90", "compute_75")),  # not the PTX of one architecture only, sm_100a
        ("sm_80", ("compute_75",)),
        ("sm_70", ()),
    ],
)
def test_a_gpu_takes_its_own_code_then_the_newest_ptx(gpu: str, code: tuple[str, ...]) -> None:
    made = manifest(architectures=("sm_90", "compute_75", "compute_90", "compute_100a"))
    assert made.code_for(gpu) == code


# --- what a manifest must not say

WRONG: dict[str, tuple[tuple[str | int, ...], object, str]] = {
    "another schema version": (("schema_version",), 2, "manifest schema version 2, expected 4"),
    "an unknown field": (("more",), 1, "unknown field `more`"),
    "an unknown target": (("target",), "tensorrt-lite", "tensorrt-lite"),
    "version compatibility": (("version_compatible",), True, "expected false for the target tensorrt-rtx"),
    "a version for a terminal": (("target_version",), "1.7\x1b[2J", "target_version"),
    "a version for a shell": (("target_version",), "1.7; rm -rf ~", "target_version"),
    "a GPU": (("compute_capabilities",), ["hopper"], "compute_capabilities"),
    "an architecture": (("architectures",), ["sm_8x"], "architectures"),
    "a part above": (("parts", "../evil"), {"size_bytes": 1, "sha256": "ab" * 32}, "parts"),
    "a negative size": (("parts", "precision.json", "size_bytes"), -1, "size_bytes"),
    "a fractional size": (("parts", "precision.json", "size_bytes"), 1.5, "size_bytes"),
    "a short hash": (("parts", "precision.json", "sha256"), "ab", "sha256"),
    "the manifest as a part": (("parts", "manifest.json"), {"size_bytes": 1, "sha256": "ab" * 32}, "own name"),
    "an engine that is not there": (("steps", 0, "part"), "engines/9.plan", "the part 'engines/9.plan' is not"),
    "an input from nowhere": (("steps", 1, "inputs"), ["rois", "features_0"], "the tensor 'rois' comes from nowhere"),
    "a tensor without a type": (("steps", 1, "outputs"), ["untyped"], "'untyped' comes from nowhere or has no type"),
    "a tensor written twice": (("steps", 1, "outputs"), ["deltas_0"], "the tensor 'deltas_0' is written twice"),
    "an input that is written": (("steps", 1, "outputs"), ["images"], "the tensor 'images' is written twice"),
    "no outputs": (("steps",), [], "expected the outputs num_detections, boxes, scores, labels"),
    "another kind of step": (("steps", 0, "kind"), "script", "script"),
    "a name with a line break": (("steps", 1, "node"), "a\nb", "node"),
    "no profile": (("profiles",), [], "profiles"),
    "a falling range": (("profiles", 0, "batch"), {"min": 2, "opt": 1, "max": 1}, "min <= opt <= max"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_invalid_fields_of_a_manifest_are_refused(kind: str) -> None:
    path, value, message = WRONG[kind]
    with pytest.raises(ArtifactError, match=re.escape(message)) as raised:
        read_changed(*path, value=value)
    assert raised.value.message.startswith("a.frcnn: ")
    assert "frcnn build model.onnx" in raised.value.hint


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_invalid_json_is_refused(text: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^a\.frcnn: the manifest is damaged"):
        EngineManifest.from_json(text, source="a.frcnn")


def test_deep_json_in_a_field_is_refused() -> None:
    whole = manifest().to_json().replace(b'"assumptions": []', b'"assumptions": ' + b"[" * 50_000 + b"]" * 50_000)
    with pytest.raises(ArtifactError, match="the manifest is damaged"):
        EngineManifest.from_json(whole, source="a.frcnn")


@pytest.mark.parametrize("name", ["engines/0.plan", "a", "_a-b.c/d_e", "precision.json", "a..b"])
def test_part_names_that_are_allowed(name: str) -> None:
    assert re.match(PART_NAME, name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/..", "/a", "a/", "a//b", "a\\b", "a b", "-a", ".a", "a.", "é", "a\n"]
)
def test_part_names_that_are_not(name: str) -> None:
    assert re.match(PART_NAME, name) is None


def test_a_kernel_part_is_named_by_kernel_and_architecture() -> None:
    names = [kernel_part("box_detections", "0af3", "sm_89"), kernel_part("preprocess", "0af3", "compute_75")]
    assert names == ["kernels/box_detections-0af3.sm_89.cubin", "kernels/preprocess-0af3.compute_75.ptx"]
    assert all(re.match(PART_NAME, name) for name in names)


def test_records_refuse_fields_that_they_do_not_know() -> None:
    with pytest.raises(msgspec.ValidationError, match="more"):
        msgspec.json.decode(b'{"element": "float32", "more": 1}', type=EngineTensor)
    with pytest.raises(msgspec.ValidationError, match="outputs"):
        msgspec.json.decode(b'{"kind": "engine", "part": "a", "inputs": []}', type=EngineStep)


# --- the command that builds it again


def parsed(command: str) -> argparse.Namespace:
    """Parse a command as ``frcnn build`` does."""
    words = shlex.split(command)
    assert words[:2] == ["frcnn", "build"]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    build.add_arguments(parser)
    return parser.parse_args(words[2:])


@pytest.mark.parametrize("profiles", [(DYNAMIC,), (static_profile(800, 1344), static_profile(1344, 800))])
def test_the_build_command_asks_for_the_same_artifact(profiles: tuple[Profile, ...]) -> None:
    made = manifest(profiles=profiles, precision="fp32", compute_capabilities=("8.9", "12.0"))
    options = parsed(made.build_command("out put.frcnn"))
    assert str(options.output) == "out put.frcnn"
    assert (options.target, options.precision, str(options.checkpoint)) == ("tensorrt-rtx", "fp32", "model.onnx")
    assert options.compute_capability == "8.9,12.0"
    assert make_profiles(source_manifest(), batch=options.batch, size=options.size) == profiles


def test_the_build_command_can_ask_for_more() -> None:
    made = manifest(profiles=(static_profile(800, 1344),))
    wider = made.build_command("a", canvases=[(1344, 800), (800, 1344)], batch=Range(min=1, opt=1, max=16))
    assert wider.endswith("-o a.frcnn --target tensorrt-rtx --precision fp16 --batch 1:1:16 --size 800x1344,1344x800")
    assert parsed(made.build_command("a", compute_capabilities=("7.5",))).compute_capability == "7.5"


def test_profiles_of_different_batches_become_one_that_holds_them_all() -> None:
    made = manifest(profiles=(static_profile(800, 1344, (2, 4, 4)), static_profile(1344, 800, (1, 1, 8))))
    assert parsed(made.build_command("a.frcnn")).batch == "1:4:8"


def test_tensorrt_builds_for_the_gpu_that_is_there() -> None:
    parts = dict.fromkeys(engine_parts(target="tensorrt"), LISTED["precision.json"])
    command = engine_manifest(parts, target="tensorrt", compute_capabilities=("8.9",)).build_command("a.frcnn")
    assert "--target tensorrt " in command and "--compute-capability" not in command
    assert "--form" not in command


def test_the_build_command_repeats_the_form() -> None:
    split = {name: getattr(manifest(), name) for name in ("steps", "tensors")}
    options = parsed(manifest(target="tensorrt", **split).build_command("a.frcnn"))
    assert (options.form, options.version_compatible) == ("split", False)
    options = parsed(manifest(target="tensorrt", version_compatible=True, **split).build_command("a.frcnn"))
    assert (options.form, options.version_compatible) == (None, True)
    assert parsed(manifest().build_command("a.frcnn")).form is None
