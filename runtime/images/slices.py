"""Cut a large image into overlapping slices, in which small objects are large enough for the network to find them.

As SAHI does it (Akyon et al. 2022, arXiv:2202.06934), and with the same slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from frcnn.errors import ImageSizeError, UsageError
from frcnn.log import warn_once
from frcnn.runtime.images.image import DeviceImage, RGBImage, is_device_array

MergeBy = Literal["nms", "weighted"]
"""How the objects of overlapping slices become one: see :class:`Slicing`."""

_MAX_SLICES: Final = 10_000
"""Of an image: thirty times what 100 megapixels need in slices of 640 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slicing:
    """How large images are cut, and how what is found in the slices is merged.

    Attributes:
        size: The slices' side in pixels of the image. They are square and all of one size, the last of a row and of a
            column moved back inside; a side of the image that is shorter is not cut.
        overlap: The share of a slice that it has in common with the next, 0 or more and less than 1. An object in the
            overlap is whole in one of the two if it is smaller than that.
        whole: Whether the whole image is detected in, too, for the objects that are larger than a slice.
        merge: What becomes of boxes of one class that overlap by more than ``iou``. ``"nms"`` keeps the one of the
            highest score. ``"weighted"`` keeps their mean, weighted by the scores, and their mean score: weighted boxes
            fusion (Solovyev et al. 2021, arXiv:1910.13302), the slices being one model.
        iou: See ``merge``; 0 to 1.

    Raises:
        UsageError: A value makes no sense.
    """

    size: int = 640
    overlap: float = 0.2
    whole: bool = True
    merge: MergeBy = "nms"
    iou: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            hint = "about the size of the images that the detector was trained on: 640"
            raise UsageError(f"the size of slices: expected 1 pixel or more, got {self.size}", hint=hint)
        if not 0 <= self.overlap < 1:
            hint = "0.2 is usual: it should be wider than the small objects are"
            raise UsageError(
                f"the overlap of slices: expected 0 or more and less than 1, got {self.overlap}", hint=hint
            )
        if self.merge not in get_args(MergeBy):
            raise UsageError(f"merge: expected 'nms' or 'weighted', got {self.merge!r}", hint="'nms' is usual")
        if not 0 <= self.iou <= 1:
            raise UsageError(f"the IoU of boxes to merge: expected a number from 0 to 1, got {self.iou}", hint="0.5")

    def starts(self, length: int) -> list[int]:
        """Return where the slices of a side of so many pixels begin; the last one ends with the side."""
        step = max(1, self.size - int(self.overlap * self.size))
        return [*range(0, length - self.size, step), max(0, length - self.size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(RGBImage):
    """A part of an image, a view of its pixels; of the whole one, if that is ``whole`` or fits in a slice.

    Attributes:
        of: the image.
        left: the column of the image that the slice begins in.
        top: the row.
        is_last: whether it is the last one of the image.
    """

    of: RGBImage
    left: int = 0
    top: int = 0
    is_last: bool = False


def slices_of(image: RGBImage, slicing: Slicing) -> list[Slice]:
    """Cut an image, row by row; the whole image is the first one, if it is wanted or not larger than a slice.

    Raises:
        ImageSizeError: there would be too many slices.
    """
    height, width = image.size
    tops, lefts, side = slicing.starts(height), slicing.starts(width), slicing.size
    count = len(tops) * len(lefts)
    if count > _MAX_SLICES:
        raise ImageSizeError(
            f"{image.name} ({height}x{width}): {count:,} slices of {side} pixels that overlap by {slicing.overlap:g}, "
            f"more than {_MAX_SLICES:,}",
            hint="make the slices larger, or let them overlap less (--slice, --overlap)",
        )
    whole = Slice(pixels=image.pixels, name=image.name, source=image.source, of=image, is_last=count == 1)
    if count == 1:
        warn_once(f"images of {side}x{side} pixels or less fit in a slice and are not cut; smaller slices would do it")
        return [whole]
    slices = [whole] if slicing.whole else []
    for top in tops:
        for left in lefts:
            bottom, right = min(top + side, height), min(left + side, width)
            slices.append(
                Slice(
                    pixels=image.pixels[top:bottom, left:right],
                    name=f"{image.name}[{top}:{bottom}, {left}:{right}]",
                    source=image.source,
                    of=image,
                    left=left,
                    top=top,
                    is_last=(top, left) == (tops[-1], lefts[-1]),
                )
            )
    return slices


def refuse_device_memory(image: object, name: str) -> None:
    """Raise UsageError for an image in device memory, which is not cut."""
    if isinstance(image, DeviceImage) or is_device_array(image):
        raise UsageError(
            f"{name} lies in device memory, expected an image in host memory to cut into slices",
            hint="hand in array.cpu(), cupy.asnumpy(array)",
        )
