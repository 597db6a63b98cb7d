"""Layouts of checkpoints, and files that cannot be loaded."""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import io
import json
import lzma
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from frcnn.errors import CheckpointError, UnsupportedModelError, UsageError
from frcnn.exporter import load_checkpoint
from frcnn.exporter.checkpoint.load import read_checkpoint
from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint

TINY = Path(__file__).parents[2] / "support" / "tiny_models.py"
ARCH = f"{TINY}:build"
NAMES = ["cat", "dog", "owl"]


def tiny() -> FasterRCNN:
    from frcnn.exporter.checkpoint.builders import resolve_builder

    torch.manual_seed(3)
    model = resolve_builder(ARCH)()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def model():
    return tiny()


Saver = Callable[[object], Path]


@pytest.fixture
def save(tmp_path):
    def saver(content: object) -> Path:
        path = tmp_path / "my.pth"
        torch.save(content, path)
        return path

    return saver


def read(path: Path, **options: Any) -> LoadedCheckpoint:
    return read_checkpoint(path, **({"arch": ARCH} | options))


def same_weights(one: nn.Module, other: Mapping[str, Tensor]) -> bool:
    mine = one.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k].to(mine[k].dtype)) for k in mine)


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


PROFILED = [f"{part}total_{what}" for part in ("", "rpn.head.conv.") for what in ("ops", "params")]

LAYOUTS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3},
    "model and namespace": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, output=Path("out"))},
    "numpy metric": lambda s: {"model": s, "best": np.float64(0.5), "count": np.int64(3)},
    "state_dict": lambda s: {"state_dict": s},
    "data parallel": lambda s: {"state_dict": prefixed(s, "module.")},
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2.5"},
    "compiled": lambda s: {"model": prefixed(s, "_orig_mod.")},
    "compiled part": lambda s: {k.replace("backbone.", "backbone._orig_mod."): v for k, v in s.items()},
    "parallel and compiled": lambda s: prefixed(s, "module._orig_mod."),
    "unknown prefix": lambda s: prefixed(s, "detector.net."),
    "nested": lambda s: {"checkpoint": {"weights": {"model": s}}},
    "pipeline": lambda s: {
        "model_state_dict": s,
        "model_name": "fasterrcnn_tiny",
        "data": {"NC": 4, "CLASSES": ["__background__", *NAMES]},
    },
    "averaged only": lambda s: {"model_ema": {"n_averaged": torch.tensor(5), **prefixed(s, "module.")}},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "bfloat16": lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "after a profiler": lambda s: {**s, **dict.fromkeys(PROFILED, torch.zeros(1).double())},
    "no counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_read(layout, model, save):
    state = model.state_dict()
    loaded = read(save(LAYOUTS[layout](state)))
    expected = state
    if layout in ("half", "bfloat16"):
        dtype = torch.half if layout == "half" else torch.bfloat16
        expected = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    assert same_weights(loaded.model, expected)
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.spec.num_classes == 4


