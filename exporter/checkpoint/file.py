"""Read a checkpoint file into Python objects, without running code from it unless requested."""

from __future__ import annotations

import argparse
import codecs
import hashlib
import json
import pathlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Final

import torch

from frcnn.errors import CheckpointError, one_line
from frcnn.exporter.checkpoint.builders import importable, type_and_text
from frcnn.exporter.checkpoint.layout import other_model
from frcnn.exporter.checkpoint.plain_pickle import STAND_INS, RefusedNameError, read_plain_pickle
from frcnn.files import missing_file
from frcnn.files.archive import BoundedFile
from frcnn.packages import import_package

_MAX_DIRECTORY_BYTES: Final = 16 << 20  # of a zip; that of a large model is below 1 MB
_EXPECTED: Final = "expected a PyTorch checkpoint (.pth, .pt, .ckpt), .safetensors or Detectron2's .pkl"

# Objects that training scripts save beside the weights, like argparse options (torchvision's references), metrics as
# NumPy numbers and MMEngine's histories. Unpickling them runs no code.
_HARMLESS: Final[tuple[Callable[..., Any] | tuple[Callable[..., Any], str], ...]] = (
    argparse.Namespace,
    *((stand_in, name) for name, stand_in in STAND_INS.items()),
    (codecs.encode, "_codecs.encode"),
    type(Path()),
    (type(Path()), f"pathlib._local.{type(Path()).__name__}"),
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
)

_LEGACY_MAGIC: Final = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")  # of torch.save's own pickles
_SAVE: Final = "save model.state_dict() of a torchvision FasterRCNN with torch.save"
_LONGEST_NAME: Final = 1000  # NumPy arrays may be pickled as text

# first bytes of files that are not checkpoints
_FOREIGN: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "run git lfs pull"),
    (b"<", "is a web page or XML, not a checkpoint", "the download went wrong; fetch the file itself"),
    (b"\x89HDF", "is an HDF5 file (Keras?)", _EXPECTED),
    (b"\x1f\x8b", "is compressed by gzip", "unpack it first: gzip -d, or tar -xf"),
    (b"BZh", "is compressed by bzip2", "unpack it first: bzip2 -d, or tar -xf"),
    (b"\xfd7zXZ", "is compressed by xz", "unpack it first: xz -d, or tar -xf"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "unpack it first: zstd -d, or tar -xf"),
    (b"\x08", "looks like an ONNX model, not a checkpoint", "detect with it as it is: frcnn detect model.onnx ..."),
)


