"""Measure speed against eager torchvision, on this system and your images.

The candidates are eager torchvision in several forms, torchvision's own export, and every artifact given; without a
model.onnx one is exported. A candidate that this system cannot run is listed with the reason. Candidates run
interleaved on the same images, and each is compared with eager in the same run: one that disagrees is marked wrong,
however quick it is. The report's folder gets results.json, report.md and report.html.

  frcnn bench my.pth model.onnx model.frcnn --images folder/ -o report/
  frcnn bench my.pth --suite full --device cuda
  frcnn bench my.pth --against old/results.json --limit 5%

--against exits with 1 where a candidate became slower beyond the noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from frcnn.benchmarks.commands.reference import own_model_of, with_options_of_export
from frcnn.console import few, next_step, note, say, steps, warn
from frcnn.errors import MissingDependencyError, UsageError
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments, load_from_options
from frcnn.files import writable_folder
from frcnn.options import add_images, add_number

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.images import Images
    from frcnn.benchmarks.report.results import Results
    from frcnn.benchmarks.timing.run import BenchRun, Plan
    from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint
    from frcnn.runtime.backend import Device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser)
    group = parser.add_argument_group("benchmark")
    group.add_argument(
        "artifacts", metavar="ARTIFACT", type=Path, nargs="*", default=[], help="model.onnx and model.frcnn files"
    )
    add_images(group, more=", 16 or more; by default 16 that frcnn brings along")
    group.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, default=Path("report"), help="the report (default: %(default)s)"
    )
    text = "4 minutes, or 30 with every curve (default: %(default)s)"
    group.add_argument("--suite", choices=("quick", "full"), default="quick", help=text)
    group.add_argument("--device", choices=("cpu", "cuda"), help="where eager runs (default: cuda where there is one)")
    text = "of every candidate (default: all processors this process may use)"
    add_number(group, "--threads", minimum=1, metavar="THREADS", help=text)
    group.add_argument("--batch", metavar="N[,N...]", default=None, help="batch sizes (default: 1,2,4,8)")
    add_number(group, "--budget", minimum=1.0, metavar="SECONDS", help="for everything, building included")
    text = "how long torch.compile, and NNCF, may take; 0 leaves them out (default: an eighth of the budget, without "
    text += "torch.compile on a CPU)"
    add_number(group, "--compile-limit", minimum=0.0, metavar="SECONDS", help=text)
    text = "the checkpoint was never trained: bf16 and int8 are timed, not judged"
    group.add_argument("--random-weights", action="store_true", help=text)
    group.add_argument("--against", metavar="FILE", type=Path, help="an earlier results.json, to compare with")
    group.add_argument(
        "--limit", metavar="SHARE", default="5%", help="a larger loss than this is a regression (default: 5%%)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write the report; return 1 on a regression."""
    limit = parse_limit(arguments.limit)
    if find_spec("onnxruntime") is None:
        raise MissingDependencyError("onnxruntime", extra="cpu", why="frcnn bench")
    with steps() as step:
        loaded = load_from_options(with_options_of_export(arguments, arguments.artifacts), step)
        step("importing the benchmark")
        from frcnn.benchmarks.report.drawing import check_renderer
        from frcnn.benchmarks.report.regression import compare_runs, regressions
        from frcnn.benchmarks.report.results import Results
        from frcnn.benchmarks.report.table import show_results

        check_renderer()
        earlier = None if arguments.against is None else Results.read(arguments.against)
        plan = _plan(arguments)
        step("reading the images")
        images = _images(arguments.images)
    folder = writable_folder(arguments.output)
    started = time.monotonic()
    with steps(log=False) as show:
        show("preparing", 0.0)

        def report(what: str, share: float) -> None:
            left = f", about {(time.monotonic() - started) * (1 - share) / share:.0f} s left" if share > 0 else ""
            show(what + left, share)

        bench = _prepared(arguments, loaded, plan, images, folder, report)
        partial = ""
        try:
            bench.go()
        except KeyboardInterrupt:
            partial = "interrupted (Ctrl-C)"
        except BaseException:  # terminated, or a fault: what was measured is kept, and the error is raised on
            _write(bench.results(partial="the run was stopped"), folder)
            raise
        results = bench.results(partial=partial)
        bench.session.close()
    if earlier is not None:
        comparison = compare_runs(earlier, results, file=arguments.against, limit=limit)
        results = msgspec.structs.replace(results, comparison=comparison)
    _write(results, folder)
    show_results(results)
    say(f"wrote {', '.join(str(folder / name) for name in ('report.html', 'report.md', 'results.json'))}")
    if partial:
        raise KeyboardInterrupt
    model = next((path for path in arguments.artifacts if path.suffix == ".onnx"), folder / "model.onnx")
    is_slower = results.comparison is not None and bool(regressions(results.comparison))
    verb = "build" if results.environment.gpu else "profile" if is_slower else "tune"
    next_step(verb, model, *(() if verb == "build" else ("--images", *few(arguments.images))))
    return 1 if is_slower else 0


