"""Tests that read and leave something wherever a careless one would; test_home_untouched.py runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir

from frcnn.plugins.cuda.kernel_cache import default_cache
from frcnn.runtime.engines.tensorrt_engine import default_runtime_cache
from support.own_folders import VARIABLES


def test_no_variable_names_a_folder_of_the_users() -> None:
    named = {name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith("XDG_")}
    ours = os.environ["FRCNN_TEST_FOLDERS"]  # torch names one below it
    assert {name: value for name, value in named.items() if not value.startswith(ours)} == {}


def test_onnx_runtime_has_not_begun_to_gather_what_it_tells() -> None:
    assert not Path.home().joinpath(".cache/Microsoft").exists()


def test_kernels_are_kept_in_the_default_cache() -> None:
    default_cache().write(b"key", b"code")
    assert default_cache().read(b"key") == b"code"


def test_engines_are_kept_in_the_default_cache() -> None:
    default_runtime_cache().write(b"key", b"kernels")
    assert default_runtime_cache().read(b"key") == b"kernels"


def test_torch_keeps_weights_and_compiled_code() -> None:
    for folder in (torch.hub.get_dir(), cache_dir()):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "kept").write_bytes(b"kept")


def test_matplotlib_reads_settings_and_keeps_fonts() -> None:
    matplotlib.rc_file_defaults()
    for folder in (matplotlib.get_configdir(), matplotlib.get_cachedir()):
        Path(folder, "kept").write_bytes(b"kept")


def test_a_temporary_file_has_a_fixed_name() -> None:
    Path(tempfile.gettempdir(), "frcnn.log").write_text("careless")


def test_a_process_writes_into_its_home() -> None:
    code = "import pathlib, tempfile; (pathlib.Path.home() / '.frcnnrc').touch(); tempfile.mkstemp()"
    subprocess.run([sys.executable, "-c", code], check=True)