def test_detections_equal_those_of_the_saved_model(model, save):
    image = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(1))
    loaded, _ = load_checkpoint(save(model.state_dict()), arch=ARCH, args={"box_score_thresh": 0.0})
    model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        (ours,), (theirs,) = loaded([image]), model([image])
    assert len(theirs["boxes"]) > 0
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_safetensors_with_labels(model, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "my.safetensors"
    safetensors.save_file(model.state_dict(), path, metadata={"labels": json.dumps(NAMES), "arch": "tiny"})
    loaded = read(path)
    assert same_weights(loaded.model, model.state_dict())
    assert loaded.spec.labels == ("__background__", *NAMES)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        read(path)


def test_facts_and_hash(model, save):
    path = save({"state_dict": {**prefixed(model.half().state_dict(), "model."), "metric.total": torch.zeros(1)}})
    loaded = read(path)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "entry 'state_dict/model.'" in loaded.facts[0]
    assert "float16, computed in float32" in loaded.facts[0]
    assert "1 tensors outside" in loaded.facts[0]
    assert any(line.startswith("classes: 3 and the background") for line in loaded.facts)
    assert any(line.startswith("RPN: 6 anchors") for line in loaded.facts)
    text = "\n".join(loaded.assumptions)
    assert loaded.spec.architecture == "tiny_models.py:build"  # without the folders of this system
    assert str(TINY.parent) not in text
    for what in ("(32, 64) px", "short side of 64 px", "mean (0.485", "scores above 0.05", "label k is category id k"):
        assert what in text


def test_what_a_profiler_left_is_reported(model, save):
    loaded = read(save(LAYOUTS["after a profiler"](model.state_dict())))
    assert f"{len(model.state_dict())} tensors, float32" in loaded.facts[0]
    assert loaded.facts[1] == "left out: 4 counters of a profiler (total_ops, total_params)"


def test_given_arguments_are_facts_and_reach_the_model(model, save):
    loaded = read(save(model.state_dict()), args={"min_size": 48, "max_size": 80, "box_score_thresh": 0.2})
    assert loaded.spec.transform.min_size == 48
    assert loaded.spec.roi_heads.score_thresh == 0.2
    assert "given: min_size=48" in loaded.facts
    assert not any("short side" in line for line in loaded.assumptions)
    assert any("scores above 0.2" in line for line in loaded.assumptions)  # the two others of that line are assumed


@pytest.mark.parametrize("kept", [NAMES, ["background", *NAMES]])
@pytest.mark.parametrize("where", ["labels", "classes", "CLASSES"])
def test_labels_kept_in_the_checkpoint(kept, where, model, save):
    content = {"model": model.state_dict()} | ({"data": {where: kept}} if where == "CLASSES" else {where: kept})
    loaded = read(save(content))
    assert loaded.spec.labels is not None
    assert loaded.spec.labels[1:] == tuple(NAMES)
    assert len(loaded.spec.labels) == 4
    assert "labels: 3 names kept with the weights" in loaded.facts


@pytest.mark.parametrize(
    "kept",
    [
        dict(enumerate(NAMES)),
        dict(enumerate(NAMES, 1)),
        {str(number): name for number, name in enumerate(["__background__", *NAMES])},
        {name: number for number, name in reversed([*enumerate(NAMES, 1)])},
    ],
    ids=["from 0", "from 1", "numbers as text", "numbers of names"],
)
@pytest.mark.parametrize("where", ["class_names", "hyper_parameters"])
def test_labels_kept_as_a_dictionary(kept, where, model, save):
    content = {where: {"class_to_idx": kept} if where == "hyper_parameters" else kept}
    loaded = read(save({"model": model.state_dict()} | content))
    assert loaded.spec.labels == ("__background__", *NAMES)


@pytest.mark.parametrize("kept", [{1: "cat", 5: "dog", 9: "owl"}, {0: 1, 1: 2}, {(): "cat"}, "cat dog owl", [1, 2]])
def test_labels_that_are_not_read_are_reported(kept, model, save):
    loaded = read(save({"model": model.state_dict(), "class_names": kept}))
    assert loaded.spec.labels is None
    assert "labels: not read from the checkpoint: " in loaded.assumptions[0]


def test_a_dictionary_from_1_is_for_labels_from_1(model, save):
    """Four names for three classes: without its number, "cat" would be the background's."""
    with pytest.raises(CheckpointError, match=r"kept in it do not fit its weights: .* got 5"):
        read(save({"model": model.state_dict(), "class_names": dict(enumerate([*NAMES, "elk"], 1))}))
    with pytest.raises(UsageError, match="expected 3 names"):
        read(save(model.state_dict()), labels=["__background__", "cat", "dog"])


def test_given_labels_replace_those_in_the_checkpoint(model, save):
    path = save({"model": model.state_dict(), "labels": ["wrong", "number"]})
    with pytest.raises(CheckpointError, match=r"kept in it do not fit.*expected 3 names.*got 2.*--labels"):
        read(path)
    assert read(path, labels=NAMES).spec.labels == ("__background__", *NAMES)


@pytest.mark.parametrize("labels", [["cat"], ["a", "b", "c", "d", "e"], "cat", ["cat", " ", "owl"]])
def test_labels_that_do_not_match(labels, model, save):
    with pytest.raises(UsageError, match="labels"):
        read(save(model.state_dict()), labels=labels)


def test_other_number_of_classes_given(model, save):
    with pytest.raises(UsageError, match=r"num_classes=7.* for 4 classes"):
        read(save(model.state_dict()), args={"num_classes": 7})


def test_builder_without_num_classes(model, save):
    loaded = read(save(model.state_dict()), arch=f"{TINY}:build_four_classes")
    assert same_weights(loaded.model, model.state_dict())
    from frcnn.exporter.checkpoint.builders import resolve_builder

    six = save(resolve_builder(ARCH)(num_classes=6).state_dict())
    with pytest.raises(CheckpointError, match=r"are for 6 classes .*built 4"):
        read(six, arch=f"{TINY}:build_four_classes")


@pytest.mark.parametrize(
    "content",
    [
        lambda raw, ema: {"model": raw, "model_ema": ema},
        lambda raw, ema: {"state_dict": {**prefixed(raw, "model."), **prefixed(ema, "ema_model.module.")}},
        lambda raw, ema: {**raw, **prefixed(ema, "ema.")},
    ],
    ids=["two entries", "two prefixes", "bare and prefix"],
)
def test_running_average_is_used_and_reported(content, model, save):
    raw = model.state_dict()
    ema = {k: v + 1 if v.is_floating_point() else v for k, v in raw.items()}
    path = save(content(raw, ema))
    loaded = read(path)
    assert same_weights(loaded.model, ema)
    assert "running average" in loaded.assumptions[0]
    if "model" in loaded.assumptions[0]:
        key = "state_dict/model" if "state_dict" in loaded.assumptions[0] else "model"
        assert same_weights(read(path, state_key=key).model, raw)
    with pytest.raises(CheckpointError, match="no weights under 'other'"):
        read(path, state_key="other")


def test_two_detectors_are_refused(model, save):
    with pytest.raises(CheckpointError, match=r"2 detectors: 'best', 'last'.*state_key"):
        read(save({"best": model.state_dict(), "last": model.state_dict()}))


def test_pickled_module_is_refused_without_running_its_code(tmp_path):
    flag = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (flag,)

    path = tmp_path / "my.pth"
    torch.save({"model": Hostile()}, path)
    with pytest.raises(CheckpointError, match="runs code from the file") as caught:
        read(path)
    assert "--trust-pickle" in caught.value.hint
    assert not flag.exists()


@pytest.mark.parametrize("wrap", ["bare", "entry", "parallel", "lightning"])
def test_trusted_module_keeps_its_settings(wrap, save, monkeypatch):
    monkeypatch.syspath_prepend(str(TINY.parent))
    import tiny_models  # type: ignore[import-not-found,unused-ignore]  # found on the path that was just set

    holder = tiny_models.LightningLike()
    model = holder.model
    model.transform.min_size = (50,)
    saved = {"bare": model, "entry": {"model": model}, "parallel": nn.DataParallel(model), "lightning": holder}[wrap]
    path = save(saved)
    with pytest.raises(CheckpointError, match="runs code from the file"):
        read(path, arch=None)
    loaded = read(path, arch=None, trust_pickle=True)
    assert same_weights(loaded.model, model.state_dict())
    assert loaded.spec.transform.min_size == 50
    assert not loaded.model.training
    assert len(loaded.assumptions) == 1  # only that labels have no names
    with pytest.raises(UsageError, match="--arg goes with --arch"):
        read(path, arch=None, trust_pickle=True, args={"min_size": 3})
    assert read(path, trust_pickle=True).spec.transform.min_size == 64  # --arch builds anew, with the weights


def test_a_model_of_another_torchvision_gives_its_weights_alone(model, save):
    del model.transform.fixed_size, model.rpn.score_thresh
    path = save(model)
    with pytest.raises(UnsupportedModelError, match=r"lacks what torchvision .* no attribute 'fixed_size'") as caught:
        read(path, arch=None, trust_pickle=True)
    assert "--arch NAME" in caught.value.hint
    assert same_weights(read(path, trust_pickle=True).model, model.state_dict())


def test_a_class_that_is_no_more_is_named(tmp_path):
    path = tmp_path / "my.pth"
    path.write_bytes(_torch_bytes(argparse.Namespace(x=1)).replace(b"argparse\nNamespace", b"argparse\nNamespabe"))
    with pytest.raises(CheckpointError, match=r"classes that cannot be imported here: .*Namespabe"):
        read(path, trust_pickle=True)


def test_trusted_pickle_without_its_module(tmp_path):
    path = tmp_path / "my.pth"
    buffer = io.BytesIO()
    torch.save(argparse.Namespace(x=1), buffer)
    path.write_bytes(buffer.getvalue().replace(b"argparse\nNamespace", b"argparsf\nNamespace"))
    with pytest.raises(CheckpointError, match="argparsf"):
        read(path, trust_pickle=True)


OTHERS = {  # kind -> names of weights, what it is
    "retinanet": ("head.classification_head.conv.0.0.weight", "RetinaNet"),
    "ssd": ("head.classification_head.module_list.0.weight", "SSD"),
    "fcos": ("head.classification_head.conv.0.weight head.regression_head.bbox_ctrness.weight", "FCOS"),
    "yolo": ("model.0.conv.weight model.22.dfl.conv.weight", "YOLO"),
    "mask": ("roi_heads.mask_head.mask_fcn1.weight roi_heads.box_head.fc6.weight", "a Mask R-CNN"),
    "keypoint": ("roi_heads.keypoint_head.0.weight", "Keypoint"),
    "detectron2": ("backbone.bottom_up.stem.conv1.weight", "a Detectron2 model without RoI heads"),
    "detectron2 retinanet": (
        "backbone.bottom_up.stem.conv1.weight head.cls_subnet.0.weight",
        "RetinaNet of Detectron2",
    ),
    "detectron2 cascade": ("proposal_generator.x.weight roi_heads.box_head.0.fc1.weight", "a Cascade R-CNN"),
    "mmdetection": ("rpn_head.rpn_conv.weight", "an MMDetection model without RoI heads"),
    "mmdetection one-stage": ("bbox_head.cls_convs.0.conv.weight", "an MMDetection model without RoI heads"),
    "mmdetection cascade": ("rpn_head.x.weight roi_head.bbox_head.0.fc_cls.weight", "a Cascade R-CNN"),
    "mmdetection mask": ("roi_head.bbox_head.fc_cls.weight roi_head.mask_head.x.weight", "a Mask R-CNN"),
    "detr": ("class_embed.weight backbone.0.body.layer1.0.weight", "DETR"),
    "classifier": ("fc.weight layer1.0.conv1.weight", "image classifier"),
    "backbone": ("body.layer1.0.conv1.weight", "backbone without a detector"),
    "anything": ("w", "1 tensors"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_other_models_are_recognised(kind, wrapped, save):
    names, expected = OTHERS[kind]
    state = {name: torch.zeros(3, 2) for name in names.split()}
    with pytest.raises(CheckpointError, match=expected) as caught:
        read(save({"model": state} if wrapped else state), arch=None)
    assert "expected a Faster R-CNN" in caught.value.message
    assert caught.value.hint


class HistoryBuffer:
    """As MMEngine keeps beside the weights of MMDetection 3."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["detectron2", "mmdetection cascade", "mask"])
def test_other_models_are_recognised_beside_python_objects(kind, zipped, tmp_path):
    names, expected = OTHERS[kind]
    content = {"state_dict": {name: torch.zeros(3, 2) for name in names.split()}, "log": HistoryBuffer()}
    path = tmp_path / "my.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"{expected}.*expected a Faster R-CNN") as caught:
        read(path, arch=None)
    assert "pickle" not in caught.value.hint


def test_weights_beside_python_objects_need_trust(model, save):
    with pytest.raises(CheckpointError, match=r"holds Python objects .*HistoryBuffer"):
        read(save({"state_dict": prefixed(model.state_dict(), "model."), "log": HistoryBuffer()}))


def _torch_bytes(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _script_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def _onnx_bytes() -> bytes:
    from onnx import helper

    return bytes(helper.make_model(helper.make_graph([], "g", [], []), producer_name="x").SerializeToString())


def _zip_bytes() -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")
    return buffer.getvalue()


def _tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("my.pth"))
    return buffer.getvalue()


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "cut short": (lambda: _torch_bytes({"w": torch.zeros(999)})[:-900], "cut short"),
    "cut short, old format": (
        lambda: _torch_bytes({"w": torch.zeros(999)}, _use_new_zipfile_serialization=False)[:-900],
        "damaged, cut short",
    ),
    "text": (lambda: b"epoch 1 loss 0.3\n" * 50, "no checkpoint"),
    "random bytes": (lambda: bytes(range(256)) * 20, "no checkpoint"),
    "pickle of anything": (lambda: _torch_bytes([1, 2, 3]), "found a list"),
    "dictionary of nothing": (lambda: _torch_bytes({"epoch": 3}), "a dictionary with 'epoch'"),
    "torchscript": (_script_bytes, "TorchScript"),
    "onnx": (_onnx_bytes, "ONNX"),
    "zip": (_zip_bytes, "zip file that torch.save did not write"),
    "detectron2's pickle": (
        lambda: pickle.dumps({"model": {"backbone.bottom_up.stem.conv1.weight": np.zeros((2, 3))}}),
        "holds a Detectron2 model",
    ),
    "pickled state_dict": (
        lambda: pickle.dumps({"rpn.w": torch.zeros(3)}),
        r"holds torch\._utils\._rebuild_tensor_v2, which is no array of numbers; it was not run",
    ),
    "pickle cut short": (lambda: pickle.dumps({"rpn.w": np.zeros(99)})[:-90], "damaged, or a pickle that"),
    "gzip": (lambda: gzip.compress(_torch_bytes({})), r"compressed by gzip"),
    "bzip2": (lambda: bz2.compress(_torch_bytes({})), r"compressed by bzip2"),
    "xz": (lambda: lzma.compress(_torch_bytes({})), r"compressed by xz"),
    "tar": (_tar_bytes, "is a tar archive"),
    "git lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "web page": (lambda: b"<!DOCTYPE html><html></html>", "web page"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # to make what is refused
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("trust_pickle", [False, True])
def test_unusable_file(kind, trust_pickle, tmp_path):
    content, expected = BROKEN[kind]
    path = tmp_path / "my.pth"
    path.write_bytes(content())
    with pytest.raises(CheckpointError, match=expected) as caught:
        read(path, trust_pickle=trust_pickle, arch=None)
    assert "\n" not in caught.value.message + caught.value.hint
    assert str(path) in caught.value.message


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        read(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read(tmp_path)


def test_names_shapes_and_types_that_do_not_fit_are_listed(model, save):
    state = model.state_dict()
    del state["rpn.head.bbox_pred.bias"]
    state["rpn.head.cls_logits.weight"] = torch.zeros(9, 8, 1, 1)
    state["backbone.0.weight"] = torch.zeros(8, 3, 3, 3, dtype=torch.int8)
    state.update({f"backbone.extra.{i}": torch.zeros(1) for i in range(7)})
    with pytest.raises(CheckpointError) as caught:
        read(save(state))
    text = caught.value.message
    assert "leave --arch out" not in caught.value.hint  # without it the hint is to name the function
    assert "1 missing: rpn.head.bbox_pred.bias" in text
    assert "7 unexpected: backbone.extra.0, " in text
    assert "backbone.extra.4, ..." in text and "backbone.extra.5" not in text
    assert "2 of another shape: backbone.0.weight is int8, expected floating point, " in text
    assert "rpn.head.cls_logits.weight is (9, 8, 1, 1), expected (6, 8, 1, 1)" in text


def test_only_missing_names(model, save):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("rpn.head.cls")}
    with pytest.raises(CheckpointError, match=r"do not fit .*: 2 missing: rpn.head.cls_logits.weight, rpn"):
        read(save(state))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["roi_heads.box_head.fc6.weight", "backbone.1.running_var"])
def test_non_finite_weights_are_named(value, name, model, save):
    state = model.state_dict()
    state[name].view(-1)[2:4] = value
    with pytest.raises(CheckpointError, match=rf"{name} has 2 of {state[name].numel()} values that are NaN or inf"):
        read(save(state))


def test_double_that_overflows_float32_is_refused(model, save):
    state = {k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state["backbone.0.bias"][0] = 1e300
    with pytest.raises(CheckpointError, match=r"backbone.0.bias has 1 of 8"):
        read(save(state))


def test_model_that_cannot_be_exported(model, save, tmp_path):
    source = tmp_path / "odd.py"
    source.write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('t', {str(TINY)!r})\n"
        "tiny = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(tiny)\n"
        "class Odd(tiny.MultiScaleRoIAlign):\n    pass\n"
        "def build(num_classes):\n    return tiny.build(num_classes, box_roi_pool=Odd(['0'], 7, 2))\n"
    )
    with pytest.raises(UnsupportedModelError, match="box_roi_pool"):
        read(save(model.state_dict()), arch=f"{source}:build")
