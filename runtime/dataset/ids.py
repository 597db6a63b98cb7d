"""The data set's own ids for what is found in files, so that COCO's tools read it with the annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from frcnn.console import warn
from frcnn.errors import UsageError
from frcnn.runtime.dataset.annotations import AnnotatedImage, read_coco
from frcnn.runtime.dataset.class_map import pair_classes
from frcnn.runtime.dataset.faults import tell_names
from frcnn.runtime.dataset.files import match_sources
from frcnn.runtime.images.sources import Source
from frcnn.spec import ModelSpec


class DatasetIds(NamedTuple):
    """Ids of a data set."""

    images: Mapping[str, AnnotatedImage]  # by the name of the source in this run
    categories: Mapping[int, int]  # category id by class index; other classes have none
    names: Mapping[int, str]  # the categories', by id


def read_ids(
    path: Path, sources: Sequence[Source], model: ModelSpec, pairs: Sequence[str], *, allow_missing: bool
) -> DatasetIds:
    """Read COCO annotations, valid or not, and pair sources and classes with them; say what is left out."""
    if path.is_dir():
        what = f"--annotations: {path} is a folder, and VOC's annotations have no ids"
        raise UsageError(what, hint="give COCO's instances.json")
    ground_truth = read_coco(path, skip_invalid=True)
    images, missing = match_sources(ground_truth, sources, allow_missing=allow_missing)
    tell_names(warn, missing, "inputs are not in the annotations and are left out")
    classes = pair_classes(model, ground_truth, pairs)
    classes.tell(ground_truth)
    return DatasetIds(images, classes.categories, ground_truth.categories)
