r"""Hold what ``frcnn export`` makes of the configurations of Detectron2 and MMDetection to the trainers' own models.

python -m maintenance.trainers --detectron2 CONFIGS --mmdetection CONFIGS --images FOLDER \
    -o benchmarks/results/trainers.json

The trainer's own classes build the model of a configuration, with calibrated random weights, and save it as they do.
frcnn reads and exports that file, and both detect in the same photographs. The file of results is written after each
configuration, and one that it has is not run again; a configuration whose network is that of an earlier one is not run.
"""

from __future__ import annotations

import argparse
import io
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias
from unittest import mock

import msgspec
import torch
from torch import Tensor
from torchvision.ops import nms

from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.candidates.eager_detector import EagerDetector, run_network, to_detections
from frcnn.benchmarks.candidates.trainer_models import TrainerModel, missing, title_of
from frcnn.benchmarks.parity.comparison import ImageParity, Limits, compare_detections, total
from frcnn.benchmarks.timing.environment import read_environment
from frcnn.console import note, write_json
from frcnn.errors import FrcnnError
from frcnn.exporter import export_onnx
from frcnn.exporter.checkpoint.load import read_checkpoint
from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint
from frcnn.processors import available_cpus
from frcnn.runtime import Detector, RGBImage
from frcnn.runtime.model_files.artifact import open_artifact
from maintenance.committed import Agreement, System, TrainerZoos, ZooRow
from maintenance.trainer_zoo import (
    Configuration,
    build,
    calibrate,
    detectron2_zoo,
    mmdetection_zoo,
    save,
    with_short_side,
)

_LIMITS: Final = Limits(rule="exact")
_FLOAT64_IMAGES: Final = 5
_WEIGHTS: Final = "random, calibrated on photographs of the same folder, seed 0"
_Lister: TypeAlias = Callable[[Path], Iterator[Configuration]]
_LISTS: Final[dict[str, _Lister]] = {"detectron2": detectron2_zoo, "mmdetection": mmdetection_zoo}