def parse_limit(text: str) -> float:
    """Parse ``5%`` or ``0.05``."""
    number, is_percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if is_percent else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise UsageError(
            f"--limit: expected a share from 0% to below 100%, got {text!r}", hint="for instance 5% or 0.05"
        )
    return share


def _plan(arguments: argparse.Namespace) -> Plan:
    from frcnn.benchmarks.timing.run import SUITES

    plan = SUITES[arguments.suite]
    if arguments.batch is not None:
        try:
            batches = tuple(sorted({int(item) for item in arguments.batch.split(",")}))
        except ValueError:
            batches = (0,)
        if not 1 <= batches[0] <= batches[-1] <= 1024:
            raise UsageError(
                f"--batch: expected numbers from 1 to 1024, got {arguments.batch!r}", hint="for instance 1,2,4,8"
            )
        plan = dataclasses.replace(plan, batches=batches)
    if arguments.budget is not None:
        part = arguments.budget / plan.budget_s
        times = {name: getattr(plan, name) * part for name in ("budget_s", "min_measuring_s", "curves_s")}
        plan = dataclasses.replace(plan, **times)
    return plan


def _images(paths: Sequence[Path] | None) -> Images:
    from frcnn.benchmarks.candidates.images import chosen_images

    found = chosen_images(paths)
    if len(found.images) < 16:
        warn(f"{len(found.images)} images: with fewer than 16 the figures depend on what these happen to show")
    return found


def _prepared(
    arguments: argparse.Namespace,
    loaded: LoadedCheckpoint,
    plan: Plan,
    images: Images,
    folder: Path,
    report: Callable[[str, float], None],
) -> BenchRun:
    import torch

    from frcnn.benchmarks.candidates.candidate import Task
    from frcnn.benchmarks.candidates.eager import eager_candidates
    from frcnn.benchmarks.candidates.images import made_equal
    from frcnn.benchmarks.candidates.registry import all_candidates
    from frcnn.benchmarks.timing.run import BenchRun
    from frcnn.processors import available_cpus

    has_gpu = torch.cuda.is_available()
    if arguments.device == "cuda" and not has_gpu:
        raise UsageError(
            "--device cuda: PyTorch finds no NVIDIA GPU", hint="--device cpu, or frcnn doctor for what is missing"
        )
    limit = plan.budget_s / 8 if arguments.compile_limit is None else arguments.compile_limit
    threads = arguments.threads or available_cpus()
    torch.set_num_threads(threads)
    equal = made_equal(images.images)
    device: Device = arguments.device or ("cuda" if has_gpu else "cpu")
    task = Task(
        model=loaded.model,
        spec=loaded.spec,
        sha256=loaded.sha256,
        images=images.images,
        equal_images=equal,
        folder=folder,
        device=device,
        threads=threads,
        is_trained=not arguments.random_weights,
        # on a CPU it seldom ends within the limit, and was seen to bring the process down when it is ended
        compiles=device == "cuda" or arguments.compile_limit is not None,
        compile_limit_s=limit,
        log=note if not sys.stderr.isatty() else lambda what: None,
    )
    mixed_sizes = any(a is not b for a, b in zip(equal, images.images, strict=True))
    own, why_not = own_model_of(arguments, loaded, device=device)
    trainer = loaded.spec.transform.resize
    eager = eager_candidates(device, mixed_sizes=mixed_sizes, trainer=trainer, own=own, why_not=why_not)
    candidates = all_candidates(arguments.artifacts, device, mixed_sizes=mixed_sizes, eager=eager)
    name, command = arguments.checkpoint.name, arguments.command
    return BenchRun(task, candidates, images, plan, checkpoint=name, command=command, report=report, own=own)


def _write(results: Results, folder: Path) -> None:
    from frcnn.benchmarks.report.write import write_report

    results.write(folder / "results.json")
    write_report(results, folder)