def read_checkpoint_file(path: Path, *, trust_pickle: bool = False) -> tuple[object, str]:
    """Read a file written by ``torch.save`` or safetensors to the CPU; return its content and its SHA-256.

    The content of safetensors is ``{"model": tensors, "labels": [...]}``.

    ``trust_pickle`` also unpickles classes, which **runs code from the file**; without it no code in it is run. Raises
    CheckpointError for a file that is missing, empty, truncated, of another kind, or needs ``trust_pickle``, and
    MissingDependencyError without the package safetensors for a file of it.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, expected a checkpoint file", hint="name the file inside it")
    try:
        head, digest, size = _scan(path)
    except FileNotFoundError as error:
        raise missing_file(path, CheckpointError) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {one_line(error)}", hint="check the file's permissions") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty, {_EXPECTED}", hint="copy or save it again")
    if path.suffix == ".safetensors" or _is_safetensors(head, size):
        return _read_safetensors(path), digest
    for magic, what, hint in _FOREIGN:
        if head.startswith(magic):
            raise CheckpointError(f"{path} {what}", hint=hint)
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive, {_EXPECTED}", hint="unpack it first: tar -xf")
    if head.startswith(b"PK"):
        _require_torch_zip(path, size)
    elif head.startswith(pickle.PROTO) and _LEGACY_MAGIC not in head[:32]:
        return _read_arrays(path), digest
    return _read_pickle(path, trust_pickle=trust_pickle), digest


def _scan(path: Path) -> tuple[bytes, str, int]:
    """Return the first bytes, the SHA-256 and the size of a file, without holding it in memory."""
    with path.open("rb") as stream:
        head = stream.read(512)
        stream.seek(0)
        return head, hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_safetensors(path: Path) -> dict[str, object]:
    library: Any = import_package("safetensors", package="safetensors", extra="export", why=f"reading {path.name}")
    try:
        with library.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            content: dict[str, object] = {"model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118  # not a mapping
    except (library.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: {type_and_text(error)}", hint="copy or save it again"
        ) from error
    for key, text in metadata.items():  # safetensors keeps text only; lists are stored as JSON
        try:
            content.setdefault(key, json.loads(text))
        except (ValueError, RecursionError):
            content.setdefault(key, text)
    return content


def _require_torch_zip(path: Path, size: int) -> None:
    """Refuse zip files that ``torch.save`` did not write, which are never compressed."""
    try:
        with BoundedFile(path, _MAX_DIRECTORY_BYTES) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile raises many types on a damaged or hostile directory
        raise CheckpointError(
            f"{path} is cut short or damaged: it has no readable zip directory at its end", hint="copy or save it again"
        ) from error
    names = {info.filename.partition("/")[2] or info.filename for info in infos}
    for what, marks in (
        ("a TorchScript archive", {"constants.pkl"}),
        ("a torch.export program", {"archive_format", "models/model.json"}),
    ):
        if marks & names:
            raise CheckpointError(
                f"{path} is {what}, which cannot be exported; {_EXPECTED}",
                hint="save the original model's weights: torch.save(model.state_dict(), 'my.pth')",
            )
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip file that torch.save did not write; {_EXPECTED}")
    if sum(info.file_size for info in infos) > size or any(info.compress_type for info in infos):
        raise CheckpointError(f"{path} is a compressed zip file, which torch.save does not write; {_EXPECTED}")


def _read_pickle(path: Path, *, trust_pickle: bool) -> object:
    try:
        readable = importable(Path.cwd()) if trust_pickle else torch.serialization.safe_globals(list(_HARMLESS))
        with warnings.catch_warnings(), readable:
            warnings.simplefilter("ignore")  # torch's advice on loading, on which users cannot act
            content: object = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
            return content
    except (ModuleNotFoundError, AttributeError) as error:
        raise CheckpointError(
            f"{path} holds classes that cannot be imported here: {type_and_text(error)}",
            hint="run from the folder the model was trained in, or save model.state_dict() where it was trained",
        ) from error
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"class ([\w.]+)", str(error))
        if refused and not trust_pickle:
            raise (_foreign(path) or _untrusted(path, refused[1])) from error
        raise CheckpointError(f"{path} is no checkpoint, or damaged; {_EXPECTED}") from error
    except Exception as error:  # unpickling a damaged or hostile file raises many types
        raise CheckpointError(
            f"{path} is damaged, cut short or no checkpoint: {type_and_text(error)}", hint=f"copy it again; {_EXPECTED}"
        ) from error


def _read_arrays(path: Path) -> object:
    """Read a pickle that ``torch.save`` did not write; ``--trust-pickle`` is for those that it did."""
    try:
        return read_plain_pickle(path)
    except RefusedNameError as error:
        raise _foreign(path) or CheckpointError(
            f"{path} holds {error}, which is no array of numbers; it was not run", hint=_SAVE
        ) from error
    except Exception as error:  # unpickling a damaged or hostile file raises many types
        raise CheckpointError(
            f"{path} is damaged, or a pickle that torch.save did not write: {type_and_text(error)}", hint=_SAVE
        ) from error


def _foreign(path: Path) -> CheckpointError | None:
    """Return the error of a pickle with the names of another model's weights, or None; nothing is unpickled."""
    names: set[str] = set()
    with suppress(Exception), ExitStack() as stack:  # pickletools and zipfile raise many types
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
        if zipfile.is_zipfile(stream):
            archive = stack.enter_context(zipfile.ZipFile(stream))
            entry = next(info for info in archive.infolist() if info.filename.endswith("data.pkl"))
            stream = stack.enter_context(archive.open(entry))
        else:
            stream.seek(0)
        for _ in range(4):  # the content is the fourth of torch.save's own pickles
            texts = (argument for _, argument, _ in pickletools.genops(stream) if isinstance(argument, str))
            names.update(text for text in texts if len(text) < _LONGEST_NAME)
    other = other_model(names)
    return other and CheckpointError(f"{path} holds {other[0]}, expected a Faster R-CNN", hint=other[1])


def _untrusted(path: Path, refused: str) -> CheckpointError:
    if refused.startswith("ultralytics."):
        return CheckpointError(
            f"{path} is a YOLO model of ultralytics ({refused}), expected a Faster R-CNN",
            hint="export it with ultralytics itself",
        )
    return CheckpointError(
        f"{path} holds Python objects ({refused}) and not only weights; reading them runs code from the file",
        hint="save model.state_dict() instead; or, only if you trust whoever made the file with your system,"
        " --trust-pickle (trust_pickle=True) runs it",
    )
