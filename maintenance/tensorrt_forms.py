"""TensorRT itself on one GPU: both forms of artifact, beside eager and what a user would build today.

``python -m maintenance.tensorrt_forms -o tensorrt.json --models FOLDER``. The most valuable case comes first, and its
figures are in the file before the next begins. The same command goes on where it was stopped: cases that passed are not
run again, and files in the folder are not made again.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.benchmarks.candidates.images import default_images, given_images
from frcnn.benchmarks.parity.comparison import ImageParity, compare_detections, default_limits, total
from frcnn.benchmarks.timing.measure import Limits
from frcnn.exporter import build_engine, load_checkpoint
from frcnn.files import replacing
from frcnn.plugins.tensorrt.library import load_tensorrt, load_tensorrt_plugins
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.engines.tensorrt_engine import TensorRTEngine
from frcnn.runtime.images.canvases import EngineCanvases
from frcnn.runtime.images.image import as_device_image
from frcnn.runtime.model_files.engine_artifact import EngineArtifact, open_engine_artifact
from frcnn.spec import ModelSpec, Precision, Size
from frcnn.spec.engine import EngineStep, Form, Target
from maintenance.bare_detector import open_bare
from maintenance.bench_models import MODELS, checkpoint_of, exported
from maintenance.cases import Case, Run, run_cases
from maintenance.eager_forms import COMPILED, EAGER, IMAGE, Call, compiled, image_forms
from maintenance.engine_layers import inspect_engine, summary
from maintenance.gpu_system import describe_system, has_gpu
from maintenance.int8_models import quantize_random
from maintenance.naive_tensorrt import NaiveEngine, build_naive, convert_to_fp16, export_naive, without_if
from maintenance.pipeline_calls import as_float, draw, graph_and_steps, left_on_device, stages_us

R50: Final = "resnet50-fpn"
_REPLAYS: Final = 1000
_REFERENCE: Final = "ours, eager fp32"
_EAGER: Final = (EAGER, "tf32", "fp16 autocast", COMPILED)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What is built of a model.

    Attributes:
        model: a name of ``bench_models.MODELS``.
        form: of an artifact for TensorRT, ``"split"`` for any other.
        batch: as ``frcnn build --batch`` takes it.
        options: of ``build_engine``, by a word for the artifact's name.
    """

    model: str
    form: Form
    target: Target = "tensorrt"
    precision: Precision = "fp16"
    batch: int = 1
    options: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @property
    def name(self) -> str:
        """Its name in reports."""
        form = self.form if self.target == "tensorrt" else self.target
        words = [self.model, form, self.precision, *(word for word, _ in self.options)]
        return " ".join([*words, *([f"batch {self.batch}"] if self.batch != 1 else [])])

    def path(self, run: Run) -> Path:
        """Return where it is."""
        return run.models / f"{self.name.replace(' ', '-')}.frcnn"

    def _source(self, run: Run) -> Path:
        """Return the export that it is built from, which is made where missing."""
        model = MODELS[self.model]
        if self.precision != "int8":
            return exported(run.models, model, self.precision)
        path = run.models / f"{self.model}-int8-tensorrt.onnx"
        if not path.exists():
            quantize_random(exported(run.models, model, "fp32"), path, symmetric=True)
        return path

    def build(self, run: Run) -> EngineArtifact:
        """Build it where it is missing, add it to the report, and open it."""
        path = self.path(run)
        model, build_s = MODELS[self.model], math.nan
        if not path.exists():
            source = self._source(run)
            given: dict[str, Any] = {"form": self.form} if self.target == "tensorrt" else {}
            given |= {"precision": "fp16"} if self.precision == "int8" else {}
            for _, options in self.options:
                given |= options
            started = time.perf_counter()
            build_engine(source, path, target=self.target, batch=self.batch, size=model.size, **given)
            build_s = time.perf_counter() - started
        artifact = open_engine_artifact(path)
        manifest = artifact.manifest
        heavy = [record.element for record in artifact.read_precision() if record.heavy]
        run.add(
            "artifacts",
            name=self.name,
            model=self.model,
            target=manifest.target,
            version=manifest.target_version,
            form=self.form,
            precision=self.precision,
            canvas=",".join(map(str, manifest.profiles)),
            batch=self.batch,
            ran=False,
            build_s=None if math.isnan(build_s) else build_s,
            file_bytes=artifact.archive.file_bytes,
            plans={part: size.size_bytes for part, size in manifest.parts.items() if part.endswith(".plan")},
            heavy_layers={element: heavy.count(element) for element in sorted(set(heavy))},
        )
        return artifact


