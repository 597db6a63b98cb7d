"""Everything in frcnn that reads files of others: valid inputs to damage, and what must be true of what is accepted."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Final

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from PIL import Image, ImageOps
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.serialization import StorageType

from frcnn.benchmarks.accuracy.scoring import read_predictions
from frcnn.exporter.checkpoint.builder_arguments import parse_args
from frcnn.exporter.checkpoint.file import read_checkpoint_file
from frcnn.exporter.checkpoint.layout import find_weights
from frcnn.exporter.checkpoint.plain_pickle import Array, Inert, NumberType
from frcnn.exporter.commands.checkpoint_options import read_labels
from frcnn.runtime.dataset.annotations import read_coco, read_voc
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.spec import MANIFEST_KEY, Manifest
from frcnn.spec.engine import EngineManifest
from support.engine_files import source_manifest, write_engine_file
from support.hostile.pickles import HARMLESS, runs_code

MAX_PIXELS: Final = 1 << 20
"""The limit that images are read with, so that what a limit is for is seen with little memory."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One kind of file: valid inputs, words of the format, and a function that reads a file and checks what came out.

    An AssertionError of ``read`` is a wrong answer; ``share`` is of all inputs: what takes long gets fewer.
    """

    name: str
    file: str
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    read: Callable[[Path], object]
    share: int


def readers() -> list[Reader]:
    manifests = [source_manifest(canvases=canvases).to_json().encode() for canvases in (None, ((64, 96),))]
    artifact, engine_manifest = _engine_file()
    labels = [b"cat\ndog\nteddy bear\n", "\ufeffcaf\u00e9\r\n\u732b\r\n".encode()]
    arguments = [b"min_size=640", b"sizes=((32,), (64,))", b"name='x'", b"a=None", b"b=[1, {2: 3.5}]"]
    pickles = [_torch_saved(True), pickle.dumps(HARMLESS, protocol=2), *runs_code().values()]
    safetensors = [save_safetensors(_weights(), metadata={"labels": '["a", "b"]', "arch": "tiny"})]
    return [
        Reader("model manifest", "manifest.json", manifests, _JSON, _read_manifest(Manifest), 10),
        Reader("engine manifest", "engine.json", [engine_manifest], _JSON, _read_manifest(EngineManifest), 10),
        Reader("engine artifact", "model.frcnn", [artifact], _ZIP, _read_artifact, 12),
        Reader("ONNX outline and metadata", "model.onnx", [tiny_onnx(), tiny_onnx(metadata={})], _ONNX, _read_onnx, 12),
        Reader("label file", "labels.txt", labels, _TEXT, _read_labels, 4),
        Reader("COCO JSON", "coco.json", [_coco()], _JSON, _read_coco, 10),
        Reader("COCO results", "results.json", [_coco_results()], _JSON, _read_results, 6),
        Reader("VOC XML", "voc/a.xml", [_voc()], _XML, _read_voc, 8),
        Reader("--arg values", "arg.txt", arguments, _LITERALS, _read_arg, 4),
        Reader("checkpoint, zip", "zip.pth", [_torch_saved(False)], [*_ZIP, *_PICKLE], _read_checkpoint, 10),
        Reader("checkpoint, pickle", "old.pth", pickles, _PICKLE, _read_checkpoint, 10),
        Reader("checkpoint, safetensors", "new.safetensors", safetensors, _SAFETENSORS, _read_checkpoint, 8),
        *(
            Reader(f"image, {kind}", f"image.{kind.lower()}", _images(kind), _IMAGE, _read_image, 6)
            for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
        ),
    ]


def _read_manifest(kind: type[Manifest] | type[EngineManifest]) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        manifest = kind.from_json(path.read_bytes(), source="it")
        again = manifest.to_json()
        assert kind.from_json(again if isinstance(again, bytes) else again.encode(), source="again") == manifest
        return manifest

    return read


def _read_artifact(path: Path) -> object:
    artifact = open_artifact(path)
    if isinstance(artifact, OnnxArtifact):
        return artifact
    artifact.read_precision()
    artifact.check_parts()
    for name, part in artifact.manifest.parts.items():
        assert len(artifact.read_part(name)) == part.size_bytes
    return artifact


def _read_onnx(path: Path) -> object:
    artifact = open_artifact(path)
    assert isinstance(artifact, OnnxArtifact)
    data = path.read_bytes()
    try:
        proto = onnx.load_model_from_string(data)
    except Exception:  # protobuf's own; the outline does not look into what it steps over
        return artifact
    outline = artifact.outline
    assert outline.metadata == {pair.key: pair.value for pair in proto.metadata_props}
    assert outline.producer == proto.producer_name
    assert outline.file_bytes == len(data)
    return artifact


def _read_labels(path: Path) -> object:
    names = read_labels(path)
    assert names
    assert all(name and name == name.strip() and name.isprintable() for name in names)
    return names


def _read_coco(path: Path) -> object:
    truth = read_coco(path)
    assert len({image.file_name for image in truth.images}) == len(truth.images) > 0
    for item in (item for image in truth.images for item in image.annotations):
        assert item.category_id in truth.categories
        assert np.isfinite([*item.bbox, item.area]).all()
        assert min(item.bbox[2:]) >= 0
    return truth


def _read_results(path: Path) -> object:
    truth = read_coco(_written(path.parent / "instances.json", _coco()))
    results = read_predictions(path, truth)
    for item in results:
        assert item["image_id"] in (1, 2) and item["category_id"] in truth.categories
        assert np.isfinite([*item["bbox"], item["score"]]).all()
        assert min(item["bbox"][2:]) >= 0
    return results


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _read_voc(path: Path) -> object:
    truth = read_voc(path.parent, path.parent / "images")
    assert len(truth.images) == 1
    for item in truth.images[0].annotations:
        assert item.category_id in truth.categories
        assert np.isfinite([*item.bbox, item.area]).all()
        assert min(item.bbox[2:]) > 0
    return truth


def _read_arg(path: Path) -> object:
    parsed = parse_args([path.read_bytes().decode("utf-8", "surrogateescape")])
    assert len(parsed) == 1
    assert all(key.isidentifier() for key in parsed)
    return parsed


_STAND_INS: Final = (Inert, NumberType, Array)  # keep numbers or nothing
_PLAIN: Final = (str, bytes, bool, int, float, complex, type(None), np.generic, np.dtype, PurePath, torch.Size)
_TORCH: Final = (
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.UntypedStorage,
    torch.TypedStorage,
    StorageType,
)


_NAMED: Final = ("torch", "frcnn", "_codecs")
"""Where functions are from that a pickle may name: what it calls of them runs nothing, and none is called later."""


def _read_checkpoint(path: Path) -> object:
    content = read_checkpoint_file(path)[0]
    _require_harmless(content, 50)
    return find_weights(content, source=path.name)


def _require_harmless(value: object, depth: int) -> None:
    """Hold what a checkpoint gave to the kinds that run nothing."""
    assert depth, "too deep"
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_harmless(key, depth - 1)
            _require_harmless(item, depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset)) and not isinstance(value, torch.Size):
        for item in value:
            _require_harmless(item, depth - 1)
    elif isinstance(value, Namespace):
        _require_harmless(vars(value), depth - 1)
    else:
        named = isinstance(value, (FunctionType, BuiltinFunctionType)) and value.__module__.partition(".")[0] in _NAMED
        assert named or isinstance(value, (*_PLAIN, *_TORCH, *_STAND_INS, Tensor, type)), type(value)


def _read_image(path: Path) -> object:
    image = RGBImage.open(path, max_pixels=MAX_PIXELS)
    height, width = image.size
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape == (height, width, 3)
    assert 0 < height * width <= MAX_PIXELS
    return image


_JSON: Final = [
    *(b"null", b"true", b"{}", b"[]", b'""', b",", b":", b'"', b"[" * 3000, b'{"a":' * 3000, b"1e999", b"-0", b"NaN"),
    *(b'"schema_version":1,', b'"\\ud800"', b'"\\u001b[2J"', b'"../../etc/passwd"', b"18446744073709551616", b"\xff"),
    *(b'"id":1,', b'"min_size":0,', b"0.1", b"-1", b"\xef\xbb\xbf", b'"a\\nb"'),
]
_SAFETENSORS: Final = [*_JSON, b'"F64"', b'"data_offsets"', b'"__metadata__"']
_TEXT: Final = [b"\n", b"\n\n", b"\x00", b"\x1b[2J", b"\xff", b"\r", "\u2028".encode(), "\u202e".encode(), b" "]
_LITERALS: Final = [*(b"=", b"(", b")", b"[" * 200, b"-" * 300, b"{", b"'", b"1e999", b"__import__('os')", b"9" * 5000)]
_ZIP: Final = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"../x", b"/x", b"\xff" * 4]
_ONNX: Final = [b"\x3a", b"\x72", b"\xff" * 9 + b"\x01", b"\x08\x0a", b"\x2a\x00", MANIFEST_KEY.encode(), b"\x0b\x0c"]
_XML: Final = [
    *(
        b'<!DOCTYPE x [<!ENTITY a "b">]>',
        b"&a;",
        b"<object>",
        b"</object>",
        b"<a>" * 2000,
        b"&#0;",
        b"<![CDATA[",
        b"]]>",
    ),
    *(b'<?xml version="1.0" encoding="utf-7"?>', b"nan", b"inf", b"-1", b"<!--", b"\x00", b"<name/>"),
]
_PICKLE: Final = [
    *(b"cos\nsystem\n", b"c__builtin__\neval\n", b"cbuiltins\ngetattr\n", b"R.", b"(tR", b"\x81", b"\x93", b"b", b"."),
    *(
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b"cargparse\nNamespace\n",
        b"N}",
        b"h\x00",
    ),
    *(b"Vx\n", b"\x8a\x08" + b"\xff" * 8, b"i", b"o", b"Q", b"P0\n", b"\x95" + b"\xff" * 8, b"cnumpy\ndtype\n"),
]
_IMAGE: Final = [
    *(b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"\xff\xd8", b"\xff\xe1", b"\xff\xc0"),
    *(b"Exif\x00\x00", b"MM\x00*", b"II*\x00", b"RIFF", b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"P5", b"P6", b"65535"),
]


def _engine_file() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_engine_file(Path(folder) / "model.frcnn")
        artifact = open_artifact(path)
        assert not isinstance(artifact, OnnxArtifact)
        return path.read_bytes(), artifact.manifest.to_json()


def tiny_onnx(*, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a small ONNX model with the manifest of a detector, or with other metadata."""
    pairs = {MANIFEST_KEY: source_manifest().to_json()} if metadata is None else metadata
    weights = numpy_helper.from_array(np.arange(200, dtype=np.float32), "weights")
    value = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["N", 200])
    graph = helper.make_graph(
        [helper.make_node("Add", ["images", "weights"], ["sum"])],
        "tiny",
        [value],
        [helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, ["N", 200])],
        [weights],
    )
    model = helper.make_model(graph, producer_name="frcnn", opset_imports=[helper.make_opsetid("", 20)])
    for key, text in pairs.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    return model.SerializeToString()


