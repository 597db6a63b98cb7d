"""Detections in the formats of labelling tools and data sets, written and read back.

In: ``Detections`` of several images; files of FiftyOne, Label Studio, CVAT, YOLO and COCO results, from whomever.
Out: their files; ``Detections``, with scores of 1 where a file has none, in descending order of score.

A file has names of classes, not indices. They are indices of ``label_names``, where that is given; else of the classes
that the file lists; else of the names in it, in alphabetical order. Where all are whole numbers, as of a model without
names, they are the indices themselves. What a file says is checked: it is refused in one line, never repaired.
"""

from frcnn.runtime.formats.coco import from_coco
from frcnn.runtime.formats.cvat import from_cvat, to_cvat
from frcnn.runtime.formats.fiftyone import from_fiftyone, to_fiftyone
from frcnn.runtime.formats.label_studio import from_label_studio, to_label_studio
from frcnn.runtime.formats.writing import FORMATS, write
from frcnn.runtime.formats.yolo import from_yolo, to_yolo

__all__ = [
    "FORMATS",
    "from_coco",
    "from_cvat",
    "from_fiftyone",
    "from_label_studio",
    "from_yolo",
    "to_cvat",
    "to_fiftyone",
    "to_label_studio",
    "to_yolo",
    "write",
]
