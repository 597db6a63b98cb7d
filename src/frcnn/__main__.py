"""``python -m frcnn``: the same command as ``frcnn``."""

import sys

from frcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
