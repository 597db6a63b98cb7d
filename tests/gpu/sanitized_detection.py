"""A detection run plainly, captured and replayed, for compute-sanitizer; without PyTorch.

``compute-sanitizer --tool memcheck python tests/gpu/sanitized_detection.py model.frcnn image.png``
"""

from __future__ import annotations

import sys

import numpy as np

from frcnn.runtime import Detector


def main() -> None:
    """Detect three times: the first run is plain, the second captures the graph, the third replays it."""
    model, image = sys.argv[1:]
    with Detector.load(model, workers=1) as detector:
        first, second, third = (detector([image])[0] for _ in range(3))
        np.testing.assert_array_equal(first.boxes, second.boxes)
        np.testing.assert_array_equal(second.boxes, third.boxes)
        assert len(first)
    print("three detections ran")


if __name__ == "__main__":
    main()
