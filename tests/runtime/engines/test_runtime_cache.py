"""TensorRT-RTX's compiled kernels on disk: whole or not there, and never a reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn.runtime.engines.runtime_cache import RuntimeCache, cache_key, default_folder

KEY = "0" * 64


def key(engine: bytes = b"engine", **changed: str) -> str:
    system = {
        "gpu": "A GPU",
        "compute_capability": "8.9",
        "driver_cuda_version": "13.0",
        "tensorrt_version": "1.7.1",
    }
    return cache_key(engine, **system | changed)


def test_every_part_of_the_key_counts() -> None:
    keys = {
        key(),
        key(b"another"),
        key(gpu="B"),
        key(compute_capability="8.6"),
        key(driver_cuda_version="13.1"),
        key(tensorrt_version="1.8.0"),
    }
    assert len(keys) == 6
    assert key() == key()
    assert {len(found) for found in keys} == {64}


def test_the_written_content_is_read(tmp_path: Path) -> None:
    cache = RuntimeCache(tmp_path / "new", KEY)
    assert cache.read() is None
    cache.write(b"kernels")
    assert RuntimeCache(tmp_path / "new", KEY).read() == b"kernels"
    assert RuntimeCache(tmp_path / "new", "1" * 64).read() is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == [cache.path.name]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 32 + b"kernels"])
def test_a_damaged_file_is_nothing_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    cache = RuntimeCache(tmp_path, KEY)
    cache.path.write_bytes(damage)
    assert cache.read() is None
    cache.write(b"kernels")
    assert cache.read() == b"kernels"


def test_one_flipped_bit_is_detected(tmp_path: Path) -> None:
    cache = RuntimeCache(tmp_path, KEY)
    cache.write(bytes(1000))
    stored = bytearray(cache.path.read_bytes())
    stored[500] ^= 1
    cache.path.write_bytes(stored)
    assert RuntimeCache(tmp_path, KEY).read() is None


def test_the_same_is_not_written_twice(tmp_path: Path) -> None:
    cache = RuntimeCache(tmp_path, KEY)
    cache.write(b"kernels")
    cache.path.unlink()
    cache.write(b"kernels")
    assert not cache.path.exists()
    cache.write(b"more kernels")
    assert cache.read() == b"more kernels"


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = RuntimeCache(tmp_path / "file", KEY)
    for content in (b"kernels", b"more kernels"):
        cache.write(content)
        assert cache.read() is None
    assert caplog.messages == [
        f"frcnn: nothing is kept in the cache {cache.folder}: cannot make the folder {cache.folder}: File exists; "
        "FRCNN_CACHE_DIR names another folder"
    ]


def test_the_least_recently_used_files_are_removed_first(tmp_path: Path) -> None:
    caches = [RuntimeCache(tmp_path, str(number) * 64, max_bytes=3000) for number in range(4)]
    for age, cache in zip((400, 300, 200), caches[:3], strict=True):
        cache.write(bytes(900))
        when = cache.path.stat().st_mtime - age
        os.utime(cache.path, (when, when))
    assert caches[0].read() is not None  # so it is not the oldest any more
    caches[3].write(bytes(900))
    assert [cache.path.exists() for cache in caches] == [True, False, True, True]
    (tmp_path / "not ours").write_bytes(bytes(5000))
    small = RuntimeCache(tmp_path, "5" * 64, max_bytes=10)
    small.write(bytes(900))
    assert sorted(path.name for path in tmp_path.iterdir()) == [small.path.name, "not ours"]


PROCESS = """
import sys
from pathlib import Path
from frcnn.runtime.engines.runtime_cache import RuntimeCache
cache = RuntimeCache(Path(sys.argv[1]), "0" * 64)
for round in range(30):
    cache.write(sys.argv[2].encode() * (1000 + round))
    found = RuntimeCache(Path(sys.argv[1]), "0" * 64).read()
    assert found is not None and set(found) in ({ord("a")}, {ord("b")}), "half of a file was read"
"""


def test_processes_never_read_half_of_a_file(tmp_path: Path) -> None:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), letter], env=environment) for letter in "ab"
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_cache_is_beside_that_of_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    assert default_folder() == tmp_path / "tensorrt-rtx"
