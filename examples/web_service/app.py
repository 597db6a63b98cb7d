"""A web service around a detector: an image in, its objects out, as JSON or drawn on the image.

python app.py model.onnx --port 8000
"""

import argparse
import asyncio
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect

from frcnn.errors import FrcnnError, ImageError, ImageSizeError, UsageError
from frcnn.runtime import Detections, Detector, RGBImage

GATHER_SECONDS = 0.002
"""How long an image waits for others to share its batch."""
MAX_CONNECTIONS = 1000
"""Idle ones too; uvicorn answers more with a 503 of its own."""
PAGE = Path(__file__).with_name("page.html")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:; connect-src 'self'"
FILE = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": FILE["schema"]}}}
BODY = {"required": True, "content": {"image/*": FILE, "application/octet-stream": FILE, "multipart/form-data": FORM}}


class RefusedError(FrcnnError):
    """A request that is not answered with detections, and the HTTP status that says why."""

    def __init__(self, status: int, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(slots=True, eq=False)
class Job:
    """An image that waits for a worker, and what makes the answer of what is found in it."""

    image: bytes
    answer: Callable[[RGBImage, Detections], Response]
    future: Future[Response] = field(default_factory=Future)


class Workers:
    """Threads that take what waits, up to a batch at a time, and decode, detect and draw."""

    def __init__(self, detector: Detector, *, batch: int, count: int) -> None:
        self._detector, self._batch = detector, batch
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Put a job behind the others."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the threads after what waits."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [job for job in (first, *self._companions()) if job.future.set_running_or_notify_cancel()]
            if jobs:  # else their clients have gone
                self._run(jobs)

    def _companions(self) -> Iterator[Job]:
        until = time.monotonic() + GATHER_SECONDS
        with suppress(queue.Empty):
            for _ in range(self._batch - 1):
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
                if job is None:  # for this thread to see when it is done
                    return self._jobs.put(None)
                yield job

    def _run(self, jobs: Sequence[Job]) -> None:
        """Answer a batch; an image that cannot be used fails alone."""
        errors: dict[int, ImageError] = {}
        images = [job.image for job in jobs]
        try:
            pairs = list(self._detector.stream_images(images, batch_size=self._batch, on_error=errors.__setitem__))
        except Exception as error:
            if len(jobs) == 1:
                return jobs[0].future.set_exception(error)
            for job in jobs:  # one image may be the cause, or the batch may be too large for the memory
                self._run([job])
            return
        found = iter(pairs)
        for index, job in enumerate(jobs):
            try:
                if error := errors.get(index):
                    message = error.message.removeprefix(f"images[{index}]: ")
                    if isinstance(error, ImageSizeError):
                        raise RefusedError(413, message, hint="send a smaller image")
                    raise RefusedError(422, message, hint=error.hint)
                job.future.set_result(job.answer(*next(found)))
            except Exception as error:
                job.future.set_exception(error)


class Service:
    """Requests between the network and the workers: limits, waiting, and clients that go away."""

    def __init__(self, detector: Detector, workers: Workers, options: argparse.Namespace) -> None:
        self.detector, self.workers, self.options = detector, workers, options
        self.max_bytes = options.max_mib * 2**20
        self.waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another image."""
        return bool(self.waiting >= self.options.queue)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place from the first byte of an upload to its answer."""
        if self.is_full:
            text = f"{self.waiting} requests are in hand, which is the limit"
            raise RefusedError(503, text, hint="try again in a second")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def read(self, request: Request) -> bytes:
        """Return the image of an upload, none of which is on the disk, and nothing beyond the limit in memory."""
        limited = Request(request.scope, self._limited(request))
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            async with asyncio.timeout(self.options.timeout):
                if kind == "multipart/form-data":
                    async with limited.form(max_files=1, max_fields=8, max_part_size=4096) as form:
                        file = form.get("file")
                        if not isinstance(file, UploadFile):
                            text = "the form has no file in its field 'file'"
                            raise RefusedError(400, text, hint="curl -F file=@photo.jpg")
                        image = await file.read()
                elif kind.startswith("image/") or kind == "application/octet-stream":
                    image = await limited.body()
                else:
                    expected = "image/*, application/octet-stream or multipart/form-data"
                    hint = "curl -F file=@photo.jpg, or --data-binary @photo.jpg -H 'Content-Type: image/jpeg'"
                    raise RefusedError(415, f"expected Content-Type {expected}, got {kind or 'none'}", hint=hint)
        except TimeoutError:
            text = f"the upload was not complete after {self.options.timeout} s"
            raise RefusedError(408, text, hint="send a smaller file") from None
        if not image:
            raise RefusedError(400, "the upload is empty", hint="send the bytes of an image file")
        return image

    def _limited(self, request: Request) -> Callable[[], Any]:
        count, stated = 0, request.headers.get("content-length", "")
        error = RefusedError(413, f"the upload is larger than {self.max_bytes:,} bytes", hint="send a smaller file")

        async def receive() -> Any:
            nonlocal count
            if stated.isdecimal() and int(stated) > self.max_bytes:
                raise error
            message = await request.receive()
            count += len(message.get("body", b""))
            if count > self.max_bytes:
                raise error
            return message

        return receive

    async def run(self, request: Request, job: Job) -> Response:
        """Return a job's answer; it is dropped if its client goes or its time is over before its turn."""
        self.workers.submit(job)
        future, gone = asyncio.wrap_future(job.future), asyncio.ensure_future(left(request))
        try:
            await asyncio.wait((future, gone), timeout=self.options.timeout, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            if gone.done():
                raise ClientDisconnect
            raise RefusedError(503, f"no answer within {self.options.timeout} s", hint="try again later")
        finally:
            gone.cancel()
            future.cancel()


async def left(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def explain(_request: Request, error: Exception) -> Response:
    """Answer an error, whatever it is, in one form."""
    status, message, hint = 500, "unexpected failure", "the log of the service tells more"
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    if isinstance(error, RefusedError | UsageError):
        status, message, hint = getattr(error, "status", 422), error.message, error.hint
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        status, message, hint = 422, f"{first['loc'][-1]}: {first['msg']}", "see /openapi.json"
    elif isinstance(error, HTTPException):
        status, message, hint = error.status_code, error.detail, "see /openapi.json"
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": message, "hint": hint}, status, headers)


def make_app(service: Service) -> FastAPI:
    """Return the application of a service."""
    kinds = (RefusedError, UsageError, RequestValidationError, HTTPException, ClientDisconnect, Exception)
    app = FastAPI(title="frcnn", docs_url=None, redoc_url=None, exception_handlers=dict.fromkeys(kinds, explain))
    manifest = service.detector.manifest

    @app.post("/detect", openapi_extra={"requestBody": BODY})
    async def detect(
        request: Request,
        score: Annotated[float, Query(ge=0, le=1, description="minimum score")] = 0.0,
        classes: Annotated[list[str] | None, Query(description="names or indices to keep")] = None,
        form: Annotated[Literal["json", "jpeg"] | None, Query(alias="format", description="default: by Accept")] = None,
    ) -> Response:
        """Detect objects in an image, which is the body or a form's field ``file``."""
        wants_json = form == "json" or (form is None and "image/jpeg" not in request.headers.get("accept", ""))

        def answer(image: RGBImage, found: Detections) -> Response:
            kept = found.filter(score=score, classes=classes)
            if wants_json:
                return Response(kept.to_json(), media_type="application/json")
            kept.draw(image).save(jpeg := BytesIO(), "JPEG", quality=95)
            return Response(jpeg.getvalue(), media_type="image/jpeg")

        with service.place():
            return await service.run(request, Job(await service.read(request), answer))

    @app.get("/healthz")
    async def is_alive() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def is_ready(response: Response) -> dict[str, Any]:
        """Tell whether there is room for another image."""
        response.status_code = 503 if service.is_full else 200
        return {"status": "full" if service.is_full else "ready", "waiting": service.waiting}

    @app.get("/model")
    async def describe() -> dict[str, Any]:
        """Describe the model and the limits."""
        spec = manifest.model
        return {
            "architecture": spec.architecture,
            "labels": [spec.label_name(label) for label in range(1, spec.num_classes)],
            "precision": manifest.precision,
            "provider": service.options.provider,
            "resized_to": {"min_size": spec.transform.min_size, "max_size": spec.transform.max_size},
            "resized_as": spec.transform.resize,
            "canvases": manifest.canvases,
            "limits": {"bytes": service.max_bytes, "megapixels": service.options.max_megapixels},
        }

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"Content-Security-Policy": POLICY})

    return app


def serve(service: Service, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; finish what is in flight, and refuse the rest."""
    MultiPartParser.spool_max_size = service.max_bytes  # else larger files of forms are written to the disk
    config = uvicorn.Config(
        make_app(service),
        http="h11",
        ws="none",
        lifespan="off",
        access_log=service.options.access_log,
        log_level="info" if service.options.access_log else "warning",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=75,  # longer than a proxy keeps an idle connection, who would lose a request otherwise
        timeout_graceful_shutdown=service.options.stop_within,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises a signal again when it has obeyed
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """Take an address; who connects is refused until the model is loaded."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}",
            hint="choose another --port (0: any that is free) or --host",
        ) from error
    return listener


def positive(text: str) -> int:
    """Read the number of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text}")
    return int(text)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Detect objects in images that come by HTTP.", allow_abbrev=False)
    parser.add_argument("model", help="a model.onnx or *.frcnn")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    parser.add_argument("--provider", help="as of frcnn detect: cpu, cuda, tensorrt, openvino or tuned")
    parser.add_argument("--access-log", action="store_true", help="print a line a request")
    for name, default, text in (
        ("--threads", None, "processor threads of a model.onnx (default: all)"),
        ("--workers", 2, "threads that decode, detect and draw (default: %(default)s)"),
        ("--batch", 1, "images that the network takes at once; more gains on a GPU only (default: %(default)s)"),
        ("--queue", 64, "requests in hand; more are refused with 503 (default: %(default)s)"),
        ("--max-mib", 16, "MiB of an upload (default: %(default)s)"),
        ("--max-megapixels", 50, "megapixels of an image (default: %(default)s)"),
        ("--timeout", 30, "seconds for an upload, and for its answer (default: %(default)s)"),
        ("--stop-within", 8, "seconds for requests in flight after SIGTERM (default: %(default)s)"),
    ):
        parser.add_argument(name, type=positive, default=default, metavar="N", help=text)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model, serve, and return the exit code."""
    options = options_of(arguments)
    pixels, provider = options.max_megapixels * 1_000_000, options.provider
    try:
        with (
            bind(options.host, options.port) as listener,
            Detector.load(options.model, provider=provider, threads=options.threads, max_pixels=pixels) as detector,
        ):
            grey = np.full((480, 640), 127, np.uint8)
            detector([grey] * options.batch, batch_size=options.batch)  # the first call takes longer, and may fail
            with closing(Workers(detector, batch=options.batch, count=options.workers)) as workers:
                listener.listen()
                host, port = listener.getsockname()[:2]
                print(f"serving {options.model} on http://{host}:{port}", flush=True)
                serve(Service(detector, workers, options), listener)
    except FrcnnError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
