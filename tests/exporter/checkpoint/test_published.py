"""``--weights NAME=WEIGHTS``: the whole hash of a download is checked. The server runs on this system."""

from __future__ import annotations

import gc
import hashlib
import io
import re
import socket
import threading
import urllib.error
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.models import get_model_weights

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter.checkpoint import load, published
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES
from frcnn.exporter.checkpoint.builder_arguments import TORCHVISION_NAMES
from frcnn.exporter.checkpoint.builders import build_model
from frcnn.exporter.checkpoint.load import load_pretrained
from frcnn.exporter.checkpoint.published import parse_weights, published_sha256, published_weights

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"
FILE = "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the folder in which ``torch.hub`` keeps downloads."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.fixture
def serve(monkeypatch):
    """``serve(response)`` changes the weights' address to a server on this system that sends these bytes once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        meta = get_model_weights(NAME)["COCO_V1"].meta
        there = SimpleNamespace(url=f"http://127.0.0.1:{port}/{FILE}", meta=meta)
        monkeypatch.setattr(load, "parse_weights", lambda _text: (NAME, there))
        listener.settimeout(60)

        def respond(response: bytes) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(response)

        threads: list[threading.Thread] = []

        def start(response: bytes) -> None:
            threads.append(threading.Thread(target=respond, args=(response,)))
            threads[-1].start()

        yield start
        for thread in threads:
            thread.join()
    with warnings.catch_warnings():  # torch.hub leaves its connection to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


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
def test_unknown_weights_list_the_known_ones(text, expected):
    with pytest.raises(UsageError, match=expected) as caught:
        load_pretrained(text)
    assert "--weights fasterrcnn_resnet50_fpn_v2=COCO_V1" in caught.value.hint
    assert ("did you mean COCO_V1? for instance" in caught.value.hint) is text.endswith("V9")


@pytest.mark.parametrize("entry", ["COCO_V1", "DEFAULT"])
def test_parse_weights(entry):
    assert parse_weights(f"{NAME}={entry}") == (NAME, get_model_weights(NAME)["COCO_V1"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (urllib.error.URLError(OSError("Name or service not known")), "Name or service not known"),
        (urllib.error.HTTPError("u", 403, "Forbidden", {}, None), "Forbidden"),  # type: ignore[arg-type]
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_no_network(error, expected, hub, monkeypatch):
    def fail(*_args: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(f"{NAME}=COCO_V1")
    assert caught.value.message == f"cannot download https://download.pytorch.org/models/{FILE}: {expected}"
    assert f"frcnn export {FILE} --arch {NAME}" in caught.value.hint
    assert not list(hub.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (OK + b"Content-Length: 8\r\n\r\ntampered", "is not the file that torchvision publishes: "),
        (OK + b"Content-Length: 9000\r\n\r\ncut short", "is not the file that torchvision publishes: "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\ncut short", "cannot download .*: IncompleteRead"),
        (b"HTTP/1.1 404 Not \x1b[2JFound\r\n\r\n", r"cannot download .*: Not \[2JFound"),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", "cannot download "),
        (b"", "cannot download .*: Remote end closed connection"),
    ],
    ids=["tampered", "cut short", "cut short in a chunk", "absent", "no HTTP", "hung up"],
)
def test_another_download_is_refused_and_deleted(response, expected, hub, serve):
    serve(response)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_pretrained(f"{NAME}=COCO_V1")
    assert caught.value.message.isprintable()
    assert not list(hub.iterdir())


def test_the_whole_hash_is_compared(hub, serve, monkeypatch):
    """torchvision checks eight digits, for which a matching file can be found by trying."""
    digest = hashlib.sha256(b"tampered").hexdigest()
    monkeypatch.setitem(published._SHA256, FILE, digest[:8] + 56 * "0")
    serve(OK + b"Content-Length: 8\r\n\r\ntampered")
    with pytest.raises(CheckpointError, match="is not the file that torchvision publishes"):
        load_pretrained(f"{NAME}=COCO_V1")
    assert not list(hub.iterdir())


def test_a_file_of_an_earlier_download_is_checked(hub):
    hub.mkdir()
    (hub / FILE).write_bytes(b"tampered")
    with pytest.raises(CheckpointError, match=f"{FILE} is not the file that torchvision publishes: its SHA-256 is "):
        load_pretrained(f"{NAME}=COCO_V1")
    (hub / FILE).unlink()
    (hub / FILE).mkdir()
    with pytest.raises(CheckpointError):
        load_pretrained(f"{NAME}=COCO_V1")


def test_weights_without_a_known_hash_are_not_downloaded(hub, monkeypatch):
    monkeypatch.delitem(published._SHA256, FILE)
    with pytest.raises(CheckpointError, match=f"the SHA-256 of .*/{FILE} is not known here") as caught:
        load_pretrained(f"{NAME}=COCO_V1")
    assert f"frcnn export {FILE} --arch {NAME}" in caught.value.hint
    assert not hub.exists()


@pytest.mark.slow
def test_a_download_is_stored_and_loaded_with_its_labels(hub, serve, monkeypatch):
    model = build_model(NAME, ARCHITECTURES[NAME], num_classes=91, args={"norm": "frozen"})
    buffer = io.BytesIO()
    torch.save({k: v.half() for k, v in model.state_dict().items()}, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(published._SHA256, FILE, digest)
    serve(OK + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    steps: list[str] = []
    loaded = load_pretrained(f"{NAME}=COCO_V1", args={"min_size": 300}, progress=steps.append)
    assert steps == [f"downloading {FILE}, 74 MB", f"reading {FILE}"]
    assert [file.name for file in hub.iterdir()] == [FILE]
    assert loaded.sha256 == digest
    assert loaded.spec.labels == tuple(get_model_weights(NAME)["COCO_V1"].meta["categories"])
    assert (loaded.spec.transform.min_size, loaded.spec.transform.max_size) == (300, 640)
    with pytest.raises(UsageError, match="takes no argument 'min_sizes'"):  # the server answered once: this is kept
        load_pretrained(f"{NAME}=COCO_V1", args={"min_sizes": 300})


def test_the_whole_hash_of_every_published_file_is_known():
    for name in TORCHVISION_NAMES:
        for entry in get_model_weights(name):
            sha256 = published_sha256(entry)
            assert sha256 is not None
            assert re.fullmatch("[0-9a-f]{64}", sha256)
            assert str(entry.url).endswith(f"-{sha256[:8]}.pth")
            assert published_weights(sha256) == (name, entry)
            assert published_weights(sha256[:8] + 56 * "0") is None
