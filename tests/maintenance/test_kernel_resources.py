"""Every kernel source is built for every architecture, without spills, and keeps within what a block may take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from maintenance.kernel_forms import ARCHITECTURES, every_kernel
from maintenance.kernel_resources import resource_usage
from support.operator_forms import attributes_of

from frcnn.errors import KernelError
from frcnn.plugins.kernel import KERNEL_FOLDER, Kernel
from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.operator_kernels import kernels_for

pytestmark = pytest.mark.slow

SURVEY = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "kernel-resources.json"
MAX_SHARED_BYTES = 48 * 1024  # of a block that does not ask for more
REGISTERS = 65_536  # of a multiprocessor
HOPPER = "sm_90"
HOPPER_SHARED_BYTES = 228 * 1024  # of a multiprocessor
HOPPER_RESERVED_BYTES = 1024  # of them by the driver, for each block
ALL = every_kernel()
# one form of each source on every architecture, every form on one
ONE_OF_EACH = {kernel.source: label for label, kernel in reversed(ALL.items())}


def check(kernel: Kernel, architecture: str, record) -> None:
    found = resource_usage(kernel, architecture)
    record(f"{kernel.entry} {architecture}", str(found))
    assert (found.spill_bytes, found.stack_bytes) == (0, 0)
    assert found.shared_bytes <= MAX_SHARED_BYTES
    threads = kernel.block[0] * kernel.block[1] * kernel.block[2]
    assert found.registers * threads <= REGISTERS


def test_every_source_is_among_them():
    sources = {str(file.relative_to(KERNEL_FOLDER.resolve())) for file in KERNEL_FOLDER.resolve().rglob("*.cu")}
    assert set(ONE_OF_EACH) == sources


@pytest.mark.parametrize("label", list(ALL))
def test_every_form_of_every_kernel(label, record_property):
    check(ALL[label], HOPPER, record_property)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != HOPPER])
@pytest.mark.parametrize("source", sorted(ONE_OF_EACH))
def test_every_source_on_every_architecture(source, architecture, record_property):
    check(ALL[ONE_OF_EACH[source]], architecture, record_property)


def test_the_committed_survey_has_every_form_on_every_architecture_and_no_spill():
    rows = json.loads(SURVEY.read_text(encoding="utf-8"))["rows"]
    assert [(row["kernel"], row["architecture"]) for row in rows] == [(k, a) for k in ALL for a in ARCHITECTURES]
    assert {(row["spill_bytes"], row["stack_bytes"]) for row in rows} == {(0, 0)}


STAGED = [label for label in ALL if "channels_last to planar" in label]


@pytest.mark.parametrize("label", STAGED)
def test_registers_and_not_the_stage_limit_the_blocks_of_a_multiprocessor_of_hopper(label):
    found = resource_usage(ALL[label], HOPPER)
    assert HOPPER_SHARED_BYTES // (found.shared_bytes + HOPPER_RESERVED_BYTES) == 8
    registers_of_warp = 32 * 8 * -(-found.registers // 8)
    assert 3 <= REGISTERS // registers_of_warp // (ALL[label].block[0] // 32) <= 6


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_a_thousand_rois_are_on_132_multiprocessors_of_hopper_at_once(element):
    label = f"multiscale_roi_align 4 levels, 256 channels, channels_last to channels_last, sampling 2, {element}"
    found, warps = resource_usage(ALL[label], HOPPER), ALL[label].block[0] // 32
    assert found.registers <= 40
    warps_of_a_quarter = REGISTERS // 4 // (32 * 8 * -(-found.registers // 8))
    assert 132 * (4 * warps_of_a_quarter // warps) >= 1000


def align(layouts: tuple[str, str], width: int, sampling_ratio: int) -> Kernel:
    chosen: dict[str, Any] = dict(zip(("layout", "output_layout"), layouts, strict=True))
    chosen |= {"spatial_scales": (0.25,), "level_thresholds": (1e9,), "sampling_ratio": sampling_ratio, "aligned": 0}
    (kernel,) = align_kernels(element="float16", output_height=8, output_width=width, **chosen)
    return kernel


@pytest.mark.parametrize(
    ("layouts", "widest", "takes", "wider_needs"),
    [
        (("planar", "planar"), 181, 49_140, 49_400),
        (("channels_last", "channels_last"), 181, 49_140, 49_400),
        (("channels_last", "planar"), 121, 49_032, 49_420),
    ],
)
def test_the_widest_grid_compiles_and_a_wider_one_is_refused(layouts, widest, takes, wider_needs):
    assert resource_usage(align(layouts, widest, 16), HOPPER).shared_bytes == takes
    with pytest.raises(KernelError) as caught:
        align(layouts, widest + 1, 16)
    assert str(caught.value) == (
        f"a block has 49152 bytes of shared memory, got output_height 8, output_width {widest + 1} and "
        f"sampling_ratio 16, which need {wider_needs} (choose a smaller grid or a smaller sampling_ratio)"
    )


def test_samples_take_of_the_stage_what_they_need():
    roomy, tight = align(("channels_last", "planar"), 100, 2), align(("channels_last", "planar"), 100, 16)
    assert (roomy.constants["CHANNELS_PER_BLOCK"], tight.constants["CHANNELS_PER_BLOCK"]) == (16, 8)
    assert resource_usage(roomy, HOPPER).shared_bytes == 108 * 36 + 2 * (800 * 16 + 4)
    assert resource_usage(tight, HOPPER).shared_bytes == 108 * 260 + 800 * 16 + 4


def test_resources_are_those_of_the_assembler():
    (resolve,) = (
        k for k in kernels_for("RegionProposals", attributes_of("RegionProposals", 3)) if "resolve" in k.entry
    )
    found = resource_usage(resolve, "sm_90")
    assert 16 <= found.registers <= 64  # 1,024 threads share 65,536
    assert found.shared_bytes == -(-1000 // 32) * 4  # the kept ones of each tile of 1,000 candidates
    assert (found.stack_bytes, found.spill_bytes) == (0, 0)


def test_a_spill_is_reported(tmp_path):
    source = tmp_path / "greedy.cu"
    body = "\n".join(f"float v{i} = in[{i} * threadIdx.x];" for i in range(200))
    total = " + ".join(f"v{i} * v{199 - i}" for i in range(200))
    text = f'extern "C" __global__ void __launch_bounds__(1024, 2) k(const volatile float* in, float* out) {{ {body}\n'
    source.write_text(text + f"__syncthreads(); out[threadIdx.x] = {total}; }}", encoding="utf-8")
    found = resource_usage(replace(next(iter(ALL.values())), entry="k", source=str(source)), "sm_90")
    assert found.spill_bytes > 0
    assert found.stack_bytes > 0
