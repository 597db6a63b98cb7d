"""Load on the web service of examples/web_service: ``benchmarks/results/web-load.json``.

Clients send photographs and hostile uploads for a while. Each answer is held to the one that it must be: of an image
what ``Detector`` gives, of anything else its status and one JSON form. The memory of the service is read meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from frcnn.benchmarks.timing.environment import load_average, now, read_environment
from frcnn.benchmarks.trial import BUNDLE
from frcnn.console import note
from frcnn.files import write_text
from frcnn.packages import installed_version
from frcnn.processors import available_cpus
from frcnn.runtime import Detector

ROOT: Final = Path(__file__).resolve().parents[1]
APP: Final = ROOT / "examples" / "web_service" / "app.py"
MAX_MIB: Final = 2
TIMEOUT_SECONDS: Final = 60
PATIENCE_SECONDS: Final = 120
"""After which an answer is lost."""
JPEG: Final = {"Content-Type": "image/jpeg"}
HOSTILE_SHARE: Final = 0.2


class Service:
    """The service in a process of its own, on a free port of 127.0.0.1."""

    def __init__(self, model: Path, *options: str) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, str(APP), str(model), "--port", "0", *options]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(os.environ, PYTHONPATH=path),
        )
        self.lines: list[str] = []
        ready, self._reader = threading.Event(), threading.Thread(target=lambda: self._read(ready))
        self._reader.start()
        ready.wait(PATIENCE_SECONDS)
        found = re.search(r"http://127\.0\.0\.1:(\d+)$", self.lines[0] if self.lines else "")
        if found is None:
            self.stop()
            raise AssertionError(f"the service did not start: {self.lines}")
        self.port = int(found[1])

    def _read(self, ready: threading.Event) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            ready.set()
        ready.set()

    def connect(self) -> HTTPConnection:
        """Return a connection."""
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> tuple[int, bytes, HTTPResponse]:
        """Return the answer to a request on a connection of its own."""
        with closing(self.connect()) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read(), response

    def say(self, *parts: bytes, pause: float = 0) -> bytes:
        """Return what comes back for bytes that are sent as they are, until the service closes."""
        with closing(socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            with suppress(ConnectionResetError):
                return b"".join(iter(lambda: connection.recv(1 << 16), b""))
            return b""

    def leave(self, *parts: bytes, pause: float = 0) -> tuple[int, bytes]:
        """Send bytes and close the connection without waiting for the answer, whose status counts as 0."""
        with closing(socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        return 0, b""

    def held(self) -> dict[str, int]:
        """Return the resident bytes, open files and threads of the process."""
        place = Path(f"/proc/{self.process.pid}")
        pages = int((place / "statm").read_text().split()[1])
        return {
            "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "files": len(list((place / "fd").iterdir())),
            "threads": len(list((place / "task").iterdir())),
        }

    def stop(self) -> int:
        """End it by SIGTERM, and return its exit code."""
        with self.process:
            self.process.terminate()
            code = self.process.wait(60)
            self._reader.join()
        return code

    def __enter__(self) -> Self:
        """Return the service, which ends with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()


