"""The shim that runs kernels on the CPU catches what it is there to catch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.simt import require_compiler, run_on_host
from torch import Tensor

from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator import Tensor as TensorSpec

TESTS = Path(__file__).parent.parent
PROBES = TESTS / "support" / "simt" / "probes" / "probes.cu"


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


def probe(fault: int) -> Kernel:
    shape = ("B", "T")
    return Kernel(
        entry="reverse_block",
        plugin="",
        source=str(PROBES),
        constants={"FAULT": fault},
        inputs=(TensorSpec(name="values", element="int32", shape=shape),),
        integers=("T",),
        outputs=(TensorSpec(name="reversed", element="int32", shape=shape),),
        grid=("B", "1", "1"),
        block=(64, 1, 1),
    )


VALUES = torch.arange(3 * 64, dtype=torch.int32).reshape(3, 64)


def run(fault: int, schedule: str = "forward") -> Tensor:
    return run_on_host([probe(fault)], {"values": VALUES}, schedule=schedule)["reversed"]


@pytest.mark.parametrize("schedule", ["forward", "reverse", "shuffled"])
def test_a_correct_kernel_is_correct_in_every_order(schedule):
    assert torch.equal(run(0, schedule), VALUES.flip(1))


def test_a_missing_barrier_shows():
    assert any(not torch.equal(run(1, schedule), VALUES.flip(1)) for schedule in ("forward", "reverse", "shuffled"))


def test_a_write_past_the_end_is_raised_or_ends_the_process():
    done = in_subprocess(2)
    assert done.returncode != 0


def test_a_read_past_the_end_ends_the_process():
    done = in_subprocess(8)
    assert done.returncode != 0
    assert "AssertionError" not in done.stderr


def test_the_subprocess_itself_is_fine():
    assert in_subprocess(0).returncode == 0


def in_subprocess(fault: int) -> subprocess.CompletedProcess[str]:
    code = f"import test_simt; test_simt.run({fault})"
    folders = [str(TESTS / "plugins"), str(TESTS), str(TESTS.parent / "src")]
    code = f"import sys; sys.path[:0] = {folders!r}; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_a_block_that_hangs_is_raised():
    with pytest.raises(RuntimeError, match="reverse_block: the block hangs"):
        run(3)


def test_a_vote_that_names_a_thread_that_left_is_raised():
    with pytest.raises(RuntimeError, match="names lane 16, which is not there"):
        run(4)


def test_shared_memory_is_garbage_until_it_is_written():
    assert (run(5) == torch.tensor(0xCDCDCDCD - 2**32, dtype=torch.int32)).all()


def test_a_write_into_an_input_is_raised():
    with pytest.raises(AssertionError, match="a write into the input values"):
        run(6)


def test_votes_shuffles_and_counts():
    expected = torch.tensor([10_003] * 32 + [10_035] * 32, dtype=torch.int32).expand(3, 64)
    assert torch.equal(run(7), expected)
    assert torch.equal(run(7, "shuffled"), expected)


def test_a_source_that_does_not_compile_shows_the_compilers_words():
    broken = probe(0)
    object.__setattr__(broken, "constants", {"FAULT": "(("})
    with pytest.raises(RuntimeError, match="cannot compile this kernel for the host"):
        run_on_host([broken], {"values": VALUES})


def test_half_conversions_are_those_of_torch():
    """Through the pooling kernel, which converts: one cell, one bin, the value itself."""
    from frcnn.plugins.multiscale_roi_pool.kernel import kernels

    attributes = {"output_height": 1, "output_width": 1, "spatial_scales": [1.0], "level_thresholds": [3.4e38]}
    patterns = torch.arange(0, 65536, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    finite = patterns[patterns.isfinite()].reshape(1, -1, 1, 1)
    rois = torch.zeros(1, 1, 4)
    for element, values in (("float16", finite), ("bfloat16", finite.bfloat16())):
        pooled = run_on_host(kernels(element=element, **attributes), {"rois": rois, "feature_0": values})["pooled"]
        assert torch.equal(pooled.view(torch.int16), values.view(torch.int16))


def test_a_float_is_rounded_to_half_as_torch_rounds():
    from frcnn.plugins.preprocess import kernels

    generator = torch.Generator().manual_seed(0)
    scale = float(torch.rand(1, generator=generator)) * 1e-3
    picture = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).reshape(1, 256, 3).contiguous()
    table = torch.tensor([[picture.data_ptr(), 1, 256, 768, 3, 1, 1, 256]], dtype=torch.int64)
    for magnitude in (scale, 1e-9, 3e4):
        normalisation = {"image_mean": (0.1, 0.5, 0.9), "image_std": (magnitude, 1 / magnitude, 1.0)}
        sizes = {"H": 1, "W": 256}
        found = {
            element: run_on_host(kernels(element=element, **normalisation), {"pictures": table}, sizes=sizes)["images"]
            for element in ("float32", "float16", "bfloat16")
        }
        assert torch.equal(found["float16"], found["float32"].half())
        assert torch.equal(found["bfloat16"], found["float32"].bfloat16())
