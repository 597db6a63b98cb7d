"""A first look at a checkpoint: eager and the export on the same images for a while, and one page.

In: a checkpoint, its export and images; the ``BUNDLE`` holds a small detector with annotated photographs.
Out: agreement, times, accuracy and pictures, for people.
"""

from pathlib import Path
from typing import Final

BUNDLE: Final = Path(__file__).resolve().parent / "bundle"
CHECKPOINT: Final = BUNDLE / "digits.pth"
ARCHITECTURE: Final = "frcnn.benchmarks.trial.digits:build"
"""Of the checkpoint, as ``--arch`` takes it."""