def _weights() -> dict[str, Tensor]:
    return {"roi_heads.box_predictor.cls_score.weight": torch.ones(2, 3), "rpn.head.bias": torch.zeros(2)}


def _torch_saved(is_old: bool) -> bytes:
    buffer = io.BytesIO()
    content = {"model": _weights(), "epoch": 3, "args": Namespace(lr=0.1, data=Path("x")), "best": np.float64(0.5)}
    torch.save(content, buffer, _use_new_zipfile_serialization=not is_old)
    return buffer.getvalue()


def _coco() -> bytes:
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 20}, {"id": "b", "file_name": "b.jpg"}],
            "annotations": [{"image_id": 1, "category_id": 7, "bbox": [0.5, 1, 2, 3.25], "area": 6, "iscrowd": 0}],
            "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        }
    ).encode()


def _coco_results() -> bytes:
    first = {"image_id": 1, "category_id": 7, "bbox": [0.5, 1, 2, 3.25], "score": 0.5}
    return json.dumps([first, {"image_id": "b", "category_id": 9, "bbox": [0, 0, 9, 9], "score": 0.25}]).encode()


def _voc() -> bytes:
    return (
        b"<annotation><size><width>20</width><height>10</height></size><object><name>cat</name><difficult>0</difficult>"
        b"<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax></bndbox></object></annotation>"
    )


def _images(kind: str) -> list[bytes]:
    """Return small images of a format in the modes it has, one of them turned by EXIF."""
    rng = np.random.default_rng(3)
    colour = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    modes: dict[str, tuple[str, ...]] = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "GIF": ("L", "P"),
        "BMP": ("1", "L", "P", "RGB"),
        "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F"),
        "WEBP": ("RGB", "RGBA"),
        "PPM": ("1", "L", "RGB"),
    }
    seeds = []
    for mode in modes[kind]:
        grey = ImageOps.grayscale(colour)
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else colour.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, format=kind)
        seeds.append(buffer.getvalue())
    if kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        colour.save(buffer, format=kind, exif=exif)
        seeds.append(buffer.getvalue())
    return seeds
