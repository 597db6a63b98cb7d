"""Timing caches: what is read, refused, replaced and written, with a TensorRT that times nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from frcnn.errors import ExportError, OutputError, UsageError
from frcnn.exporter.engine.builder import attach_timing_cache, timing_cache_beside, write_timing_cache
from frcnn.exporter.engine.network import Messages

OWN, OTHERS = b"of this GPU", b"of another GPU"


class Config:
    """A builder's configuration that takes empty caches and its own, and adds a time to the cache that it is given."""

    def __init__(self, *, refuses: tuple[bytes, ...] = (OTHERS,), makes: bool = True) -> None:
        self._refuses, self._makes = refuses, makes
        self.taken: bytes | None = None

    def create_timing_cache(self, stored: bytes) -> Any:
        return SimpleNamespace(stored=stored, serialize=lambda: OWN) if self._makes else None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.stored in self._refuses:
            return False
        self.taken = cache.stored
        return True


@pytest.fixture
def network() -> Any:
    return SimpleNamespace(messages=Messages())


def test_a_second_build_reads_what_the_first_has_written(network, tmp_path):
    path = timing_cache_beside(tmp_path / "my.model.frcnn")
    assert path.name == "my.model.timing"
    first, second = Config(), Config()
    write_timing_cache(attach_timing_cache(network, first, path, replace=False), path)
    assert (first.taken, path.read_bytes()) == (b"", OWN)
    attach_timing_cache(network, second, path, replace=False)
    assert second.taken == OWN


def test_a_named_cache_of_another_gpu_is_refused(network, tmp_path):
    path = tmp_path / "a.timing"
    path.write_bytes(OTHERS)
    with pytest.raises(
        UsageError, match=r"--timing-cache: .*a\.timing is no timing cache of this TensorRT on this GPU"
    ):
        attach_timing_cache(network, Config(), path, replace=False)
    assert path.read_bytes() == OTHERS


def test_the_cache_beside_the_artifact_is_replaced_if_it_is_of_another_gpu(network, tmp_path, caplog):
    path, config = tmp_path / "a.timing", Config()
    path.write_bytes(OTHERS)
    cache = attach_timing_cache(network, config, path, replace=True)
    assert (config.taken, path.read_bytes()) == (b"", OTHERS)  # the file is written after the build only
    assert "a.timing is no timing cache of this TensorRT on this GPU; a new one takes its place" in caplog.text
    write_timing_cache(cache, path)
    assert path.read_bytes() == OWN


@pytest.mark.parametrize("config", [Config(refuses=(b"",)), Config(makes=False)])
def test_a_tensorrt_without_timing_caches_is_an_error(config, network, tmp_path):
    with pytest.raises(ExportError, match="TensorRT makes no timing cache"):
        attach_timing_cache(network, config, tmp_path / "a.timing", replace=True)


def test_a_file_that_cannot_be_written_is_found_before_the_build(network, tmp_path):
    with pytest.raises(OutputError, match="it is a folder"):
        attach_timing_cache(network, Config(), tmp_path, replace=True)
