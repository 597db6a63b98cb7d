"""Detect in files: images and videos are read, drawn copies written, unusable files skipped."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from frcnn.console import note, track
from frcnn.errors import ImageError
from frcnn.files import replacing
from frcnn.runtime.detections import Detections
from frcnn.runtime.detector import Detector
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.sources import is_video
from frcnn.runtime.images.video import Video, open_video, writing_video
from frcnn.runtime.results.display import write_image
from frcnn.runtime.results.draw import annotate
from frcnn.runtime.results.report import Report
from frcnn.runtime.streaming.stopping import Stop


@dataclass(kw_only=True)
class FileDetection:
    """One run of ``frcnn detect`` over files.

    Attributes:
        copies: where the annotated copy of a file goes; the others get none.
        max_pixels: videos with larger frames are skipped.
        options: of ``Detector.stream_images``.
        skipped: name -> why, of each input that could not be used, or not to its end.
    """

    detector: Detector
    report: Report
    copies: Mapping[Path, Path]
    stop: Stop
    max_pixels: int
    options: Mapping[str, Any]
    skipped: dict[str, ImageError] = field(default_factory=dict)
    _next_id: int = field(default=1, init=False)

    def run(self, files: Sequence[Path]) -> None:
        """Detect in all files, in order, or until asked to stop, which ends after the current image."""
        for video, group in groupby(files, is_video):
            if video:
                for file in group:
                    if not self.stop.is_asked:
                        self._video(file)
            elif not self.stop.is_asked:
                self._images(list(group))

    def skip(self, name: str, error: ImageError) -> None:
        """Report an input that cannot be used."""
        self.skipped[name] = error
        note(f"skipped: {error}")

    def _images(self, files: list[Path]) -> None:
        position = {str(file): index for index, file in enumerate(files)}
        first_id = self._next_id
        self._next_id += len(files)
        pairs = self.detector.stream_images(
            files, on_error=lambda index, error: self.skip(str(files[index]), error), **self.options
        )
        with closing(pairs):
            for image, found in track(pairs, total=len(files), what="detecting"):
                index = position[image.name]
                if files[index] in self.copies:
                    write_image(self.copies[files[index]], annotate(image.uint8(), found))
                # last: what is reported is all there
                self.report.add(first_id + index, image.name, found, **self._copy_of(files[index]))
                if self.stop.is_asked:
                    break

    def _video(self, file: Path) -> None:
        first_id = self._next_id
        self._next_id += 1
        try:
            video = open_video(file, max_pixels=self.max_pixels)
            count = 0
            pairs = self.detector.stream_images(video.frames(), **self.options)
            shown = track(pairs, total=video.frame_count, what=file.name)
            with closing(pairs), closing(self._copied(file, shown, video)) as copied:
                for index, (_, found) in enumerate(copied):
                    known = {"frame": index, "time_s": round(video.times_s[index], 6), **self._copy_of(file)}
                    self.report.add(first_id + index, str(file), found, **known)
                    count = index + 1
                    if self.stop.is_asked:  # the frames done are reported; the copy is whole or not there
                        return
            self._next_id = first_id + max(1, count)
            video.require_whole()
        except ImageError as error:
            self.skip(str(file), error)

    def _copy_of(self, file: Path) -> dict[str, str]:
        return {"copy": str(self.copies[file])} if file in self.copies else {}

    def _copied(
        self, file: Path, pairs: Iterable[tuple[RGBImage, Detections]], video: Video
    ) -> Generator[tuple[RGBImage, Detections]]:
        """Pass frames on, writing the annotated ones to the file's copy where it has one."""
        with ExitStack() as stack:
            for index, (image, found) in enumerate(pairs):
                if file in self.copies:
                    if index == 0:  # without a frame there is no copy
                        temporary = stack.enter_context(replacing(self.copies[file]))
                        writer = stack.enter_context(writing_video(temporary, video.fps))
                    writer.write(annotate(image.uint8(), found), video.times_s[index])
                yield image, found
