"""Checkpoints of others: nothing in them runs, memory is bounded, and what is accepted is plain numbers."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from support.hostile.pickles import HARMLESS, in_torch_zip, runs_code
from support.hostile.watch import memory_below, misdeeds

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.file import read_checkpoint_file
from frcnn.exporter.checkpoint.layout import find_weights

SCORES = "roi_heads.box_predictor.cls_score.weight"


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read(tmp_path, data, name="my.pth"):
    path = tmp_path / name
    path.write_bytes(data)
    content = read_checkpoint_file(path)[0]
    return find_weights(content, source=name)


def refused(tmp_path, data, name="my.pth"):
    with pytest.raises(CheckpointError) as raised:
        read(tmp_path, data, name)
    assert raised.value.message.isprintable()
    assert raised.value.hint or "expected a PyTorch checkpoint" in raised.value.message
    return raised.value.message


@pytest.mark.parametrize("packed", [False, True], ids=["pickle", "zip"])
@pytest.mark.parametrize("way", runs_code())
def test_no_pickle_runs_anything(tmp_path, way, packed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "it-ran"
    data = runs_code(command=f"touch {mark}", python=f"open({str(mark)!r}, 'w')")[way]
    path = tmp_path / "my.pth"
    path.write_bytes(in_torch_zip(data) if packed else data)
    with misdeeds(tmp_path / "nowhere") as seen, pytest.raises(CheckpointError) as raised:
        find_weights(read_checkpoint_file(path)[0], source="my.pth")
    assert seen == []
    assert sorted(tmp_path.iterdir()) == [path]
    assert raised.value.message.isprintable()


def test_the_same_pickles_run_when_unpickled(tmp_path, monkeypatch):
    """Show that the test above would notice."""
    monkeypatch.chdir(tmp_path)
    with misdeeds(tmp_path) as seen:
        pickle.loads(runs_code(command="touch it-ran")["os.system"])
    assert any("os.system" in deed for deed in seen)
    assert (tmp_path / "it-ran").exists()


def test_what_training_scripts_keep_beside_the_weights_is_read(tmp_path):
    beside = {**HARMLESS, "best": np.float64(0.5), "count": np.int32(3), "ok": np.bool_(True)}
    found = read(tmp_path, saved({"model": {SCORES: torch.ones(2, 3)}, **beside}))
    assert found.state[SCORES].shape == (2, 3)


def deflated(data, **larger):
    """The same zip, compressed, with some of its parts replaced by others."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, larger.get(name.rpartition("/")[2], old.read(name)))
    return buffer.getvalue()


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path):
    data = saved({SCORES: torch.ones(2, 3)})
    assert "is a compressed zip file" in refused(tmp_path, deflated(data, **{"data.pkl": bytes(1 << 25)}))


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    data = bytearray(saved({SCORES: torch.ones(2, 3)}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<2L", 1 << 30, 1 << 30)
    assert "is a compressed zip file" in refused(tmp_path, data)


def test_an_endless_directory_takes_no_memory(tmp_path):
    path = tmp_path / "my.pth"
    with path.open("wb") as file:  # sparse: 128 MB of directory that take no disk
        file.write(saved({}))
        file.seek(1 << 27)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 99, 99, (1 << 27) - 500, 500, 0))
    with memory_below(64 << 20), pytest.raises(CheckpointError, match="no readable zip directory"):
        read_checkpoint_file(path)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    data = saved({SCORES: torch.ones(1).expand(10**6, 10**5)})
    assert len(data) < 2000
    message = refused(tmp_path, data)
    assert message == f"my.pth: {SCORES} (1000000, 100000) would have 400,000,000,000 bytes, the file has 4 for it"


def test_a_small_tensor_may_repeat_its_numbers(tmp_path):
    assert read(tmp_path, saved({SCORES: torch.ones(1).expand(20, 30)})).state[SCORES].shape == (20, 30)


class _Scalar:
    """Pickles as a NumPy number of 2 GB."""

    def __init__(self, *arguments):
        self._arguments = arguments

    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (np.dtype("V2000000000"), *self._arguments)


@pytest.mark.parametrize("arguments", [(), (b"",), (None,)])
def test_a_huge_numpy_scalar_is_refused(tmp_path, arguments):
    data = in_torch_zip(pickle.dumps({"x": _Scalar(*arguments)}, protocol=2))
    assert "is no checkpoint, or damaged" in refused(tmp_path, data)


def test_a_mapping_repeated_many_times_is_walked_once(tmp_path):
    content = dict.fromkeys(range(3000))
    for _ in range(3):
        content = dict.fromkeys(range(3000), content)  # 81 billion entries, written out
    message = refused(tmp_path, in_torch_zip(pickle.dumps(content, protocol=2)))
    assert "found a dictionary with 0, 1, 2, 3, 4, 5" in message


def test_a_message_shortens_an_endless_key(tmp_path):
    key = (1,)
    for _ in range(20):
        key = (key, key)
    message = refused(tmp_path, in_torch_zip(pickle.dumps({key: 1, "x" * 5000: 2}, protocol=2)))
    assert "a dictionary with a tuple, 'xxx" in message
    assert len(message) < 2100


