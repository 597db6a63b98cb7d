"""SIGKILL at any moment of any command that writes: old or new, never half; and running it again ends well.

Half of the moments are spread evenly, with a seeded jitter, over the time of an undisturbed run, the other half over
its touches of the output's files: there is the danger, and the clock alone would hardly ever meet it.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.killable import VERBS, Inputs, Verb, files, run
from support.tiny_detector import build

from frcnn.exporter import export_onnx

pytestmark = pytest.mark.soak

LEFTOVER = re.compile(r"\.[^/]+\.[0-9]+\.tmp(\.[a-z]+)?|[^/]+\.partial\.jsonl")
"""What a killed run may leave besides its outputs; the next run removes it."""
PARTIAL = re.compile(r".+\.jsonl")
"""What is written line by line, and valid after each."""

KILLS = {False: 4, True: 36}
"""Of a verb, in a sample and in full."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    made = Inputs(tmp_path_factory.mktemp("inputs"))
    export_onnx(build(), made.folder / "model.onnx", architecture="tiny")
    other = build()
    other.roi_heads.score_thresh = 0.5
    export_onnx(other, made.folder / "earlier.onnx", architecture="tiny")
    return made


@pytest.fixture(scope="module")
def tally():
    """What became of each verb's kills, filled by the tests."""
    return {}


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must end well; return what it printed."""
    _, printed = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return printed


def killed_after(process: subprocess.Popen[str], after_s: float) -> str:
    """Kill a run unless it ends before; return what it printed."""
    try:
        return process.communicate(timeout=after_s)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1]


def state_of(out: Path, earlier: Path | None, undisturbed: Path, verb: Verb) -> tuple[str, int]:
    """Check what a killed run left; return whether the results are old, new, mixed or absent, and the leftovers."""
    new, old, leftovers = [], [], []
    expected = set(files(undisturbed)) | (set() if earlier is None else set(files(earlier)))
    for name in files(out):
        if name not in expected:
            assert LEFTOVER.fullmatch(Path(name).name), f"{name} should not be there"
            leftovers.append(name)
        elif earlier is not None and (earlier / name).exists() and same(out / name, earlier / name):
            old.append(name)
        else:
            new.append(name)
    if earlier is not None:  # no old file vanished; lines are begun anew
        missing = set(files(earlier)) - {*old, *new}
        assert all(PARTIAL.fullmatch(name) for name in missing), missing
    verb.check(out, undisturbed, [*new, *(name for name in leftovers if PARTIAL.fullmatch(name))])
    kind = "mixed" if new and (old or len(new) < len(expected)) else "new" if new else "old" if old else "nothing"
    return kind, len(leftovers)


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", VERBS)
def test_nothing_is_lost(name, inputs, tally, full, record, tmp_path):
    verb, earlier, undisturbed = VERBS[name], tmp_path / "earlier", tmp_path / "undisturbed"
    finish(run(verb.command(inputs, earlier, True), folder=earlier))
    started = time.monotonic()
    touches = int(finish(run(verb.command(inputs, undisturbed, False), folder=undisturbed)).split()[-1])
    duration_s = time.monotonic() - started
    assert touches > 0

    counts: Counter[str] = Counter()
    rng = np.random.default_rng([20_260_101, *name.encode()])
    while (attack := counts["kills"]) < KILLS[full]:
        out = tmp_path / "out"
        before = earlier if attack // 2 % 2 else None
        if before is not None:
            shutil.copytree(before, out)
        command = verb.command(inputs, out, False)
        share = (attack // 2 + rng.random()) / (KILLS[full] // 2)
        started = time.monotonic()
        if attack % 2:
            process = run(command, folder=out, at=1 + int(share * touches))
            _, printed = process.communicate(timeout=600)
        else:
            process = run(command, folder=out)
            printed = killed_after(process, share * duration_s)
        if process.returncode == -signal.SIGKILL:
            kind, leftovers = state_of(out, before, undisturbed, verb)
            counts += Counter({"kills": 1, f"found {kind}": 1, "leftovers": leftovers})
        else:  # it ended before, on a quieter system or with less to make: that is how long a run is, then
            assert process.returncode == 0, printed
            counts["ended before"] += 1
            if attack % 2:
                touches = int(printed.split()[-1])
            else:
                duration_s = time.monotonic() - started
        is_own = (out / "resume.pth").exists() and not (before and same(out / "resume.pth", before / "resume.pth"))
        finish(run([*command, *(["--resume"] if verb.resumes and is_own else [])], folder=out))
        assert set(files(out)) == set(files(undisturbed))
        verb.check(out, undisturbed, list(files(out)))
        shutil.rmtree(out)
    tally[name] = dict(counts)
    record("kills", {"kills": sum(verb["kills"] for verb in tally.values()), "lost": 0, "verbs": tally})