def _eager(run: Run, model: str) -> tuple[FasterRCNN, ModelSpec]:
    """Return a model on the GPU, and its description."""
    loaded, spec = load_checkpoint(checkpoint_of(run.models, MODELS[model]), arch=MODELS[model].arch)
    return loaded.cuda(), spec


@contextmanager
def _detecting(artifact: EngineArtifact, images: Sequence[Tensor]) -> Iterator[Call]:
    """Yield a call of a detector on images in device memory that leaves the detections there."""
    with Detector.load(artifact.path) as detector:
        yield left_on_device(detector, images)


def _probe(run: Run) -> None:
    """Build the demo's smallest artifact with TensorRT's own speed of building: whether anything builds here at all."""
    artifact = Artifact(model="demo", form="split").build(run)
    with open_bare(artifact) as bare:
        outputs = bare.run([default_images().images[0]])
        run.report["artifacts"][-1]["ran"] = True
        run.add("checks", artifact=run.report["artifacts"][-1]["name"], detections=int(outputs["num_detections"][0]))


def _artifact(run: Run, wanted: Artifact, *, parity: bool = True) -> None:
    """Build an artifact, and measure: detections beside eager, its graph, its stages, what holds of it, parity."""
    artifact, before = wanted.build(run), len(run.report["failed"])
    entry = run.report["artifacts"][-1]
    shape = IMAGE if MODELS[wanted.model].size else (320, 320)
    given = [draw(shape, seed) for seed in range(wanted.batch)]
    with run.attempt(f"{wanted.name}: pipeline"):
        _pipeline(run, wanted, artifact, given)
    model, spec = _eager(run, wanted.model)
    with run.attempt(f"{wanted.name}: image"), _detecting(artifact, given) as ours:
        last = deepcopy(model).to(memory_format=torch.channels_last)
        forms = image_forms(model, last, [as_float(image) for image in given])
        run.keep(wanted.model, wanted.batch, "image", {name: forms[name] for name in _EAGER} | {wanted.name: ours})
    if parity:
        with run.attempt(f"{wanted.name}: parity"):
            _parity(run, wanted, artifact, EagerDetector(model, spec))
    entry["ran"] = len(run.report["failed"]) == before
    run.write()


def _pipeline(run: Run, wanted: Artifact, artifact: EngineArtifact, given: Sequence[Tensor]) -> None:
    free = torch.cuda.mem_get_info()[0]
    with open_bare(artifact) as bare:
        engines_bytes = free - torch.cuda.mem_get_info()[0]
        plain = bare.run([as_device_image(image, name="image") for image in given])
        pipeline = bare.pipeline([as_device_image(image, name="image") for image in given])
        replays = [bare.run([as_device_image(image, name="image") for image in given]) for _ in range(_REPLAYS)]
        different = sum(any(not np.array_equal(plain[name], found[name]) for name in plain) for found in replays)
        run.add(
            "checks",
            artifact=wanted.name,
            has_graph=pipeline.has_graph,
            said=bare.said,
            replays=len(replays),
            different_replays=different,
            engines_bytes=engines_bytes,
            held_bytes=free - torch.cuda.mem_get_info()[0],
            arena_bytes=pipeline.arena_bytes,
            detections=plain["num_detections"].tolist(),
            inspected={
                step.part: _inspected(bare.engines[step.part], (*step.inputs, *step.outputs))
                for step in artifact.manifest.steps
                if isinstance(step, EngineStep)
            },
        )
        assert different == 0, f"{different} of {len(replays)} replays differ from the plain run"
        stages = stages_us(bare, pipeline)
        run.add("stages", artifact=wanted.name, batch=wanted.batch, microseconds=stages, ours=_share_of_ours(stages))
        run.keep(wanted.model, wanted.batch, f"pipeline, {wanted.name}", graph_and_steps(bare, pipeline))