@pytest.mark.filterwarnings("ignore:.*[Ss]parse:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["sparse_coo", "meta", "qint8"])
def test_tensors_that_are_not_plain_numbers_are_refused(tmp_path, kind):
    plain = torch.ones(2, 3)
    tensor = {
        "sparse_coo": lambda: plain.to_sparse(),
        "meta": lambda: plain.to("meta"),
        "qint8": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
    }[kind]()
    message = refused(tmp_path, saved({SCORES: tensor}))
    assert kind in message and "expected plain numbers" in message


def test_deep_json_in_the_metadata_of_safetensors_is_text(tmp_path):
    data = save_safetensors({SCORES: torch.ones(2, 3)}, metadata={"labels": "[" * 50_000, "classes": '["cat"]'})
    assert read(tmp_path, data, "my.safetensors").labels == ("cat",)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [2**63, 4], "data_offsets": [0, 4]}},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
    ],
)
def test_a_header_of_safetensors_that_lies_is_refused(tmp_path, header):
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(4)
    assert "is damaged or no safetensors file" in refused(tmp_path, data, "my.safetensors")


def array_state(**changes):
    """A pickle of one array, as Detectron2's zoo has them, whose parts may be others."""

    class Array:
        def __reduce__(self):
            function, given, state = np.ones(3, "f4").__reduce__()
            parts = dict(zip(("version", "shape", "dtype", "order", "data"), state, strict=True)) | changes
            return function, given, tuple(parts.values())

    return pickle.dumps({"model": {SCORES: Array()}}, protocol=2)


def test_a_pickle_of_arrays_is_read(tmp_path):
    assert read(tmp_path, array_state(), "my.pkl").state[SCORES].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"shape": (1 << 40,)}, "has not the bytes for it"),
        ({"shape": (-1,)}, "has not the bytes for it"),
        ({"shape": (2, True)}, "no array of numbers"),
        ({"shape": (0,) * 99, "data": b""}, "ValueError"),
        ({"dtype": np.dtype("O"), "data": [1, 2, 3]}, "'O8', which are no plain numbers"),
        ({"dtype": np.dtype("V2000000000")}, "'V2000000000', which are no plain numbers"),
        ({"dtype": np.dtype([("a", "O")])}, "no plain numbers"),
        ({"dtype": "f4"}, "no array of numbers"),
        ({"data": [1.0, 2.0, 3.0]}, "has not the bytes for it"),
        ({"data": None}, "has not the bytes for it"),
    ],
)
def test_arrays_that_lie_are_refused(tmp_path, changes, expected):
    with memory_below(64 << 20):
        assert expected in refused(tmp_path, array_state(**changes), "my.pkl")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\nK\x00\x85U\x01b\x87R.", "holds os.system, which"),
        (b"\x80\x02}(X\x01\x00\x00\x00acnumpy\nload\nu.", "holds numpy.load, which"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "holds os.system, which"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}\x85R.", "an array of a class of its own"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00base64\x86R.", "bytes as text in 'base64'"),
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little"), "KeyError"),
        (b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little"), "EOFError"),
        (b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little"), "EOFError"),
        (b"\x80\x02]r\xff\xff\xff\x7f" + b"." * 40, "holds no weights"),
        (b"\x80\x02}(" + b")" + b"\x85" * 3 + b"K\x01u.", "a tuple as key of a dictionary"),
        (b"\x80\x02c_codecs\nencode\nN}(X\x01\x00\x00\x00aK\x01u\x86b.", "a state of a function"),
        (b"\x80\x02cnumpy\nndarray\n}b.", "a state of a type"),
        (b"\x80\x02\x82\x01.", "KeyError"),
        (b"\x80\x02P0\n.", "KeyError"),
    ],
)
def test_pickles_that_are_no_arrays_are_refused(tmp_path, data, expected):
    with memory_below(64 << 20), misdeeds(tmp_path) as seen:
        message = refused(tmp_path, data, "my.pkl")
    assert expected in message
    assert seen == []


class HistoryBuffer:
    """As MMEngine's pickles: with methods, which are pickled by getattr of the class."""

    def mean(self):
        return 0


def test_what_mmengine_keeps_beside_the_weights_is_neither_imported_nor_kept(tmp_path):
    buffer = HistoryBuffer()
    buffer.history, buffer.methods = np.ones(3), {"mean": HistoryBuffer.mean}
    data = saved({"state_dict": {SCORES: torch.ones(2, 3)}, "message_hub": {"loss": buffer}})
    name = f"c{HistoryBuffer.__module__}\nHistoryBuffer\n".encode()
    assert name in data
    renamed = zipped(data, name, b"cmmengine.logging.history_buffer\nHistoryBuffer\n")
    with misdeeds(tmp_path) as seen:
        assert read(tmp_path, renamed).state[SCORES].shape == (2, 3)
    assert seen == []
    other = zipped(data, name, b"cmmengine.logging.history_buffer\nMessageHub\n")
    assert "holds Python objects (mmengine.logging.history_buffer.MessageHub)" in refused(tmp_path, other)


def zipped(data, old, new):
    """The same zip, stored, with other bytes in its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(buffer, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name).replace(old, new))
    return buffer.getvalue()


def test_getattr_of_a_pickle_gets_nothing(tmp_path):
    """It stands for something inert: a chain of it reaches no function."""
    call = b"c__builtin__\ngetattr\nc__builtin__\ngetattr\nX\x05\x00\x00\x00\x5f\x5f\x61\x5f\x5f\x86R"
    data = b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s."
    assert "holds no weights" in refused(tmp_path, in_torch_zip(data))
    called = b"\x80\x02" + call + b"X\x04\x00\x00\x00true\x85R."
    assert "no checkpoint, or damaged" in refused(tmp_path, in_torch_zip(called))
