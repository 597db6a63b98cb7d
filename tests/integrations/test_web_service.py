"""The web service of the examples under a real uvicorn, in a process of its own; its page in a real browser."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
from maintenance.web_load import APP, JPEG, ROOT, Service, _complaint, form, head, hostile
from PIL import Image
from support.browser import browser, needs_chromium
from support.tiny_detector import noise

from frcnn.benchmarks.trial import CHECKPOINT
from frcnn.runtime import Detections, Detector

pytestmark = pytest.mark.slow

HOSTILE = sorted(hostile(b"", None))  # type: ignore[arg-type]


def jpeg(seed: int, height: int = 90, width: int = 120) -> bytes:
    Image.fromarray(noise(seed, height, width)).save(file := BytesIO(), "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tiny_model: Path) -> Iterator[Service]:
    with Service(tiny_model, "--max-mib", "2", "--timeout", "3", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> Any:
    with Detector.load(tiny_model, threads=1) as detector:
        yield lambda image: detector([image])[0]


@pytest.mark.parametrize("send", [lambda image: (image, JPEG), form], ids=["body", "form"])
def test_it_answers_with_the_detections_of_the_detector(service, expected, send):
    image = jpeg(1)
    status, content, response = service.ask("/detect", *send(image))
    assert (status, response.headers["Content-Type"]) == (200, "application/json")
    found = expected(image)
    assert len(found) > 2
    assert content.decode() == found.to_json()

    status, content, _ = service.ask(f"/detect?score={found.scores[1]}&classes=one&classes=2", *send(image))
    kept = found.filter(score=found.scores[1], classes=["one", 2])
    assert content.decode() == kept.to_json()


@pytest.mark.parametrize("how", ["Accept", "format"])
def test_it_answers_with_the_annotated_image(service, expected, how):
    image, headers = jpeg(2, 400, 330), dict(JPEG)
    if how == "Accept":
        headers["Accept"] = "image/jpeg"
    status, content, response = service.ask("/detect" if how == "Accept" else "/detect?format=jpeg", image, headers)
    assert (status, response.headers["Content-Type"]) == (200, "image/jpeg")
    drawn, wanted = Image.open(BytesIO(content)), expected(image).draw(image)
    wanted.save(file := BytesIO(), "JPEG", quality=95)
    assert drawn.size == (330, 400) and drawn.tobytes() == Image.open(file).tobytes()


def test_it_tells_its_health_and_its_model(service):
    assert json.loads(service.ask("/healthz")[1]) == {"status": "alive"}
    assert json.loads(service.ask("/readyz")[1]) == {"status": "ready", "waiting": 0}
    model = json.loads(service.ask("/model")[1])
    assert (model["labels"], model["precision"]) == (["one", "two", "three"], "fp32")
    assert model["resized_as"] == "torchvision"
    assert model["limits"] == {"bytes": 2 * 2**20, "megapixels": 50}
    body = json.loads(service.ask("/openapi.json")[1])["paths"]["/detect"]["post"]["requestBody"]
    assert set(body["content"]) == {"image/*", "application/octet-stream", "multipart/form-data"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_get_their_own_answer(service, name):
    wanted, act = hostile(jpeg(3), service)[name]
    assert _complaint(wanted, *act()) == ""


def test_hostile_requests_leave_nothing(service, expected):
    """Runs after those above, in the order of the file."""
    for _ in range(100):
        if json.loads(service.ask("/readyz")[1])["waiting"] == 0:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("a place in the queue is still held")
    assert not [line for line in service.lines if line.startswith("Traceback")]
    image = jpeg(4)
    assert service.ask("/detect", image, JPEG)[1].decode() == expected(image).to_json()


def test_an_upload_that_stalls_ends(service):
    request = head(1000).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer, _, body = service.say(request, b"\xff\xd8\xff").partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"not complete after 3 s" in body


def test_a_large_form_is_not_written_to_the_disk(service):
    large = BytesIO()
    Image.fromarray(noise(5, 700, 800)).save(large, "PNG")
    assert len(large.getvalue()) > 2**20  # from which on Starlette uses files
    limits = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may get a byte
    try:
        assert service.ask("/detect", *form(large.getvalue()))[0] == 200
    finally:
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, limits)


def test_a_client_that_asks_before_it_sends_is_told_at_once(service):
    """As curl does with large files: the upload is refused before it begins."""
    request = head(10**9).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.sendall(request)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_what_is_too_much_is_refused_until_there_is_room(tiny_model):
    image = jpeg(6)
    with Service(tiny_model, "--queue", "1", "--threads", "1") as service:
        with socket.create_connection(("127.0.0.1", service.port), 20) as first:
            first.sendall(head(len(image)) + image[:100])
            while json.loads(service.ask("/readyz")[1])["status"] != "full":
                time.sleep(0.01)
            status, content, response = service.ask("/detect", image, JPEG)
            assert (status, response.headers["Retry-After"]) == (503, "1")
            assert json.loads(content) == {
                "error": "1 requests are in hand, which is the limit",
                "hint": "try again in a second",
            }
            assert service.ask("/healthz")[0] == 200
            first.sendall(image[100:])
            assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert service.ask("/detect", image, JPEG)[0] == 200


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    except TimeoutError:  # between the last that was taken and the first that is refused
        pass
    return True


def test_sigterm_lets_a_request_in_flight_end_and_refuses_new_ones(tiny_model):
    image = jpeg(7)
    with (
        Service(tiny_model, "--threads", "1") as service,
        socket.create_connection(("127.0.0.1", service.port), 20) as connection,
    ):
        connection.sendall(head(len(image)) + image[:100])
        while json.loads(service.ask("/readyz")[1])["waiting"] != 1:
            time.sleep(0.01)
        service.process.terminate()
        until = time.monotonic() + 10
        while is_open(service.port):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert service.process.poll() is None
        connection.sendall(image[100:])
        assert b"".join(iter(lambda: connection.recv(1 << 16), b"")).startswith(b"HTTP/1.1 200 ")
        assert (service.stop(), service.lines[1:]) == (0, [])


def test_sigterm_does_not_wait_for_ever(tiny_model):
    with (
        Service(tiny_model, "--stop-within", "1", "--threads", "1") as service,
        socket.create_connection(("127.0.0.1", service.port), 20) as connection,
    ):
        connection.sendall(head(1000) + b"\xff\xd8\xff")
        while json.loads(service.ask("/readyz")[1])["waiting"] != 1:
            time.sleep(0.01)
        start = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - start < 10


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("web_service_app", APP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_images_that_wait_share_a_batch_and_a_bad_one_fails_alone(app, tiny_model, expected, monkeypatch):
    images = [jpeg(8), jpeg(9), b"no image", jpeg(10), jpeg(11), jpeg(12)]
    batches: list[int] = []
    with Detector.load(tiny_model, threads=1) as detector:
        stream = detector.stream_images

        def counted(images: Sequence[Any], **options: Any) -> Any:
            batches.append(len(images))
            return stream(images, **options)

        monkeypatch.setattr(detector, "stream_images", counted)
        workers, busy = app.Workers(detector, batch=4, count=1), Event()

        def answer(_image: Any, found: Detections) -> Any:
            busy.wait(20)
            return found.to_json()

        jobs = [app.Job(image, answer) for image in images]
        workers.submit(jobs[0])
        while not batches:
            time.sleep(0.01)
        for job in jobs[1:]:
            workers.submit(job)
        jobs[5].future.cancel()  # its client went away
        busy.set()
        workers.close()
    assert batches == [1, 4]
    assert [job.future.result() for job in jobs if job not in (jobs[2], jobs[5])] == [
        expected(images[index]).to_json() for index in (0, 1, 3, 4)
    ]
    refused = jobs[2].future.exception()
    assert (refused.status, refused.message) == (422, "not an image in a format that Pillow reads")


def test_a_batch_that_fails_is_tried_image_by_image(app, tiny_model, expected, monkeypatch):
    """As where the memory suffices for one image and not for two."""
    images = [jpeg(15), jpeg(16)]
    with Detector.load(tiny_model, threads=1) as detector:
        stream = detector.stream_images

        def scarce(images: Sequence[Any], **options: Any) -> Any:
            if len(images) > 1 or images == [jpeg(16)]:
                raise MemoryError("scarce")
            return stream(images, **options)

        monkeypatch.setattr(detector, "stream_images", scarce)
        jobs = [app.Job(image, lambda _image, found: found.to_json()) for image in images]
        workers = app.Workers(detector, batch=2, count=1)
        workers.close()
        workers._run(jobs)
    assert jobs[0].future.result() == expected(images[0]).to_json()
    assert isinstance(jobs[1].future.exception(), MemoryError)


def test_concurrent_clients_get_the_answers_to_their_own_images(tiny_model, expected):
    images = [jpeg(seed) if seed % 8 else b"no image" for seed in range(1, 65)]
    with Service(tiny_model, "--batch", "4", "--threads", "1") as service, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda image: service.ask("/detect", image, JPEG)[:2], images))
    for image, (status, content) in zip(images, answers, strict=True):
        if image == b"no image":
            assert status == 422
        else:
            assert (status, content.decode()) == (200, expected(image).to_json())


def run_app(*arguments: Any) -> tuple[int, str, list[str]]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, str(APP), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_a_port_in_use_is_one_line_and_a_hint(service, tiny_model):
    code, output, (line, hint) = run_app(tiny_model, "--port", service.port)
    assert (code, output) == (2, "")
    assert line == f"error: cannot listen on 127.0.0.1, port {service.port}: Address already in use"
    assert hint == "hint: choose another --port (0: any that is free) or --host"


def test_a_model_of_the_wrong_kind_is_one_line_and_a_hint(tmp_path):
    code, output, (line, hint) = run_app(CHECKPOINT, "--port", 0)
    assert (code, output) == (2, "")
    assert line.startswith(f"error: {CHECKPOINT}") and hint.startswith("hint: ")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
def test_the_page_shows_what_is_found_in_a_dropped_image(service, expected, page, tmp_path, width, scheme):
    image = tmp_path / "photo.jpg"
    image.write_bytes(jpeg(13, 400, 300))
    found = expected(image)
    score = found.scores[2]
    page.look(width=width, scheme=scheme)
    page.open(f"http://127.0.0.1:{service.port}/")
    page.wait("document.querySelector('#status').textContent === 'Finds one, two, three'")
    page.drop("#drop", image)
    page.wait("document.querySelector('#status').textContent.includes('in photo.jpg, 300 x 400 pixels')")
    page.run(f"score.step = 'any'; score.value = {score - 1e-6}; score.dispatchEvent(new Event('input'))")
    assert page.run("document.querySelectorAll('tbody tr').length") == 3
    assert page.run("document.querySelectorAll('.box').length") == 3
    assert (
        page.run("[...document.querySelectorAll('tbody td:first-child')].map(cell => cell.innerText.trim())")
        == (found.class_names[:3])
    )
    shown = page.run("document.querySelector('img').getBoundingClientRect().toJSON()")
    place = page.run("document.querySelector('.box:last-child').getBoundingClientRect().toJSON()")  # the best, on top
    scale = shown["width"] / 300
    for side, wanted in zip(("left", "top", "right", "bottom"), found.boxes[0], strict=True):
        assert place[side] - shown["left" if side in ("left", "right") else "top"] == pytest.approx(
            wanted * scale, abs=1
        )
    assert page.run("document.documentElement.scrollWidth") == width
    assert page.run("document.querySelector('table').getBoundingClientRect().right") <= width - 15
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(18, 22, 27)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert page.run("performance.getEntriesByType('resource').every(one => one.name.includes(location.host))")
    assert page.errors == []


@needs_chromium
def test_the_page_works_by_keyboard_and_says_what_is_wrong(service, page, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "photo.jpg").write_bytes(jpeg(14, 400, 300))
    page.open(f"http://127.0.0.1:{service.port}/")
    page.press("Tab", 9)
    assert page.run("document.activeElement.id") == "file"  # its own dialogue opens by the space bar
    page.choose("#file", tmp_path / "notes.txt")
    page.wait("document.querySelector('#status').classList.contains('bad')")
    assert page.run("document.querySelector('#status').textContent").startswith("not an image in a format that Pillow")
    page.choose("#file", tmp_path / "photo.jpg")
    page.wait("document.querySelector('#status').textContent.includes('in photo.jpg, ')")
    assert not page.run("document.querySelector('#status').classList.contains('bad')")
    page.press("Tab", 9)
    assert page.run("document.activeElement.id") == "score"
    for _ in range(20):
        page.press("ArrowLeft", 37)
    assert page.run("document.querySelector('output').value") == "0.00"
    page.press("Tab", 9)
    assert page.run("document.activeElement.tagName") == "TR"
    assert page.run("document.querySelectorAll('.box.lit').length") == 1