def _inspected(engine: Any, seams: Sequence[str]) -> dict[str, Any]:
    return summary(inspect_engine(engine), seams) if isinstance(engine, TensorRTEngine) else {}


def _share_of_ours(stages: Mapping[str, float]) -> float | None:
    """Return the share of our kernels in the time of all steps; None where they are inside a plan."""
    ours = sum(us for name, us in stages.items() if name.startswith("operator"))
    return ours / sum(stages.values()) if ours else None


def _parity(run: Run, wanted: Artifact, artifact: EngineArtifact, eager: EagerDetector) -> None:
    """Compare with eager in float32 and in half precision, and those two with each other."""
    folder = run.models / f"{wanted.model}-images"
    images = given_images([folder]).images if folder.is_dir() else default_images().images[:8]
    spec, canvases = eager.spec, EngineCanvases(artifact.manifest)
    limits = default_limits(wanted.precision, spec.roi_heads.pooler.kind)

    def half(image: RGBImage, canvas: Size) -> Detections:
        with torch.autocast("cuda", torch.float16):
            return eager.detect(image, canvas)

    with Detector.load(artifact.path) as detector:
        pairs: dict[str, list[ImageParity]] = {}
        for image in images:
            canvas = canvases.canvas_of(spec.transform.resized_size(*image.size), name=image.name)
            (ours,) = detector([image])
            single, in_half = eager.detect(image, canvas), half(image, canvas)
            for what, expected, found in (
                (_REFERENCE, single, ours),
                ("ours, eager fp16 autocast", in_half, ours),
                ("eager fp16 autocast, eager fp32", single, in_half),
            ):
                compared = compare_detections(expected, found, spec, limits, name=image.name)
                pairs.setdefault(what, []).append(compared)
    for what, of_images in pairs.items():
        parity = total(of_images, limits)
        assert parity.total.expected, f"{what}: nothing to compare, eager finds nothing above {limits.min_score}"
        figures = {name: figure for name, figure in msgspec.to_builtins(parity.total).items() if name[-3:] != "_ms"}
        run.add("parity", artifact=wanted.name, what=what, images=len(images), passed=parity.passed, **figures)
        assert parity.passed or what != _REFERENCE, f"{what} disagree"


_SPLIT: Final = Artifact(model=R50, form="split")
_PLAN: Final = Artifact(model=R50, form="plan")
_ONNXRUNTIME: Final = Artifact(model=R50, form="split", target="onnxruntime")


def _naive_plans(run: Run) -> dict[str, bytes]:
    """Return the plans of the naive path that can be had, building those that are missing."""
    path = run.models / "torchvision-fp32.onnx"
    if not path.exists():
        model, _ = _eager(run, R50)
        export_naive(model.cpu(), as_float(draw(IMAGE, 0)).cpu(), path)
    exported, trt = onnx.load(path), load_tensorrt()
    plain = without_if(exported)
    build = partial(build_naive, trt, timing=run.models / "naive.timing")
    ways: dict[str, Callable[[], bytes]] = {"naive, fp32 (TF32)": partial(build, exported)}
    if hasattr(trt.BuilderFlag, "FP16"):  # TensorRT 11 has no such flag
        ways["naive without If, builder's flag fp16"] = partial(build, plain, fp16_flag=True)
    ways |= {
        "naive without If, converted to fp16": lambda: build(convert_to_fp16(plain)),
        "naive without If, fp32 (TF32)": partial(build, plain),
    }
    plans = {}
    for name, way in ways.items():
        kept = run.models / f"{name}.plan"
        with run.attempt(name):
            build_s = None
            if not kept.exists():
                started = time.perf_counter()
                plan = way()
                build_s = time.perf_counter() - started
                with replacing(kept) as temporary:
                    temporary.write_bytes(plan)
            plans[name] = kept.read_bytes()
            run.add("checks", artifact=name, build_s=build_s, file_bytes=len(plans[name]))
    return plans


