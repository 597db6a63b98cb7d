"""Detect on a Ray cluster.

In: a model file and images: a folder, a bucket, Parquet, or a dataset of the user's own.
Out: one row an image, as columns of a batch or as Parquet files; from these ``Detections`` and COCO results.
"""

from frcnn.runtime.ray.dataset import DetectedDataset, detect_dataset
from frcnn.runtime.ray.detector import RayDetector
from frcnn.runtime.ray.rows import read_detections, write_coco

__all__ = ["DetectedDataset", "RayDetector", "detect_dataset", "read_detections", "write_coco"]
