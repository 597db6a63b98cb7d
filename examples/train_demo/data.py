"""Training images: composed scenes or a COCO-format folder, in an order a resumed run takes up again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scenes
import torch
from coco import DataError, Folder, read_folder, to_tensor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Sample = tuple[Tensor, dict[str, Tensor]]
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


class Samples(Dataset[Sample]):
    """Training images by their running number, so that a resumed run sees what an unbroken one would have.

    Args:
        seed: Image ``i`` depends on ``[seed, i]`` alone.
        folder: Images to shuffle anew each epoch; None composes scenes instead.
        flip: Mirror half of the folder's images.
    """

    def __init__(self, seed: int, folder: Folder | None, flip: bool) -> None:
        self.seed, self.folder, self.flip = seed, folder, flip

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        if self.folder is None:
            image, boxes, labels = scenes.compose(rng, "train")
            tensor = to_tensor(image)
        else:
            epoch, position = divmod(index, len(self.folder))
            order = np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.folder))
            image, boxes, labels = self.folder[int(order[position])]
            if self.flip and rng.random() < 0.5:
                image = image[:, ::-1]
                boxes = np.stack([image.shape[1] - boxes[:, 2], boxes[:, 1],
                                  image.shape[1] - boxes[:, 0], boxes[:, 3]], axis=1)  # fmt: skip
            tensor = (to_tensor(image) * rng.uniform(0.7, 1.3)).clamp(0, 1)
        return tensor, {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}


def collate(batch: list[Sample]) -> Batch:
    """Put images of unlike sizes in lists, as torchvision's detectors take them."""
    return [image for image, _ in batch], [target for _, target in batch]


def quiet_worker(_: int) -> None:
    """Leave Ctrl-C to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batches(samples: Samples, size: int, first: int, last: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps ``first`` to ``last - 1``; step ``k`` has samples ``k * size`` onwards.

    Args:
        samples: Where the images come from.
        size: Images per batch.
        first: The first step.
        last: One past the last step.
        workers: Processes that prepare images; 0 prepares them in this one.
    """
    loader = DataLoader(
        samples,
        batch_sampler=[list(range(step * size, (step + 1) * size)) for step in range(first, last)],
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # the loader's own, so that it leaves the global one alone
        worker_init_fn=quiet_worker,
    )
    return iter(loader)


def split_folder(data: Path, val: Path | None) -> tuple[Folder, Folder]:
    """Read the images to train on and to score on; without ``val`` every tenth of ``data`` is held out.

    Raises:
        DataError: A folder cannot be used, or the two have different categories.
    """
    folder = read_folder(data)
    if val is not None:
        unseen = read_folder(val)
        if unseen.names != folder.names:
            raise DataError(f"{val}: its categories are not those of {data}")
        return folder, unseen
    if len(folder) < 2:
        raise DataError(f"{data}: one image cannot be split; give --val")
    held = range(0, len(folder), 10)
    return folder.subset(i for i in range(len(folder)) if i not in held), folder.subset(held)