def _side_by_side(run: Run) -> None:
    """Measure what a user can choose from, in one run: ours, naive TensorRT, eager; batch 1."""
    plans = _naive_plans(run)
    raw = draw(IMAGE, 0)
    model, _ = _eager(run, R50)
    last = deepcopy(model).to(memory_format=torch.channels_last)
    with ExitStack() as stack:
        forms: dict[str, Call] = {}
        for wanted in (_SPLIT, _PLAN, _ONNXRUNTIME):
            with run.attempt(f"side by side: {wanted.name}"):
                if wanted is _SPLIT or wanted.path(run).exists():
                    forms[wanted.name] = stack.enter_context(_detecting(wanted.build(run), [raw]))
        for name, plan in plans.items():
            with run.attempt(f"side by side: {name}"):
                engine, image = NaiveEngine(load_tensorrt(), plan), as_float(raw)
                run.add("checks", artifact=name, detections=len(engine(image)["boxes"]))
                forms[name] = partial(engine, image)
        eager = image_forms(model, last, [as_float(raw)])
        run.keep(R50, 1, "image, side by side", {name: eager[name] for name in _EAGER} | forms)


def _onnxruntime(run: Run) -> None:
    """Measure the artifact for ONNX Runtime's CUDA provider, if the package that is here has one."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        run.add("checks", artifact="onnxruntime", skipped="the onnxruntime that is here has no CUDA provider")
        return
    _artifact(run, _ONNXRUNTIME)


def _plan(run: Run) -> None:
    if load_tensorrt_plugins() is None:
        run.add(
            "checks",
            artifact=_PLAN.name,
            skipped=f"TensorRT {load_tensorrt().__version__} has no ahead-of-time plugins",
        )
        return
    _artifact(run, _PLAN)


def _options(run: Run) -> None:
    """Build with one option changed each, and measure their graphs in one run."""
    timing = run.models / "options.timing"
    options: Mapping[str, Mapping[str, Any]] = {
        "timing cache, new": {"timing_cache": timing},
        "timing cache, used": {"timing_cache": timing},
        "no auxiliary streams": {"aux_streams": 0, "timing_cache": timing},
        "version compatible": {"version_compatible": True, "timing_cache": timing},
        "level 5": {"optimization_level": 5, "timing_cache": timing},
    }
    with ExitStack() as stack:
        forms: dict[str, Call] = {}
        for word, given in options.items():
            wanted = Artifact(model=R50, form="split", options=((word, given),))
            with run.attempt(wanted.name):
                bare = stack.enter_context(open_bare(wanted.build(run)))
                pipeline = bare.pipeline([as_device_image(draw(IMAGE, 0), name="image")])
                run.report["artifacts"][-1]["ran"] = True
                forms[word] = graph_and_steps(bare, pipeline)["one CUDA graph"]
        run.keep(R50, 1, "pipeline, options", forms)


def _lean(run: Run) -> None:
    """Run the version compatible plans in TensorRT's lean runtime."""
    if find_spec("tensorrt_lean") is None:
        run.add("checks", artifact="lean", skipped="tensorrt_lean is not installed")
        return
    wanted = Artifact(model=R50, form="split", options=(("version compatible", {"version_compatible": True}),))
    artifact = wanted.build(run)
    sys.modules["tensorrt"] = None  # type: ignore[assignment] # as on a system that has the lean runtime alone
    with open_bare(artifact) as bare:
        pipeline = bare.pipeline([as_device_image(draw(IMAGE, 0), name="image")])
        run.add("checks", artifact=f"{wanted.name}, lean", has_graph=pipeline.has_graph, said=bare.said)
        run.keep(R50, 1, "pipeline, lean", graph_and_steps(bare, pipeline))


