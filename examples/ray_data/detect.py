"""Detect in a folder, bucket or Parquet of images on a Ray cluster, into Parquet.

python examples/ray_data/detect.py model.onnx images/ -o detections/ [--address HOST:PORT] [--coco results.json]
"""

from __future__ import annotations

import argparse
import sys

from frcnn.errors import FrcnnError
from frcnn.runtime.ray import detect_dataset, write_coco


def main() -> int:
    """Detect in what is missing, and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model.onnx or model.frcnn; the cluster gets it from here")
    parser.add_argument("images", help="folder, address as s3://bucket/images, or with --column Parquet")
    parser.add_argument("-o", "--output", required=True, help="folder or address for the rows")
    parser.add_argument("--column", help="of Parquet: bytes of images, or their paths")
    parser.add_argument("--score", type=float, default=0.0, help="minimum score (default: 0, which keeps all)")
    parser.add_argument("--address", help="of the cluster (default: RAY_ADDRESS, or a new one on this machine)")
    parser.add_argument("--workers", type=int, help="detectors (default: as many as there is room for)")
    parser.add_argument("--cpus", type=float, default=1, help="processors for each worker (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs for each worker, 0.5 for a half (default: 0)")
    parser.add_argument("--part-size", type=int, default=256, help="images in a file of rows (default: 256)")
    parser.add_argument("--coco", metavar="FILE", help="also write COCO results here")
    given = vars(parser.parse_args())
    coco = given.pop("coco")
    try:
        done = detect_dataset(**given)
        if coco is not None:
            write_coco(given["output"], coco)
    except FrcnnError as error:
        print(f"error: {error.message}", f"hint: {error.hint}", sep="\n", file=sys.stderr)
        return 2
    print(f"{done.images} images, {done.before} of them done before, {len(done.errors)} without detections:")
    for name, reason in done.errors.items():
        print(f"  {name}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
