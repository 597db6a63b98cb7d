"""Detect in images, videos and live sources: they are read, drawn copies written, unusable ones skipped."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any

from frcnn.console import note, track
from frcnn.errors import ImageError
from frcnn.files import replacing
from frcnn.runtime.detections import Detections
from frcnn.runtime.detector import Detector, OnError
from frcnn.runtime.images.addresses import fetch_image
from frcnn.runtime.images.decode import decode_file
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.slices import Slicing
from frcnn.runtime.images.sources import Source
from frcnn.runtime.images.video import Video, open_video, writing_video
from frcnn.runtime.results.display import write_image
from frcnn.runtime.results.draw import annotate
from frcnn.runtime.results.report import Report
from frcnn.runtime.streaming.live import DEFAULT_RECONNECT_S, Live, open_stream
from frcnn.runtime.streaming.stopping import Stop


@dataclass(kw_only=True)
class FileDetection:
    """One run of ``frcnn detect`` over its sources.

    Attributes:
        copies: where the annotated copy of a source goes; the others get none. One that turns out to be a video instead
            of an image is .mp4.
        max_pixels: videos with larger frames are skipped.
        options: of ``Detector.stream_images``.
        slicing: likewise.
        reconnect_s: how long a live source that was lost is waited for.
        font: the file of a font for names in the copies.
        duration_s: how long a live source is watched; None: until asked to stop.
        skipped: name -> why, of each input that could not be used, or not to its end.
    """

    detector: Detector
    report: Report
    copies: Mapping[Source, Path]
    stop: Stop
    max_pixels: int
    options: Mapping[str, Any]
    slicing: Slicing | None = None
    reconnect_s: float = DEFAULT_RECONNECT_S
    duration_s: float | None = None
    font: str | None = None
    skipped: dict[str, ImageError] = field(default_factory=dict)
    _next_id: int = field(default=1, init=False)

    def run(self, sources: Sequence[Source]) -> None:
        """Detect in all sources, in order, or until asked to stop, which ends after the current image."""
        for kind, group in groupby(sources, lambda source: source.kind):
            together = list(group)
            if kind == "image" and not self.stop.is_asked:
                self._images(together, [source.at for source in together])
            for source in together if kind != "image" else ():
                if not self.stop.is_asked:
                    self._one(source)

    def skip(self, name: str, error: ImageError) -> None:
        """Report an input that cannot be used."""
        self.skipped[name] = error
        note(f"skipped: {error}")

    def _one(self, source: Source) -> None:
        """Detect in a source of any kind but an image file."""
        first_id, at = self._next_id, source.at
        try:
            if source.kind == "web" and isinstance(at, str):
                at = fetch_image(at) or at
            if isinstance(at, bytes):
                pixels = decode_file(BytesIO(at), name=source.name, max_pixels=self.max_pixels)
                self._images([source], [RGBImage(pixels=pixels, name=source.name, source=source.name)])
            elif isinstance(at, Path):
                self._video(source, open_video(at, max_pixels=self.max_pixels))
            else:
                self._video(source, open_stream(at, reconnect_s=self.reconnect_s, max_pixels=self.max_pixels))
        except ImageError as error:
            self.skip(source.name, error)
        self._next_id = max(self._next_id, first_id + 1)  # an unusable one has a number, too

    def _images(self, sources: list[Source], images: Sequence[object]) -> None:
        position = {source.name: index for index, source in enumerate(sources)}
        first_id = self._next_id
        self._next_id += len(sources)
        pairs = self._pairs(images, on_error=lambda index, error: self.skip(sources[index].name, error))
        with closing(pairs):
            for image, found in track(pairs, total=len(sources), what="detecting"):
                index = position[image.name]
                copy = self.copies.get(sources[index])
                if copy is not None:
                    write_image(copy, annotate(image.uint8(), found, font=self.font))
                # last: what is reported is all there
                self.report.add(first_id + index, image.name, found, **_copy_at(copy))
                if self.stop.is_asked:
                    break

    def _video(self, source: Source, video: Video | Live) -> None:
        copy = self.copies.get(source)
        copy = None if copy is None else copy.with_suffix(".mp4")
        is_live = isinstance(video, Live)
        pairs = self._newest(video) if isinstance(video, Live) else self._pairs(video.frames())
        shown = track(pairs, total=video.frame_count, what=source.name)
        with closing(pairs), closing(_copied(copy, shown, video, self.font)) as copied:
            for found, frame, time_s in copied:
                known = {"frame": frame, "time_s": round(time_s, 6), **_copy_at(copy)}
                self.report.add(self._next_id, source.name, found, **known)
                self._next_id += 1
                if self.stop.is_asked and not is_live:  # the frames done are reported; the copy is whole or not there
                    return
        if isinstance(video, Live):
            note(f"{source.name}: {video.tally}")
        if not self.stop.is_asked:
            video.require_whole()

    def _pairs(
        self, images: Iterable[object], on_error: OnError | None = None
    ) -> Generator[tuple[RGBImage, Detections]]:
        return self.detector.stream_images(images, on_error=on_error, slicing=self.slicing, **self.options)

    def _newest(self, live: Live) -> Generator[tuple[RGBImage, Detections]]:
        """Detect in the newest frame of a live source each time: one that waited for a batch would be late.

        It ends by itself when asked to, so that its copy is whole.
        """
        if self.slicing is None:
            options = {name: value for name, value in self.options.items() if name != "batch_size"}
            detect = partial(self.detector, **options)
        else:
            detect = partial(self.detector.sliced, **asdict(self.slicing), **self.options)
        end_s = math.inf if self.duration_s is None else monotonic() + self.duration_s
        with closing(live.frames(lambda: self.stop.is_asked or monotonic() >= end_s)) as images:
            for image in images:
                yield image, detect([image])[0]


def _copied(
    copy: Path | None, pairs: Iterable[tuple[RGBImage, Detections]], video: Video | Live, font: str | None
) -> Generator[tuple[Detections, int, float]]:
    """Pass on what was found in each frame, with its number and time; write the annotated ones to a copy."""
    with ExitStack() as stack:
        for index, (image, found) in enumerate(pairs):
            frame, time_s = video.moment(index)
            if copy is not None:
                if index == 0:  # without a frame there is no copy
                    temporary = stack.enter_context(replacing(copy))
                    writer = stack.enter_context(writing_video(temporary, video.fps))
                writer.write(annotate(image.uint8(), found, font=font), time_s)
            yield found, frame, time_s


def _copy_at(copy: Path | None) -> dict[str, str]:
    return {} if copy is None else {"copy": str(copy)}
