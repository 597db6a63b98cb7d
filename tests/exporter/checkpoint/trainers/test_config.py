"""Configurations of other trainers are read as plain values, with what they are based on, and never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter.checkpoint.trainers.config import read_config, read_python_config, read_yaml_config


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)


def test_detectron2_takes_a_text_that_reads_as_a_literal_for_that_value(tmp_path):
    write(
        tmp_path,
        base_yaml='MODEL: {RPN: {NMS_THRESH: 0.7, IN_FEATURES: ["res4"]}}\nDATASETS:\n  TRAIN: ("a",)',
        own_yaml='_BASE_: base.yaml\nMODEL: {RPN: {NMS_THRESH: "0.5"}, WEIGHTS: "x://y"}\nINPUT: {FORMAT: BGR}',
    )
    assert read_config(tmp_path / "own.yaml") == {
        "MODEL": {"RPN": {"NMS_THRESH": 0.5, "IN_FEATURES": ["res4"]}, "WEIGHTS": "x://y"},
        "DATASETS": {"TRAIN": ("a",)},
        "INPUT": {"FORMAT": "BGR"},
    }


def test_a_list_may_be_dumped_once_and_referred_to():
    assert read_yaml_config("A: &id001 [a]\nB: *id001", source="c.yaml") == {"A": ["a"], "B": ["a"]}


def test_mmdetection_configurations_are_merged_as_their_trainer_merges_them(tmp_path):
    write(
        tmp_path,
        base_py="model = dict(neck=dict(type='FPN', n=5), head=dict(a=1, b=2))\nroot = 'data/'",
        more_py="steps = [dict(at=1), dict(at=2)]",
        own_py=(
            '"""Ours."""\n_base_ = ["base.py", "more.py"]\nratio = 1.5\nshared = dict({"x": -1})\n'
            "model = dict(neck=dict(_delete_=True, type='PAFPN'), head=dict(b=[(1, None)], **shared))\n"
            "path = _base_.root + 'train'\nseen = {{_base_.model.head}}\n_base_.steps[1].at = 4 * ratio"
        ),
    )
    assert read_config(tmp_path / "own.py") == {
        "model": {"neck": {"type": "PAFPN"}, "head": {"a": 1, "b": [(1, None)], "x": -1}},
        "steps": [{"at": 1}, {"at": 6.0}],
        **{"root": "data/", "ratio": 1.5, "shared": {"x": -1}, "path": "data/train", "seen": {"a": 1, "b": 2}},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os", "line 1: Import is no plain value; it was not run"),
        ("a = 1\nb = __import__('os').system('touch ran')", "line 2: a call is no plain value; it was not run"),
        ("a = dict([('b', 1)])", "List is no plain value"),
        ("a = [x for x in 'ab']", "ListComp is no plain value"),
        ("a = 'x'\nb = a.upper", "Attribute is no plain value"),
        ("a = dict(b=1)\na.b = a", "Assign is no plain value"),
        ("a = 9 ** 9 ** 9", "BinOp is no plain value"),
        ("a = 'x' * 1000000000000", "BinOp is no plain value"),
        ("a = 1 << 40\n", "BinOp is no plain value"),
        ("a = 'xx'\n" + "a = a + a\n" * 40, "BinOp is no plain value"),
        ("a = 1099511627775\n" + "a = a * a\n" * 40, "BinOp is no plain value"),
        ("a = f'{1}'", "JoinedStr is no plain value"),
        ("a = b", "Name is no plain value"),
        ("a = dict(**[1])", "List is no plain value"),
        ("a = {[1]: 2}", "Dict is no plain value"),
        ("a =", "is no configuration: invalid syntax"),
        ("a = " + "(" * 5000, "is no configuration"),
        ("a = " + "-" * 5000 + "1", "no plain value|is no configuration"),
        ("a = '\0'", "is no configuration"),
        ("_base_ = 'other.py'", "based on 'other.py', which is not in it"),
    ],
)
def test_python_that_would_have_to_run_is_refused(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=expected):
        read_python_config(text, source="config.py")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A: !!python/object/apply:os.system ['touch ran']", r"no plain YAML: .*python/object/apply:os\.system"),
        ("A: &a {x: 1}\nB: *a", "refers to its own parts"),
        ("A: &a [x, *a]", "refers to its own parts"),
        ("A: &a [[x]]\nB: *a", "refers to its own parts"),
        ("[" * 5000, "is no plain YAML"),
        ("- 1", "expected names with values"),
        ("1: 2", "expected names with values"),
        ("", "expected names with values"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=expected):
        read_yaml_config(text, source="config.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, r"cannot read .*own\.py: No such file"),
        ({"own_py": "_base_ = 'own.py'"}, "is based on itself"),
        ({"own_py": "_base_ = 'gone.py'"}, r"cannot read .*gone\.py: No such file"),
        ({"own_py": "_base_ = 'mmdet::x.py'"}, "'mmdet::x.py' is no file beside it"),
        ({"own_py": "_base_ = 'a.txt'", "a_txt": ""}, r"expected a \.yaml or a \.py file"),
        ({"own_py": "x = 1" + " " * (1 << 22)}, "too large"),
    ],
)
def test_files_that_cannot_be_read_are_named(files, expected, tmp_path):
    write(tmp_path, **files)
    with pytest.raises((CheckpointError, UsageError), match=expected):
        read_config(tmp_path / "own.py")
