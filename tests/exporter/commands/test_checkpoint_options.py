"""The options of a checkpoint, and the label file."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

import frcnn
from frcnn.errors import UsageError
from frcnn.exporter.checkpoint.builder_arguments import parse_args
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments, load_from_options, read_labels
from frcnn.spec import CheckpointOptions

ARCH = f"{tiny_models.__file__}:build"


def parse(*argv: object, weights: bool = True) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_checkpoint_arguments(parser, weights=weights)
    return parser.parse_args([str(word) for word in argv])


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog bone\n\xe9\xb3\xa5\n",
        b"cat\ndog bone\n\xe9\xb3\xa5",
        b"\xef\xbb\xbfcat\r\ndog bone\r\n\xe9\xb3\xa5\r\n\r\n",
        b" cat \ndog bone\t\n\xe9\xb3\xa5\n\n\n",
        "\ufeffcat\r\ndog bone\r\n鳥\r\n".encode("utf-16-le"),
    ],
    ids=["plain", "no last newline", "windows", "spaces", "PowerShell"],
)
def test_a_label_file_is_read(content, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read_labels(path) == ("cat", "dog bone", "鳥")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"cat\n\ndog\n", "line 2 of .* is empty"),
        (b"\ncat\n", "line 1 of .* is empty"),
        (b"\x80\x02ctorch\n", "no UTF-8 text"),
        (b"PK\x03\x04abc\n", "control characters"),
        (b"c\0a\0t\0", "control characters"),
        *((text.encode(), "control characters") for text in ("cat\ndo\rg\n", "cat\rdog", "cat\ndo\tg")),
        *((text.encode(), "control characters") for text in ("c\x1b[2Jt", "c\u202et", "a\u2028b")),
        (b"x" * (1 << 22) + b"y", "too large"),
    ],
)
def test_an_invalid_label_file_is_refused(content, expected, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=expected):
        read_labels(path)


def test_a_missing_label_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*none\.txt: No such file"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="Is a directory"):
        read_labels(tmp_path)


def test_all_options_reach_the_loader(checkpoint, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nowl\n")
    loaded = load_from_options(
        parse(checkpoint, "--arch", ARCH, "--arg", "min_size=50", "--arg", "box_nms_thresh=0.4", "--labels", labels)
    )
    assert loaded.spec.transform.min_size == 50
    assert loaded.spec.roi_heads.nms_thresh == 0.4
    assert loaded.spec.labels == ("__background__", "cat", "dog", "owl")
    kept = CheckpointOptions(arch="tiny_models.py:build", args=("min_size=50", "box_nms_thresh=0.4"))
    assert loaded.options == kept, "without the folder, which names this machine"


def test_what_is_kept_of_arguments_says_the_same_when_it_is_read(checkpoint):
    words = ["rpn_aspect_ratios=((0.5, 1.0),)", "name=plain text", "flag=None"]
    kept = CheckpointOptions(args=tuple(f"{key}={value!r}" for key, value in parse_args(words).items()))
    assert parse_args(kept.args) == parse_args(words)


def test_options_without_a_value_of_their_own_reach_the_loader(monkeypatch):
    seen: dict[str, Any] = {}
    monkeypatch.setattr("frcnn.exporter.checkpoint.load.read_checkpoint", lambda path, **options: seen.update(options))
    words = ("--trust-pickle", "--state-key", "ema", "--from", "detectron2", "--config", "c.yaml", "--boxes-only")
    load_from_options(parse("my.pth", *words, weights=False))
    assert seen == {
        **{"arch": None, "args": {}, "labels": None, "trust_pickle": True, "state_key": "ema"},
        **{"trainer": "detectron2", "config": Path("c.yaml"), "boxes_only": True},
    }


def test_weights_reach_the_downloader(monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(
        "frcnn.exporter.checkpoint.load.load_pretrained", lambda text, **options: seen.append((text, options))
    )
    load_from_options(parse("--weights", "a=B", "--arg", "min_size=3"))
    ((text, options),) = seen
    assert (text, options["args"], options["labels"]) == ("a=B", {"min_size": 3}, None)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((), "got neither"),
        (("my.pth", "--weights", "a=B"), "got both"),
        (("--weights", "a=B", "--arch", "models.py:build"), "--arch does not go with --weights"),
        (("--weights", "a=B", "--state-key", "x"), "--state-key does not go with --weights"),
        (("my.pth", "--arg", "min_size"), "expected KEY=VALUE"),
        (("my.pth", "--labels", "none.txt"), "cannot read none.txt"),
    ],
)
def test_contradicting_options_are_refused(argv, expected):
    with pytest.raises(UsageError, match=expected):
        load_from_options(parse(*argv))


def test_a_checkpoint_is_required_without_weights(capsys):
    with pytest.raises(SystemExit):
        parse(weights=False)
    assert "CHECKPOINT" in capsys.readouterr().err


def test_help_works_and_reading_says_what_is_missing_without_torch():
    code = """
import sys
sys.modules["torch"] = None
sys.modules["torchvision"] = None
from frcnn.cli import main
assert main(["export", "--help"]) == 0
sys.exit(main(["export", "my.pth"]))
"""
    environment = os.environ | {"PYTHONPATH": str(Path(frcnn.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert "--trust-pickle" in done.stdout
    assert "needs the package 'torch'" in done.stderr and "pip install 'frcnn[export]'" in done.stderr
    assert "Traceback" not in done.stderr
