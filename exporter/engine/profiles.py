"""Optimization profiles of an engine from ``--batch`` and ``--size``, checked against the model.

An engine accepts the shapes within its profiles and is fastest at their opt shapes. Without ``--size`` the profiles
hold every size that the model's resizing produces: the short side is at most ``min_size`` and the long side at most
``max_size``, so two profiles, landscape and portrait, need the memory of ``min_size x max_size`` only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from frcnn.errors import UsageError
from frcnn.options import parse_size
from frcnn.spec import Manifest, Size, TransformSpec
from frcnn.spec.engine import Profile, Range

DEFAULT_BATCH: Final = "1:1:8"
_OPT_ASPECT: Final = (3, 4)  # of most cameras
_SIZE_HELP: Final = "for instance --size 800x1344,1344x800, or min, opt and max: --size 320x320:800x1088:1344x1344"


def parse_batch(text: str) -> Range:
    """Parse ``4`` or ``1:1:8``; raise UsageError for other text and for numbers that decrease."""
    hint = "for instance --batch 1:1:8: the min, opt and max images in a batch"
    if re.fullmatch(r"[0-9]{1,6}(:[0-9]{1,6}:[0-9]{1,6})?", text.strip()) is None:
        raise UsageError(f"--batch: expected N or MIN:OPT:MAX, got {text!r}", hint=hint)
    numbers = [int(number) for number in text.split(":")]
    return _range("--batch", numbers * 3 if len(numbers) == 1 else numbers, text, hint)


def make_profiles(source: Manifest, *, batch: str = DEFAULT_BATCH, size: str | None = None) -> tuple[Profile, ...]:
    """Return the profiles that the options ask for, or raise UsageError.

    ``size`` is comma-separated ``HxW`` or ``HxW:HxW:HxW`` (min, opt, max) in pixels, by default the canvases of the
    file, or every size that the model's resizing produces.
    """
    batches = parse_batch(batch)
    if size is not None:
        profiles = tuple(_parse_profile(item, batches) for item in size.split(","))
    elif source.canvases is not None:
        profiles = tuple(_static(canvas, batches) for canvas in source.canvases)
    else:
        profiles = _of_resizing(source.model.transform, batches)
    for index, profile in enumerate(profiles):
        _check(profile, source)
        if profile in profiles[:index]:
            raise UsageError(f"--size: {profile} is given twice", hint="keep one of the two")
    return profiles


def static_canvases(size: str | None) -> tuple[Size, ...] | None:
    """Return the canvases of a ``--size`` without ranges; None for any other, which needs a model for any size."""
    if size is None:
        return None
    profiles = [_parse_profile(item, parse_batch("1")) for item in size.split(",")]
    if not all(profile.is_static for profile in profiles):
        return None
    return tuple((profile.height.max, profile.width.max) for profile in profiles)


def _of_resizing(transform: TransformSpec, batch: Range) -> tuple[Profile, ...]:
    """Return profiles that hold the canvas of every image; opt is the canvas of a 3:4 image.

    Min is one step in both directions, because resizing a narrow image leaves few pixels of its short side.
    """
    if transform.fixed_size is not None:
        return (_static(transform.canvas_size(*transform.fixed_size), batch),)
    step = transform.size_divisible
    maximum = transform.canvas_size(min(transform.min_size, transform.max_size), transform.max_size)
    resized = transform.resized_size(_OPT_ASPECT[0] * transform.min_size, _OPT_ASPECT[1] * transform.min_size)
    opt = transform.canvas_size(*resized)
    short = Range(min=step, opt=min(opt[0], maximum[0]), max=maximum[0])
    long = Range(min=step, opt=min(opt[1], maximum[1]), max=maximum[1])
    landscape = Profile(batch=batch, height=short, width=long)
    portrait = Profile(batch=batch, height=long, width=short)
    return (landscape,) if short.max == long.max else (landscape, portrait)


def _static(canvas: Size, batch: Range) -> Profile:
    height, width = (Range(min=side, opt=side, max=side) for side in canvas)
    return Profile(batch=batch, height=height, width=width)


def _parse_profile(text: str, batch: Range) -> Profile:
    sizes = [parse_size(part, hint=_SIZE_HELP) for part in text.split(":")]
    if len(sizes) not in (1, 3):
        raise UsageError(f"--size: expected one size or MIN:OPT:MAX, got {len(sizes)} in {text!r}", hint=_SIZE_HELP)
    heights, widths = zip(*(sizes * 3 if len(sizes) == 1 else sizes), strict=True)
    return Profile(
        batch=batch,
        height=_range("--size, heights", heights, text, _SIZE_HELP),
        width=_range("--size, widths", widths, text, _SIZE_HELP),
    )


def _range(what: str, numbers: Sequence[int], text: str, hint: str) -> Range:
    minimum, opt, maximum = numbers
    if not 1 <= minimum <= opt <= maximum:
        raise UsageError(f"{what}: expected 1 <= MIN <= OPT <= MAX, got {text!r}", hint=hint)
    return Range(min=minimum, opt=opt, max=maximum)


def _check(profile: Profile, source: Manifest) -> None:
    step = source.model.transform.size_divisible
    sides = [(r.min, r.opt, r.max) for r in (profile.height, profile.width)]
    if any(side % step for side in (*sides[0], *sides[1])):
        snapped = ":".join(f"{-(-h // step) * step}x{-(-w // step) * step}" for h, w in zip(*sides, strict=True))
        if profile.is_static:
            snapped = snapped.partition(":")[0]
        raise UsageError(f"--size: expected multiples of {step}, got {profile}", hint=f"the next larger is {snapped}")
    if source.canvases is None:
        return
    canvas = (profile.height.max, profile.width.max)
    if not profile.is_static or canvas not in source.canvases:
        known = ",".join(f"{height}x{width}" for height, width in source.canvases)
        raise UsageError(
            f"--size: this model.onnx takes the canvases {known} only, got {profile}",
            hint="choose among these, or export it again without --size, for any size",
        )