def _compiled(run: Run) -> None:
    """Measure ``torch.compile`` beside ours; last, since compiling takes long."""
    raw = draw(IMAGE, 0)
    model, _ = _eager(run, R50)
    last, given = model.to(memory_format=torch.channels_last), [as_float(raw)]
    with _detecting(_SPLIT.build(run), [raw]) as ours:
        forms = {
            COMPILED: image_forms(last, last, given)[COMPILED],
            f"{COMPILED}, torch.compile": compiled(last, given),
        }
        run.keep(R50, 1, "image, compiled", {**forms, _SPLIT.name: ours})


CASES: Final = (
    Case(name="probe", shows="whether TensorRT builds and runs here: the demo, fp16", run=_probe, limit_s=120),
    Case(
        name="split", shows="two plain networks, R50-FPN, batch 1", run=partial(_artifact, wanted=_SPLIT), limit_s=240
    ),
    Case(name="plan", shows="one plan with plugins, R50-FPN, batch 1", run=_plan, limit_s=240),
    Case(name="onnxruntime", shows="ONNX Runtime's CUDA provider", run=_onnxruntime, limit_s=120),
    Case(name="side by side", shows="ours, naive TensorRT and eager in one run", run=_side_by_side, limit_s=400),
    Case(
        name="batch 8",
        shows="two plain networks, R50-FPN, batch 8",
        run=partial(_artifact, wanted=Artifact(model=R50, form="split", batch=8), parity=False),
        limit_s=200,
    ),
    Case(
        name="demo", shows="the demo", run=partial(_artifact, wanted=Artifact(model="demo", form="split")), limit_s=120
    ),
    Case(
        name="mobilenet",
        shows="MobileNetV3-320",
        run=partial(_artifact, wanted=Artifact(model="mobilenet-v3-320", form="split")),
        limit_s=200,
    ),
    Case(
        name="int8",
        shows="R50-FPN in int8, the rest in fp16",
        run=partial(_artifact, wanted=Artifact(model=R50, form="split", precision="int8"), parity=False),
        limit_s=200,
    ),
    Case(name="options", shows="timing cache, level, streams, version compatible", run=_options, limit_s=400),
    Case(name="lean", shows="TensorRT's lean runtime", run=_lean, limit_s=60),
    Case(name="compiled", shows="torch.compile", run=_compiled, limit_s=160),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; the status is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--models", type=Path, default=Path(".carry/models"), help="folder of models")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="few calls")
    parser.add_argument("--case", choices=names, help=argparse.SUPPRESS)  # in a process of its own
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    if not has_gpu("TensorRT's measurement"):
        return 2
    if chosen.case is not None:
        torch.backends.cudnn.benchmark = True  # eager at its best
        limits = Limits(budget_s=2 if chosen.quick else 8, max_rounds=10, round_ms=250, max_calls=20, settle_s=0)
        run = Run(path=chosen.output, models=chosen.models, limits=limits)
        next(case for case in CASES if case.name == chosen.case).run(run)
        return 1 if run.report["failed"] else 0
    environment = describe_system("maintenance.tensorrt_forms", given)
    begins = {"environment": environment, "tensorrt": load_tensorrt().__version__, "image": IMAGE}
    options = ["--models", str(chosen.models.resolve()), *(["--quick"] if chosen.quick else [])]
    wanted = [case for case in CASES if case.name in chosen.only]
    passed = run_cases(wanted, chosen.output, begins, module="maintenance.tensorrt_forms", options=options)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
