"""The data set's own ids for what is found in files, so that COCO's tools read it with the annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from frcnn.console import warn
from frcnn.errors import UsageError
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth, read_coco
from frcnn.runtime.dataset.class_map import pair_classes
from frcnn.runtime.dataset.faults import tell_names
from frcnn.runtime.dataset.files import match_sources
from frcnn.runtime.images.sources import Source
from frcnn.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetIds:
    """Ids of a data set."""

    images: Mapping[str, AnnotatedImage]  # by the name of the file in this run
    categories: Mapping[int, int]  # category id by class index; other classes have none
    names: Mapping[int, str]  # the categories', by id


def read_listed(
    path: Path, sources: Sequence[Source], *, allow_missing: bool
) -> tuple[GroundTruth, dict[Source, AnnotatedImage]]:
    """Read COCO annotations, valid or not, and return the images among ``sources``; see :func:`match_sources`."""
    if path.is_dir():
        raise UsageError(
            f"--annotations: {path} is a folder, and VOC's annotations have no ids", hint="give COCO's instances.json"
        )
    ground_truth = read_coco(path, skip_invalid=True)
    found, missing = match_sources(ground_truth, sources, allow_missing=allow_missing)
    tell_names(warn, missing, "inputs are not in the annotations and are left out")
    return ground_truth, found


def ids_of(
    ground_truth: GroundTruth, listed: Mapping[Source, AnnotatedImage], model: ModelSpec, pairs: Sequence[str]
) -> DatasetIds:
    """Pair the model's classes with the categories and return the ids; say what is left out."""
    classes = pair_classes(model, ground_truth, pairs)
    classes.tell(ground_truth)
    images = {source.name: image for source, image in listed.items()}
    return DatasetIds(images=images, categories=classes.categories, names=ground_truth.categories)
