"""Servers of images and live streams on this system: HTTP, with motion JPEG, and RTSP, with JPEG frames over TCP."""

from __future__ import annotations

import io
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import numpy as np
from PIL import Image

SIZE = (96, 64)
STEP = 8
"""Between the grey levels of frames, so that a decoded one tells its number, modulo 30."""


def jpeg(number: int, size: tuple[int, int] = SIZE) -> bytes:
    """Return a JPEG file, grey by the frame's number."""
    file = io.BytesIO()
    grey = np.full((size[1], size[0], 3), number % 30 * STEP + 10, np.uint8)
    Image.fromarray(grey).save(file, "JPEG", subsampling="4:2:0", quality=90)
    return file.getvalue()


class Live:
    """What a server streams: frames at a rate, numbered since its start, whoever looks at them.

    Attributes:
        rate: frames a second.
        ends_after: how many frames a connection gets until it is cut; None: no end.
        is_silent: whether connections stay open, but get nothing more.
        is_away: whether new connections are refused.
        connections: how many clients asked for the stream so far.
        size: (width, height) of frames.
    """

    def __init__(self, rate: float = 50.0) -> None:
        self.rate = rate
        self.ends_after: int | None = None
        self.is_silent = self.is_away = False
        self.connections = 0
        self.size = SIZE
        self._start = time.monotonic()

    @property
    def now(self) -> float:
        """The number of the frame that is due."""
        return (time.monotonic() - self._start) * self.rate

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and JPEG file of each frame in its time."""
        self.connections += 1
        first = number = int(self.now)
        while self.ends_after is None or number - first < self.ends_after:
            time.sleep(max(0.0, self._start + number / self.rate - time.monotonic()))
            if not self.is_silent:
                yield number, jpeg(number, self.size)
            number += 1


class HttpHandler(BaseHTTPRequestHandler):
    """Answers with ``pages`` of the server: path -> (status, headers, body), or what makes that of a request's headers.

    A body that is ``Live`` is streamed.
    """

    def do_GET(self) -> None:
        """Answer."""
        pages: dict[str, Any] = self.server.pages  # type: ignore[attr-defined]
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        page = pages.get(self.path, (404, {}, b""))
        status, headers, body = page(self.headers) if callable(page) else page
        if isinstance(body, Live):
            self._stream(body)
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def _stream(self, live: Live) -> None:
        if live.is_away:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with suppress(OSError):
            for _, content in live.frames():
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
                self.wfile.write(head.encode() + content + b"\r\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class RtspHandler(StreamRequestHandler):
    """Answers one RTSP client: DESCRIBE, SETUP over TCP, PLAY; the server's ``login`` is asked for where it has one."""

    def handle(self) -> None:
        """Answer requests until the client leaves."""
        live: Live = self.server.live  # type: ignore[attr-defined]
        while request := self._request():
            method, sequence, headers = request
            more, body = "", ""
            if live.is_away:
                return
            if method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
                body += "m=video 0 RTP/AVP 26\r\na=control:video\r\n"
                more = (
                    f"Content-Type: application/sdp\r\nContent-Base: rtsp://{self.server.server_address[0]}/live/\r\n"
                )
            elif method == "OPTIONS":
                more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == "PLAY":
                more = "Session: 1\r\nRange: npt=now-\r\n"
            self.server.asked.append((method, headers))  # type: ignore[attr-defined]
            head = f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body.encode())
            if method == "PLAY":
                with suppress(OSError):
                    for number, content in live.frames():
                        self.wfile.write(b"".join(packets(number, content, live)))
                    self.connection.shutdown(socket.SHUT_RDWR)
                return

    def _request(self) -> tuple[str, str, dict[str, str]] | None:
        lines = []
        with suppress(OSError):
            while line := self.rfile.readline().decode().strip():
                lines.append(line)
        if not lines:
            return None
        headers = dict(line.split(": ", 1) for line in lines[1:])
        return lines[0].split()[0], headers["CSeq"], headers


def packets(number: int, content: bytes, live: Live, longest: int = 1200) -> Iterator[bytes]:
    """Yield a JPEG file as interleaved RTP packets (RFC 2435), with its quantization tables in the first."""
    tables = b"".join(table for table in re.findall(rb"\xff\xdb\x00\x43.(.{64})", content, re.DOTALL))
    scan = content[content.index(b"\xff\xda") :]
    scan = scan[2 + int.from_bytes(scan[2:4]) :].removesuffix(b"\xff\xd9")
    for offset in range(0, len(scan), longest):
        part = scan[offset : offset + longest]
        is_last = offset + longest >= len(scan)
        stamp = int(number / live.rate * 90_000) % 2**32
        header = struct.pack("!BBHII", 0x80, 26 | is_last << 7, number % 2**16, stamp, 1)
        header += struct.pack("!II", offset, 1 << 24 | 255 << 16 | live.size[0] // 8 << 8 | live.size[1] // 8)
        header += struct.pack("!HH", 0, len(tables)) + tables if offset == 0 else b""
        yield b"$\0" + struct.pack("!H", len(header + part)) + header + part


class _Tcp(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    live: Live
    asked: list[tuple[str, dict[str, str]]]


@contextmanager
def http_server(pages: dict[str, Any], asked: list[Any] | None = None) -> Iterator[str]:
    """Serve pages over HTTP and yield the address; each request is appended to ``asked``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), HttpHandler)
    server.daemon_threads = True
    server.pages, server.asked = pages, [] if asked is None else asked  # type: ignore[attr-defined]
    with _serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def rtsp_server(live: Live, port: int = 0) -> Iterator[tuple[str, int]]:
    """Serve a stream over RTSP and yield host and port."""
    server = _Tcp(("127.0.0.1", port), RtspHandler)
    server.live, server.asked = live, []
    with _serving(server):
        yield server.server_address[0], server.server_address[1]


@contextmanager
def _serving(server: Any) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
