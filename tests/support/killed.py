"""Runs a Python program and kills it just before it touches the files of a folder for the Nth time.

::

    python killed.py FOLDER N frcnn detect ...          # or a script's path in place of frcnn

With N = 0 the program ends as it would, and the last line of standard error is how many times there were. Moments
chosen by the clock alone would nearly all fall into imports and arithmetic, where there is nothing to lose.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

_TOUCHES = frozenset({"open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.utime"})


def main() -> None:
    folder, number, program, *arguments = sys.argv[1:]
    touched = 0

    def watch(event: str, values: tuple[object, ...]) -> None:
        nonlocal touched
        if event in _TOUCHES and isinstance(values[0], str | os.PathLike) and os.fspath(values[0]).startswith(folder):
            touched += 1
            if touched == int(number):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    sys.argv = [program, *arguments]
    try:
        if program == "frcnn":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(program).parent))
            runpy.run_path(program, run_name="__main__")
    finally:
        print(touched, file=sys.stderr)


if __name__ == "__main__":
    main()
