"""The canvas of a resized image, and how many images of a canvas run at once.

A ``model.onnx`` lists its canvases or takes any; an engine artifact takes those within its profiles. An image goes on
the smallest canvas that holds it, whatever the batch, so its detections do not depend on the other images.
"""

from __future__ import annotations

import sys
from typing import Final

from frcnn.errors import ImageSizeError, UsageError
from frcnn.spec import Manifest, Size
from frcnn.spec.engine import EngineManifest, Profile, Range

_MAX_PIXELS: Final = 1 << 26
"""Of a canvas: 0.8 GB, many times what any detector needs; a hostile model may ask for any size."""

_REMEMBERED: Final = 1024  # image sizes whose canvas is kept


class Canvases:
    """The canvases that a model takes."""

    def canvas_of(self, resized: Size, *, name: str) -> Size:
        """Return the smallest canvas that holds a resized image, called ``name`` in messages."""
        raise NotImplementedError

    def max_at_once(self, canvas: Size, batch_size: int) -> int:
        """Return how many images of a canvas may run at once, at most ``batch_size``."""
        return batch_size

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch size that no canvas takes."""


class OnnxCanvases(Canvases):
    """The canvases of a ``model.onnx``, whose batch is dynamic."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def canvas_of(self, resized: Size, *, name: str) -> Size:
        """Return the smallest canvas that holds a resized image; see :class:`Canvases`."""
        canvas = self._manifest.canvas_for(resized)
        if canvas is not None and canvas[0] * canvas[1] > _MAX_PIXELS:
            raise ImageSizeError(
                f"{name}: the model has it resized to {_by(resized)} on a {_by(canvas)} canvas, "
                f"more than {_MAX_PIXELS:,} pixels",
                hint="export the model with a smaller max_size or --size",
            )
        if canvas is not None:
            return canvas
        needed = _by(self._manifest.model.transform.canvas_size(*resized))
        taken = ", ".join(_by(canvas) for canvas in self._manifest.canvases or ())
        raise ImageSizeError(
            f"{name}: resized to {_by(resized)} it fits none of the model's canvases {taken} (height x width)",
            hint=f"export with --size {taken.replace(' ', '')},{needed}, or without --size for images of any shape",
        )


class EngineCanvases(Canvases):
    """The canvases within the profiles of an engine artifact."""

    def __init__(self, manifest: EngineManifest) -> None:
        self._manifest = manifest
        self._transform = manifest.source.model.transform
        self._canvases: dict[Size, Size] = {}
        self._runs: dict[tuple[int, Size], tuple[int, int]] = {}

    def canvas_of(self, resized: Size, *, name: str) -> Size:
        """Return the smallest canvas that holds a resized image; see :class:`Canvases`.

        A dynamic profile takes the canvas that the model itself would choose, raised to the profile's minimum height
        and width; a static one has its own.
        """
        canvas = self._canvases.get(resized)
        if canvas is None:
            found = (self._on(profile, resized) for profile in self._manifest.profiles)
            canvas = min((c for c in found if c is not None), key=lambda c: (c[0] * c[1], c), default=None)
            if canvas is None:
                raise self._refused(resized, name)
            if len(self._canvases) == _REMEMBERED:
                self._canvases.clear()
            self._canvases[resized] = canvas
        return canvas

    def max_at_once(self, canvas: Size, batch_size: int) -> int:
        """Return how many images of a canvas may run at once, at most ``batch_size``."""
        taking = [p for p in self._manifest.profiles if canvas[0] in p.height and canvas[1] in p.width]
        return min(batch_size, max(profile.batch.max for profile in taking))

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch size beyond that of every profile."""
        maximum = max(profile.batch.max for profile in self._manifest.profiles)
        if batch_size > maximum:
            raise UsageError(
                f"batch_size: the engine takes at most {maximum} image(s) at a time, got {batch_size}",
                hint=self._command(batch_size),
            )

    def batch_to_run(self, count: int, canvas: Size) -> tuple[int, int]:
        """Return the profile for ``count`` images, and the batch to run, which may have to be padded."""
        if known := self._runs.get((count, canvas)):
            return known
        for batch in range(count, self.max_at_once(canvas, sys.maxsize) + 1):
            profile = self._manifest.profile_for(batch, canvas)
            if profile is not None:
                self._runs[count, canvas] = profile, batch
                return profile, batch
        raise UsageError(
            f"no profile of the engine holds {count} images on a {_by(canvas)} canvas: {self._profiles()}",
            hint=self._command(count),
        )

    def _on(self, profile: Profile, resized: Size) -> Size | None:
        needed = self._transform.canvas_size(*resized)
        height = _side(profile.height, resized[0], needed[0], self._transform.size_divisible)
        width = _side(profile.width, resized[1], needed[1], self._transform.size_divisible)
        return None if height is None or width is None else (height, width)

    def _refused(self, resized: Size, name: str) -> ImageSizeError:
        needed = self._transform.canvas_size(*resized)
        hint = self._manifest.build_command("model.frcnn", canvases=[needed])
        static = self._manifest.source.canvases
        if static is not None and needed not in static:
            hint += f", with a model.onnx that takes {_by(needed)} too: frcnn export without --size takes any"
        return ImageSizeError(
            f"{name}: resized to {_by(resized)} it fits none of the engine's profiles: {self._profiles()}", hint=hint
        )

    def _command(self, batch: int) -> str:
        """Return the command that builds the artifact for a larger batch."""
        minimum, opt = (min(getattr(p.batch, end) for p in self._manifest.profiles) for end in ("min", "opt"))
        return self._manifest.build_command("model.frcnn", batch=Range(min=minimum, opt=opt, max=batch))

    def _profiles(self) -> str:
        texts = (f"{profile} with a batch of {profile.batch}" for profile in self._manifest.profiles)
        return ", ".join(texts) + " (height x width, min:opt:max)"


def _side(taken: Range, resized: int, needed: int, divisor: int) -> int | None:
    """Return a canvas's height or width within a profile's range, or None."""
    if taken.min == taken.max:
        return taken.min if resized <= taken.min else None
    side = max(needed, -(-taken.min // divisor) * divisor)
    return side if side <= taken.max else None


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