def form(content: bytes, name: str = "file") -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a form with a file."""
    part = f'--line\r\nContent-Disposition: form-data; name="{name}"; filename="photo.jpg"\r\n\r\n'
    return part.encode() + content + b"\r\n--line--\r\n", {"Content-Type": "multipart/form-data; boundary=line"}


def head(length: int, path: str = "/detect") -> bytes:
    """Return the beginning of a request as it travels."""
    lines = f"POST {path} HTTP/1.1\r\nHost: service\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
    return lines.encode()


def png_bomb(side: int) -> bytes:
    """Return a small PNG that states a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def hostile(photo: bytes, service: Service) -> dict[str, tuple[int, Callable[[], tuple[int, bytes]]]]:
    """Return hostile requests by name, each with the status that it must get; 0: the client does not wait for one."""

    def ask(*arguments: Any, **options: Any) -> Callable[[], tuple[int, bytes]]:
        return lambda: service.ask(*arguments, **options)[:2]

    def say(*parts: bytes, pause: float = 0) -> tuple[int, bytes]:
        answer, _, body = service.say(*parts, pause=pause).partition(b"\r\n\r\n")
        return int(answer.split()[1]), body

    body, kind = form(photo)
    large, close = bytes(MAX_MIB * 2**20 + 100_000), b"Connection: close\r\n\r\n"
    parts = [large[: 2**20]] * (MAX_MIB + 1)
    slow = [photo[index : index + 1000] for index in range(0, len(photo), 1000)]
    slow_head = head(len(photo)).replace(b"\r\n\r\n", b"\r\n" + close)
    return {
        "empty body": (400, ask("/detect", b"", JPEG)),
        "half an image": (422, ask("/detect", photo[: len(photo) // 2], JPEG)),
        "text": (422, ask("/detect", b"no image " * 1000, JPEG)),
        "huge size stated": (413, ask("/detect", png_bomb(30_000), {"Content-Type": "image/png"})),
        "too many bytes": (413, ask("/detect", large, JPEG)),
        "too many bytes, length not stated": (413, lambda: service.ask("/detect", iter(parts), JPEG)[:2]),
        "too many bytes in a form": (413, ask("/detect", *form(large))),
        "form without the field": (400, ask("/detect", *form(photo, "image"))),
        "corrupt form": (400, ask("/detect", body.replace(b"--line", b"--lime"), kind)),
        "form cut off": (400, ask("/detect", body[:500], kind)),
        "form without a boundary": (400, ask("/detect", body, {"Content-Type": "multipart/form-data"})),
        "unknown type": (415, ask("/detect", photo, {"Content-Type": "text/plain"})),
        "score of 2": (422, ask("/detect?score=2", photo, JPEG)),
        "unknown class": (422, ask("/detect?classes=unicorn", photo, JPEG)),
        "wrong method": (405, ask("/detect")),
        "no HTTP": (400, lambda: say(b"\x16\x03\x01 nonsense\r\n\r\n")),
        "slow upload": (200, lambda: say(slow_head, *slow, pause=1 / len(slow))),
        "closed in the middle": (0, lambda: service.leave(head(len(photo)), photo[:1000])),
        "closed before the answer": (0, lambda: service.leave(head(len(photo)), photo)),
        "closed while it works": (0, lambda: service.leave(head(len(photo)), photo, pause=0.05)),
    }


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, status: int, complaint: str = "", seconds: float | None = None) -> None:
        """Count a request and its answer."""
        with self.lock:
            self.answers[f"{name}: {status or 'not waited for'}"] += 1
            self.answered += 1
            if complaint:
                self.wrong.append(f"{name}: {complaint}")
            if seconds is not None:
                self.seconds.append(seconds)

    def lose(self, name: str, error: Exception) -> None:
        """Note a request that got no answer."""
        with self.lock:
            self.wrong.append(f"{name}: no answer: {type(error).__name__} {error}")


def client(
    service: Service, photos: Sequence[bytes], expected: Sequence[bytes], until: float, tally: Tally, seed: int
) -> None:
    """Send requests one after the other until a time."""
    dice, connection = random.Random(seed), service.connect()
    attacks = [hostile(photo, service) for photo in photos]
    while time.monotonic() < until:
        number = dice.randrange(len(photos))
        name = (
            dice.choice(list(attacks[number]))
            if dice.random() < HOSTILE_SHARE
            else dice.choice(("body", "form", "drawn"))
        )
        with tally.lock:
            tally.sent += 1
        start = time.monotonic()
        try:
            if name in attacks[number]:
                wanted, act = attacks[number][name]
                status, content = act()
                tally.add(name, status, _complaint(wanted, status, content))
                continue
            body, headers = form(photos[number]) if name == "form" else (photos[number], dict(JPEG))
            connection.request("POST", "/detect?format=" + ("jpeg" if name == "drawn" else "json"), body, headers)
            response = connection.getresponse()
            content = response.read()
        except Exception as error:
            tally.lose(name, error)
            connection.close()
            continue
        is_right = content.startswith(b"\xff\xd8") if name == "drawn" else content == expected[number]
        complaint = "" if response.status == 200 and is_right else f"{response.status} {content[:200]!r}"
        tally.add(name, response.status, complaint, time.monotonic() - start)
    connection.close()


def _complaint(wanted: int, status: int, content: bytes) -> str:
    if status != wanted:
        return f"expected {wanted}, got {status} {content[:200]!r}"
    if status < 400 or content == b"Invalid HTTP request received.":  # of uvicorn itself
        return ""
    return "" if json.loads(content).keys() == {"error", "hint"} else f"another form: {content[:200]!r}"


def load(model: Path, *, clients: int, seconds: float) -> dict[str, Any]:
    """Start the service, let clients loose on it, stop it, and return what was found."""
    photos = [path.read_bytes() for path in sorted((BUNDLE / "images").iterdir())]
    with Detector.load(model) as detector:
        expected = [found.to_json().encode() for found in detector(photos)]
    tally, held = Tally(), list[tuple[float, dict[str, int]]]()
    with Service(model, "--max-mib", str(MAX_MIB), "--timeout", str(TIMEOUT_SECONDS)) as service:
        before, start = service.held(), time.monotonic()
        threads = [
            threading.Thread(target=client, args=(service, photos, expected, start + seconds, tally, seed))
            for seed in range(clients)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            held.append((time.monotonic() - start, service.held()))
            time.sleep(0.5)
        time.sleep(1)
        at_rest = json.loads(service.ask("/readyz")[1])
        after = service.held()
        exit_code = service.stop()
    warm = [(moment, sample["rss_bytes"]) for moment, sample in held if seconds / 3 <= moment <= seconds]
    moments, sizes = np.array(warm, float).T
    slope = float(np.polyfit(moments / 60, sizes, 1)[0])
    p50, p99 = np.percentile(np.array(tally.seconds) * 1000, (50, 99))
    return {
        "clients": clients,
        "seconds": seconds,
        "sent": tally.sent,
        "answered": tally.answered,
        "wrong": tally.wrong,
        "images_a_second": round(len(tally.seconds) / seconds, 2),
        "latency_ms": {
            "p50": round(float(p50), 1),
            "p99": round(float(p99), 1),
            "max": round(max(tally.seconds) * 1000, 1),
        },
        "memory": {
            "before": before,
            "after": after,
            "after_a_third_rss_bytes": warm[0][1],
            "peak_rss_bytes": max(sample["rss_bytes"] for _, sample in held),
            "rss_bytes_a_minute_in_the_last_two_thirds": round(slope),
            "rss_mib_every_10_s": [round(sample["rss_bytes"] / 2**20) for _, sample in held[::20]],
        },
        "answers": dict(sorted(tally.answers.items())),
        "at_rest": at_rest,
        "exit_code": exit_code,
        "tracebacks": sum(line.startswith("Traceback") for line in service.lines),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the file, and return 1 if an answer was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", type=Path, help="the demo's model.onnx")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--clients", type=int, default=32, help="at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300, help="of load (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    before = load_average()
    found = load(chosen.model, clients=chosen.clients, seconds=chosen.seconds)
    command = f"python -m maintenance.web_load model.onnx --clients {chosen.clients} --seconds {chosen.seconds:g}"
    system = read_environment(command=command, threads=available_cpus(), load_before=before, date=now(), gpu=None)
    versions = {
        name: installed_version(name) for name in ("fastapi", "starlette", "uvicorn", "python-multipart", "onnxruntime")
    }
    environment = {
        "cpu": system.cpu,
        "cores": system.cores,
        "load_before": system.load_before,
        "versions": {**versions, "frcnn": system.frcnn, "python": system.python},
        "date": system.date,
        "command": command,
    }
    write_text(chosen.output, json.dumps({"environment": environment, **found}, indent=1) + "\n")
    lost, wrong = found["sent"] - found["answered"], len(found["wrong"])
    note(f"{found['answered']} answers, {lost} lost, {wrong} wrong; {found['latency_ms']}, {found['memory']}")
    return int(bool(lost or found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
