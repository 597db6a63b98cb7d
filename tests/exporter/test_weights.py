"""``--weights NAME=WEIGHTS``, with and without a network; nothing is downloaded here."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model_weights

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter.architectures import ARCHITECTURES
from frcnn.exporter.builders import build_model
from frcnn.exporter.weights import load_pretrained, parse_weights

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"
FILE = "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which ``torch.hub`` keeps downloads."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fasterrcnn_resnet50_fpn", "expected NAME=WEIGHTS, got 'fasterrcnn_resnet50_fpn'"),
        ("", "expected NAME=WEIGHTS"),
        ("maskrcnn_resnet50_fpn=COCO_V1", r"no Faster R-CNN 'maskrcnn_resnet50_fpn'; it has .*, fasterrcnn_mobilenet"),
        ("fasterrcnn_vgg16=COCO_V1", "no Faster R-CNN 'fasterrcnn_vgg16'"),
        ("fasterrcnn_resnet50_fpn_v2=COCO_V9", "no weights 'COCO_V9'; it has COCO_V1, DEFAULT"),
    ],
)
def test_unknown_weights_list_the_known_ones(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as caught:
        load_pretrained(text)
    assert "--weights fasterrcnn_resnet50_fpn_v2=COCO_V1" in caught.value.hint


@pytest.mark.parametrize("entry", ["COCO_V1", "DEFAULT"])
def test_parse_weights(entry: str) -> None:
    assert parse_weights(f"{NAME}={entry}") == (NAME, get_model_weights(NAME)["COCO_V1"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (urllib.error.URLError(OSError("Name or service not known")), "Name or service not known"),
        (urllib.error.HTTPError("u", 403, "Forbidden", {}, None), "Forbidden"),  # type: ignore[arg-type]
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_no_network(error: Exception, expected: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(f"{NAME}=COCO_V1")
    assert caught.value.message == f"cannot download https://download.pytorch.org/models/{FILE}: {expected}"
    assert f"frcnn export {FILE} --arch {NAME}" in caught.value.hint
    assert not list(hub.iterdir())


def test_damaged_download(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise RuntimeError('invalid hash value (expected "907ea3f9", got "00")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(CheckpointError, match="is damaged: invalid hash value"):
        load_pretrained(f"{NAME}=COCO_V1")


def test_download_is_kept_and_read_with_its_labels(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(NAME, ARCHITECTURES[NAME], num_classes=91, args={"norm": "frozen"})
    asked: list[tuple[str, str]] = []

    def download(url: str, destination: str, *, hash_prefix: str, progress: bool) -> None:
        asked.append((url.rpartition("/")[2], hash_prefix))
        torch.save({k: v.half() for k, v in model.state_dict().items()}, destination)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    loaded = load_pretrained(f"{NAME}=DEFAULT", args={"min_size": 300})
    assert asked == [(FILE, "907ea3f9")]
    assert (hub / FILE).is_file()
    assert loaded.spec.labels == tuple(get_model_weights(NAME)["COCO_V1"].meta["categories"])
    assert (loaded.spec.transform.min_size, loaded.spec.transform.max_size) == (300, 640)
    with pytest.raises(UsageError, match="takes no argument 'min_sizes'"):
        load_pretrained(f"{NAME}=DEFAULT", args={"min_sizes": 300})
    assert len(asked) == 1
