"""frcnn.runtime.images.addresses, against a server on this system."""

from __future__ import annotations

import base64
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from support.streams import Live, http_server, jpeg

from frcnn.errors import ImageError, without_credentials
from frcnn.runtime.images import addresses
from frcnn.runtime.images.addresses import fetch_image

IMAGE = jpeg(3)
LOGIN = "Basic " + base64.b64encode(b"me:s p@ss").decode()


def guarded(headers: Any) -> tuple[int, dict[str, str], bytes]:
    if headers.get("Authorization") == LOGIN:
        return 200, {"Content-Type": "image/jpeg"}, IMAGE
    return 401, {"WWW-Authenticate": 'Basic realm="camera"'}, b"who are you?"


PAGES: dict[str, Any] = {
    "/a.jpg": (200, {"Content-Type": "image/jpeg"}, IMAGE),
    "/untyped": (200, {}, IMAGE),
    "/vague.mp4": (200, {"Content-Type": "application/octet-stream"}, IMAGE),
    "/b c.jpg": (404, {}, b""),
    "/b%20c.jpg?x=%C3%B6": (200, {"Content-Type": "image/jpeg"}, IMAGE),
    "/moved": (302, {"Location": "/a.jpg"}, b""),
    "/to-file": (302, {"Location": "file:///etc/hostname"}, b""),
    "/to-ftp": (302, {"Location": "ftp://127.0.0.1/a.jpg"}, b""),
    "/loop": (302, {"Location": "/loop"}, b""),
    "/page": (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"),
    "/clip": (200, {"Content-Type": "application/octet-stream"}, b"\0\0\0\x20ftypisom" + bytes(100)),
    "/clip.mp4": (200, {"Content-Type": "video/mp4"}, b"\0\0\0\x20ftypisom" + bytes(100)),
    "/list.m3u8": (200, {"Content-Type": "application/vnd.apple.mpegurl"}, b"#EXTM3U\n"),
    "/live": (200, {}, Live()),
    "/short": (200, {"Content-Type": "image/png", "Content-Length": "5000"}, b"\x89PNG"),
    "/guarded.jpg": guarded,
}


@pytest.fixture(scope="module")
def asked() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def site(asked: list[Any]) -> Iterator[str]:
    with http_server(PAGES, asked) as address:
        yield address


@pytest.mark.parametrize(
    "path", ["/a.jpg", "/untyped", "/vague.mp4", "/b c.jpg?x=ö", "/b%20c.jpg?x=%C3%B6", "/moved", "/a.jpg#x"]
)
def test_an_image_is_fetched_whatever_its_address_looks_like(site: str, path: str) -> None:
    assert fetch_image(site + path) == IMAGE


@pytest.mark.parametrize("path", ["/clip", "/clip.mp4", "/list.m3u8", "/live"])
def test_what_is_no_image_is_left_to_a_player(site: str, path: str) -> None:
    assert fetch_image(site + path) is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone.jpg", "cannot be fetched: the server says 404 Not Found"),
        ("/page", "expected an image or a video, got text/html"),
        ("/to-file", "Redirection to url 'file:///etc/hostname' is not allowed"),
        ("/to-ftp", "cannot be fetched: unknown url type: ftp"),
        ("/loop", "The HTTP server returned a redirect error that would lead to an infinite loop"),
        ("/guarded.jpg", "cannot be fetched: the server says 401 Unauthorized"),
    ],
)
def test_what_cannot_be_had_is_one_line(site: str, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as raised:
        fetch_image(site + path)
    assert raised.value.message.startswith(f"{site}{path}: ")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:9/a.jpg", "Connection refused"),
        ("http://127.0.0.1:port/a.jpg", "nonnumeric|could not be cast"),
        ("http://[::1/a.jpg", "Invalid IPv6 URL"),
        ("http:///a.jpg", "no host given"),
    ],
)
def test_what_leads_nowhere_is_an_error(address: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        fetch_image(address)


def test_a_password_opens_its_own_server_and_is_not_shown(site: str, asked: list[Any]) -> None:
    host = site.removeprefix("http://")
    asked.clear()
    assert fetch_image(f"http://me:s%20p%40ss@{host}/guarded.jpg") == IMAGE
    gc.collect()  # raises where an answer was left open
    with pytest.raises(ImageError) as raised:
        fetch_image(f"http://me:wrong@{host}/guarded.jpg")
    assert raised.value.message == f"http://***@{host}/guarded.jpg: cannot be fetched: the server says 401 Unauthorized"
    other: list[Any] = []
    with http_server({"/a.jpg": PAGES["/a.jpg"]}, other) as elsewhere:
        PAGES["/away"] = lambda headers: (
            302 if headers.get("Authorization") else 401,
            {"Location": f"{elsewhere}/a.jpg", "WWW-Authenticate": 'Basic realm="x"'},
            b"",
        )
        assert fetch_image(f"http://me:secret@{host}/away") == IMAGE
    assert any("Authorization" in headers for path, headers in asked if path == "/away")
    assert [headers.get("Authorization") for _, headers in other] == [None]


def test_an_image_is_bounded_in_size_and_in_time(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_MOST_BYTES", len(IMAGE) - 1)
    with pytest.raises(ImageError, match=f"expected at most {len(IMAGE) - 1} bytes in 120 s"):
        fetch_image(f"{site}/a.jpg")
    monkeypatch.setattr(addresses, "_MOST_BYTES", len(IMAGE))
    assert fetch_image(f"{site}/a.jpg") == IMAGE
    monkeypatch.setattr(addresses, "_LONGEST_S", 0.0)
    with pytest.raises(ImageError, match="bytes in 0 s"):
        fetch_image(f"{site}/a.jpg")


def test_a_server_that_stops_answering_is_not_waited_for_long(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Live()
    silent.is_silent = True
    monkeypatch.setitem(PAGES, "/silent", (200, {}, silent))
    monkeypatch.setattr(addresses, "_STREAMED", addresses.re.compile("never"))
    monkeypatch.setattr(addresses, "_PATIENCE_S", 0.2)
    with pytest.raises(ImageError, match="cannot be fetched: timed out"):
        fetch_image(f"{site}/silent")
    silent.ends_after = 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:secret@host:554/live?a=1", "rtsp://***@host:554/live?a=1"),
        ("rtsp://me:se@cr@host/live", "rtsp://***@host/live"),
        ("rtsp://me:sec/ret@host/live", "rtsp://***@host/live"),
        (
            "cannot open http://me:secret@host/a, nor rtsp://you:secret@b/c",
            "cannot open http://***@host/a, nor rtsp://***@b/c",
        ),
        ("http://host/?user=me&pwd=secret&n=2#x", "http://host/?user=***&pwd=***&n=2#x"),
        (
            "http://host/?X-Amz-Credential=secret&X-Amz-Signature=secret",
            "http://host/?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("http://host/?pwd=***: gone", "http://host/?pwd=***: gone"),
        ("http://host/@me/a.jpg", "http://host/@me/a.jpg"),
        ("http://host:8080/@me/a.jpg", "http://host:8080/@me/a.jpg"),
        ("photos/me:you@home.jpg?pwd=x", "photos/me:you@home.jpg?pwd=x"),
    ],
)
def test_passwords_are_taken_out_of_addresses(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert ImageError(text, hint=text).message == ImageError(text, hint=text).hint == shown
