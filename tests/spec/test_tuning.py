"""The tuned file: what is refused, and when its figures hold no longer."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from support.tuned import a_machine, a_trial, a_tuning

from frcnn.errors import ArtifactError
from frcnn.spec.tuning import Setting, Tuning

VERSIONS = {"frcnn": "0.1.0", "onnxruntime": "1.32.0", "openvino": "2026.4.1", "numpy": "2.5.2"}


def read(tree: Any) -> Tuning:
    return Tuning.from_json(json.dumps(tree), source="model.onnx.tuned.json")


def tree(**changes: Any) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(a_tuning())
    return built | changes


def test_what_is_written_is_read() -> None:
    tuning = a_tuning()
    assert Tuning.from_json(msgspec.json.encode(tuning), source="it") == tuning


SETTING = msgspec.to_builtins(a_tuning().choice)
INT8 = {"name": "model-int8.onnx", "sha256": "0" * 64, "precision": "int8"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choice": SETTING | {"threads": 10**9}}, "threads|<= 4096"),
        ({"choice": SETTING | {"threads": 3}}, "choice: expected one of the trials that agree"),
        ({"choice": SETTING | {"batch": 0}}, ">= 1"),
        ({"choice": SETTING | {"provider": "cuda"}}, "Invalid enum value 'cuda'"),
        ({"choice": SETTING | {"precision": "int8"}}, "Invalid enum value 'int8'"),
        ({"choice": None}, "Expected `object`, got `null`"),
        ({"int8": INT8 | {"name": "../secret.onnx"}}, "matching regex"),
        ({"int8": INT8 | {"name": "/etc/passwd"}}, "matching regex"),
        ({"int8": INT8 | {"name": "a\\b"}}, "matching regex"),
        ({"int8": INT8 | {"name": ".."}}, "matching regex"),
        ({"int8": INT8 | {"name": ""}}, "matching regex"),
        ({"int8": INT8 | {"name": "a\u001b[2J"}}, "matching regex"),
        ({"int8": INT8 | {"sha256": "x"}}, "matching regex"),
        ({"date": "\u001b[2J"}, "matching regex"),
        ({"date": "a" * 1001}, "length <= 1000"),
        ({"versions": {"frcnn": 1}}, "Expected `str`, got `int`"),
        ({"trials": []}, "choice: expected one of the trials that agree"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"schema_version": 2}, "tuning schema version 2, expected 1"),
    ],
)
def test_hostile_content_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        read(tree(**changes))
    assert caught.value.message.startswith("model.onnx.tuned.json: ")
    assert caught.value.message.isprintable()
    assert "frcnn tune" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"schema_version": 1e400}', "\x00"])
def test_what_is_no_tuning_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ArtifactError, match="the tuning is damaged"):
        Tuning.from_json(text, source="it")


@pytest.mark.parametrize("changes", [{"precision": "bf16", "provider": "openvino"}, {"int8": True}])
def test_a_lower_precision_is_read_only_where_it_was_allowed(changes: dict[str, Any]) -> None:
    setting = Setting(**(SETTING | changes))
    built = msgspec.to_builtins(a_tuning(setting, allowed=("bf16", "int8")))
    assert read(built).choice == setting
    with pytest.raises(ArtifactError, match=r"allowed: expected (bf16|int8), which the choice uses"):
        read(built | {"allowed": []})


def test_more_threads_than_processors_are_refused() -> None:
    with pytest.raises(ArtifactError, match="threads: expected 1 at most, got 2"):
        read(msgspec.to_builtins(a_tuning()) | {"machine": msgspec.to_builtins(a_machine(processors=1))})


def test_a_tuning_holds_on_its_machine_with_its_versions_for_its_model() -> None:
    tuning = a_tuning()
    assert tuning.void_reason(machine=a_machine(), versions=VERSIONS, sha256=tuning.model.sha256) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "f" * 64}, "the model has changed"),
        ({"machine": a_machine(processor="Other")}, "measured on another machine: CPU, here Other"),
        ({"machine": a_machine(signature="stepping 2")}, "another machine: stepping 1, here stepping 2"),
        ({"machine": a_machine(processors=4)}, "another machine: 2 processors usable, here 4"),
        ({"machine": a_machine(features=("avx2",))}, "instruction sets differ in avx512f"),
        ({"versions": VERSIONS | {"openvino": "2027.0"}}, "measured with openvino 2026.4.1, here is 2027.0"),
        ({"versions": {"frcnn": "0.1.0"}}, "measured with onnxruntime 1.32.0, here is none"),
    ],
)
def test_a_change_voids_it_and_the_reason_names_it(changes: dict[str, Any], reason: str) -> None:
    tuning = a_tuning()
    given: dict[str, Any] = {"machine": a_machine(), "versions": VERSIONS, "sha256": tuning.model.sha256}
    assert reason in tuning.void_reason(**(given | changes))


def test_a_setting_is_described_by_its_lowest_precision() -> None:
    setting = Setting(provider="openvino", precision="bf16", threads=1, batch=4)
    assert setting.describe("fp32") == "OpenVINO, bf16, 1 thread, batch 4"
    assert setting.lowest_precision("fp16") == "bf16"
    quantised = msgspec.structs.replace(setting, int8=True, batch=1)
    assert quantised.describe("fp32") == "OpenVINO, int8+bf16, 1 thread"
    assert quantised.lowest_precision("fp32") == "int8"


def test_a_trial_that_disagrees_is_no_choice() -> None:
    with pytest.raises(ValueError, match="choice: expected one of the trials that agree"):
        msgspec.structs.replace(a_tuning(), trials=(a_trial(status="disagrees"),)).__post_init__()