class _RefusedError(Exception):
    """frcnn exports no such model; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try configurations and write the results; return 1 where one disagrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for trainer in _LISTS:
        parser.add_argument(f"--{trainer}", metavar="CONFIGS", type=Path, help="the folder of its zoo's configurations")
    parser.add_argument("--images", metavar="FOLDER", type=Path, required=True, help="photographs")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="JSON; goes on where it ended")
    parser.add_argument("--only", metavar="PATTERN", default="", help="configurations whose path has this expression")
    parser.add_argument("--count", type=int, default=20, help="photographs (default: %(default)s)")
    parser.add_argument("--short-side", type=int, help="resize images to this; by default as the configuration says")
    parser.add_argument("--again", action="store_true", help="run those again that the file has")
    parser.add_argument("--list", action="store_true", help="print the networks and run nothing")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(available_cpus())
    zoo = [found for trainer, zoo in _LISTS.items() if (folder := getattr(chosen, trainer)) for found in zoo(folder)]
    files = sorted(path for path in chosen.images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    images = [RGBImage.open(path) for path in files[: chosen.count]]
    rows = {(row.trainer, row.configuration): row for row in _read(chosen.output)}
    networks: dict[str, str] = {}
    command = f"python -m maintenance.trainers --images FOLDER -o {chosen.output} --count {chosen.count}"
    for found in zoo:
        key = (found.trainer, found.name)
        first = networks.setdefault(f"{found.trainer} {found.network}", found.name) if found.network else found.name
        if chosen.list:
            print(found.trainer, found.name, "" if first == found.name else f"= {first}", found.fault)
            continue
        if not re.search(chosen.only, found.name) or (key in rows and not chosen.again):
            continue
        if first != found.name:
            rows[key] = ZooRow(trainer=found.trainer, configuration=found.name, outcome="same network", same_as=first)
        else:
            rows[key] = _tried(found, images, chosen.short_side)
        note(msgspec.json.encode(rows[key]).decode())
        _write(chosen.output, list(rows.values()), command)
    return int(any(row.outcome == "differs" for row in rows.values()))


def _tried(found: Configuration, images: Sequence[RGBImage], short_side: int | None) -> ZooRow:
    row = ZooRow(trainer=found.trainer, configuration=found.name, outcome="not tried", reason=found.fault)
    if found.config is None or (reason := missing(found.trainer)):
        return row if found.fault else msgspec.structs.replace(row, reason=reason)
    config = found.config if short_side is None else with_short_side(found, short_side)
    try:
        with redirect_stdout(io.StringIO()):
            model = build(found.trainer, config)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        return msgspec.structs.replace(row, reason=f"{title_of(found.trainer)} does not build it: {text}")
    with tempfile.TemporaryDirectory() as name:
        try:
            return _compared(row, model, config, images, Path(name), short_side)
        except _RefusedError as refused:
            return msgspec.structs.replace(row, outcome="refused", reason=str(refused))
        except Exception as error:  # a zoo is long, and the next one may go
            traceback.print_exc()
            return msgspec.structs.replace(row, outcome="differs", reason=f"{type(error).__name__}: {error}"[:300])


def _compared(
    row: ZooRow, model: TrainerModel, config: object, images: Sequence[RGBImage], folder: Path, short_side: int | None
) -> ZooRow:
    """Compare, once the model is accepted with weights that are not yet calibrated."""
    with _refusals(folder):
        _read_checkpoint(save(model, row.trainer, config, folder)[0], folder)
    calibrate(model, row.trainer, images)
    files = save(model, row.trainer, config, folder)
    loaded, left = (_read_checkpoint(file, folder) for file in files)
    for name, tensor in left.model.state_dict().items():
        if not torch.equal(tensor, loaded.model.state_dict()[name]):
            raise ValueError(f"{name} is not the same in {files[0].name} and {files[1].name}")
    if left.spec != loaded.spec:
        raise ValueError(f"the models of {files[0].name} and {files[1].name} are not the same")
    onnx = folder / "model.onnx"
    with _refusals(folder):
        export_onnx(loaded.model, onnx)
    eager, canvases = EagerDetector(loaded.model, loaded.spec), canvases_of(open_artifact(onnx).manifest)
    expected = [model.detect(image, loaded.spec.labels) for image in images]
    with Detector.load(onnx, device="cpu") as detector:
        detections = detector(images)
    parities = []
    for image, one, other in zip(images, expected, detections, strict=True):
        canvas = canvases.canvas_of(loaded.spec.transform.resized_size(*image.size), name=image.name)
        ties = partial(eager.alternatives, image, canvas)
        parities.append(compare_detections(one, other, loaded.spec, _LIMITS, name=image.name, alternatives=ties))
    found = _agreement(parities)
    in_float64 = None
    if not found.agrees and row.trainer == "mmdetection":  # is it rounding? Detectron2 rounds boxes for its NMS
        in_float64 = _agreement(list(_compared_in_float64(model, loaded, images[:_FLOAT64_IMAGES])))
    return msgspec.structs.replace(
        row,
        outcome="agrees" if found.agrees else "differs",
        images=len(images),
        short_side=short_side,
        detections=sum(map(len, expected)),
        agreement=found,
        in_float64=in_float64,
    )


def _compared_in_float64(
    model: TrainerModel, loaded: LoadedCheckpoint, images: Sequence[RGBImage]
) -> Iterator[ImageParity]:
    """Compare MMDetection's model and our restatement of it in float64, on the pixels of MMDetection's pipeline."""
    ours, theirs, pixels = loaded.model.double(), model.module.double(), list[Tensor]()

    def widen(preprocessor: Any, _: object, data: dict[str, Any]) -> dict[str, Any]:
        wide = data["inputs"].double()
        pixels.append(wide if preprocessor._channel_conversion else wide.flip(1))  # else theirs takes BGR
        return data | {"inputs": wide}

    theirs.get_submodule("data_preprocessor").register_forward_hook(widen)
    with mock.patch("mmcv._ext.nms", lambda boxes, scores, iou_threshold, offset: nms(boxes, scores, iou_threshold)):
        for image in images:
            expected = model.detect(image, loaded.spec.labels)
            size = loaded.spec.transform.resized_size(*image.size)
            with torch.inference_mode():
                found = run_network(ours, pixels.pop(), [size])
            (result,) = ours.transform.postprocess(found, [size], [image.size])
            detections = to_detections(result, image, loaded.spec)
            yield compare_detections(expected, detections, loaded.spec, _LIMITS, name=image.name)


def _agreement(parities: list[ImageParity]) -> Agreement:
    parity = total(parities, _LIMITS)
    of_all = parity.total
    return Agreement(
        pairs=of_all.matched,
        tied=of_all.tied,
        unmatched=of_all.unmatched,
        relabelled=of_all.label_mismatches,
        box_px=of_all.box_px,
        score=of_all.score,
        agrees=parity.passed,
    )


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Tell what frcnn refuses from what fails."""
    try:
        yield
    except FrcnnError as error:
        raise _RefusedError(error.message.replace(f"{folder}/", "")) from error


def _read_checkpoint(checkpoint: Path, folder: Path) -> LoadedCheckpoint:
    config = folder / "config.yaml"
    return read_checkpoint(checkpoint, config=config if config.exists() else None)


def _read(path: Path) -> tuple[ZooRow, ...]:
    return msgspec.json.decode(path.read_bytes(), type=TrainerZoos).configurations if path.exists() else ()


def _write(path: Path, rows: list[ZooRow], command: str) -> None:
    environment = read_environment(command=command, threads=torch.get_num_threads(), load_before=None)
    found = TrainerZoos(
        environment=msgspec.convert(msgspec.to_builtins(environment), System),
        trainers={trainer: title_of(trainer) for trainer in _LISTS},
        weights=_WEIGHTS,
        limit_px=_LIMITS.box_px,
        limit_score=_LIMITS.score,
        configurations=tuple(sorted(rows, key=lambda row: (row.trainer, row.configuration))),
    )
    write_json(found, str(path))


if __name__ == "__main__":
    raise SystemExit(main())
