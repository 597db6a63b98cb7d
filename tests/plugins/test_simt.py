"""The shim that runs kernels on the CPU detects their faults."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.simt import library, require_compiler, run_on_host
from support.simt.memory import GuardedTensor
from torch import Tensor

from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator import Tensor as TensorSpec

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent.parent
PROBES = TESTS / "support" / "simt" / "probes"
SCHEDULES = ("forward", "reverse", "shuffled")


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


def kernel_of(entry: str, source: str, inputs: dict[str, Any], outputs: dict[str, Any], **given: Any) -> Kernel:
    """Return the kernel of a probe; inputs and outputs are (element, *shape) by name."""
    tensors = [
        tuple(TensorSpec(name=name, element=element, shape=shape) for name, (element, *shape) in of.items())
        for of in (inputs, outputs)
    ]
    defaults = {"constants": {}, "grid": ("1", "1", "1"), "block": (64, 1, 1)}
    kernel = {"entry": entry, "plugin": "", "source": str(PROBES / source), "inputs": tensors[0], "outputs": tensors[1]}
    return Kernel(**kernel, **defaults | given)


def probe(fault: Any, **changed: Any) -> Kernel:
    tensors = ({"values": ("int32", "B", "T")}, {"reversed": ("int32", "B", "T")})
    given = {"constants": {"FAULT": fault}, "integers": ("T",), "grid": ("B", "1", "1")}
    return dataclasses.replace(kernel_of("reverse_block", "probes.cu", *tensors, **given), **changed)


VALUES = torch.arange(3 * 64, dtype=torch.int32).reshape(3, 64)


def run(fault: int, schedule: str = "forward") -> Tensor:
    return run_on_host([probe(fault)], {"values": VALUES}, schedule=schedule)["reversed"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_correct_kernel_is_correct_in_every_order(schedule):
    assert torch.equal(run(0, schedule), VALUES.flip(1))


def test_a_missing_barrier_shows():
    assert any(not torch.equal(run(1, schedule), VALUES.flip(1)) for schedule in SCHEDULES)


def test_only_barriers_of_the_block_synchronise_warps():
    intended = (1063 - torch.arange(64, dtype=torch.int32)).expand(3, 64)
    assert all(not torch.equal(run(16, schedule), intended) for schedule in SCHEDULES)


def test_a_write_past_the_end_is_raised_or_ends_the_process():
    assert in_subprocess(2).returncode != 0
    assert in_subprocess(0).returncode == 0


@pytest.mark.parametrize(
    ("fault", "schedule"),
    [(7, "forward"), (15, "reverse"), (14, "forward")],
    ids=["a read past the end", "a read before the start", "a stack that overflows"],
)
def test_a_fault_of_memory_ends_the_process(fault, schedule):
    assert in_subprocess(fault, schedule).returncode in (-signal.SIGSEGV, -signal.SIGBUS)


def in_subprocess(fault: int, schedule: str = "forward") -> subprocess.CompletedProcess[str]:
    code = f"import test_simt; test_simt.run({fault}, {schedule!r})"
    folders = [str(TESTS / "plugins"), str(TESTS), str(TESTS.parent / "src")]
    code = f"import sys; sys.path[:0] = {folders!r}; {code}"
    with tempfile.TemporaryDirectory() as folder:  # a process that crashes does not clean up
        environment = dict(os.environ, TMPDIR=folder)
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (3, r"the block hangs: thread \d+ waits at __syncwarp \(line \d+\) for lanes that do not come"),
        (4, r"__ballot_sync \(line \d+\) of thread \d+ names lane 16, which is not there"),
        (8, r"thread \d+ is at (__any_sync|__shfl_sync) \(line \d+\), its partner \d+ at (__any_sync|__shfl_sync)"),
        (9, r"__shfl_sync \(line \d+\) of thread \d+ reads lane 20, which takes no part"),
        (10, r"__syncwarp \(line \d+\) of thread \d+ does not name its own lane"),
        (11, r"the block hangs: thread 0 waits at __syncthreads \(line \d+\), thread 32 at __syncthreads"),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_threads_that_wait_wrongly_are_raised(fault, message, schedule):
    with pytest.raises(RuntimeError, match=f"reverse_block: {message}"):
        run(fault, schedule)


@pytest.mark.parametrize(("fault", "message"), [(12, "overflow"), (13, "insufficient space|out of bounds")])
def test_undefined_behaviour_is_raised_each_time(fault, message):
    if not library._sanitizer():
        pytest.skip("this compiler has no library that finds undefined behaviour")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"undefined behaviour in thread \d+, .*probes\.cu:\d+: .*({message})"):
            run(fault)


def test_a_failure_leaves_nothing_behind():
    for fault in (3, 4):
        with pytest.raises(RuntimeError):
            run(fault)
        assert torch.equal(run(0), VALUES.flip(1))


def test_shared_memory_is_garbage_until_it_is_written():
    assert (run(5) == torch.tensor(0xCDCDCDCD - 2**32, dtype=torch.int32)).all()


@pytest.mark.parametrize("schedule", ["forward", "reverse"])
def test_a_write_beside_a_tensor_is_raised(schedule):
    made = GuardedTensor((3,), torch.int32, after_page=schedule == "reverse")
    beside = made.pointer + 12  # of the 16 bytes that alignment gives it
    ctypes.memset(beside, 1, 1)
    with pytest.raises(AssertionError, match="a write beside it"):
        made.result("it")


def test_a_kernel_may_not_write_into_what_the_one_before_it_made():
    first = probe(0)
    second = probe(6, inputs=first.outputs, outputs=(dataclasses.replace(first.outputs[0], name="again"),))
    with pytest.raises(AssertionError, match="a write into the input reversed"):
        run_on_host([first, second], {"values": VALUES})


def test_channels_last_maps_keep_their_layout():
    shape, layouts = ("B", "C", "1", "W"), {"values": "channels_last", "reversed": "channels_last"}
    (values,), (reversed_values,) = probe(0).inputs, probe(0).outputs
    tensors = {
        "inputs": (dataclasses.replace(values, shape=shape),),
        "outputs": (dataclasses.replace(reversed_values, shape=shape),),
    }
    kernel = probe(0, integers=("C*W",), layouts=layouts, **tensors)
    values = VALUES.reshape(3, 4, 1, 16)
    last = values.to(memory_format=torch.channels_last)
    reversed_ = run_on_host([kernel], {"values": last})["reversed"]
    in_memory = last.permute(0, 2, 3, 1).reshape(3, 64).flip(1)
    assert torch.equal(reversed_, in_memory.reshape(3, 1, 16, 4).permute(0, 3, 1, 2))
    assert reversed_.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(AssertionError, match=r"values must lie torch\.channels_last"):
        run_on_host([kernel], {"values": values})


def test_a_write_into_an_input_is_raised():
    with pytest.raises(AssertionError, match="a write into the input values"):
        run(6)


VOTERS = np.arange(96) * 7 % 101
"""A number for each thread of a block of three warps; thread 10 has the 70."""


def found_by(case: int, rows: int, schedule: str) -> list[list[int]]:
    tensors = ({"values": ("int32", "T")}, {"found": ("int64", "K", "T")})
    given = {"constants": {"CASE": case}, "integers": ("T",), "block": (16, 6, 1)}
    kernel = kernel_of("collectives", "collectives.cu", *tensors, **given)
    values = torch.from_numpy(VOTERS.astype(np.int32))
    return run_on_host([kernel], {"values": values}, sizes={"K": rows}, schedule=schedule)["found"].tolist()


def ballot(voted: np.ndarray, lanes: range = range(32)) -> list[int]:
    return [sum(int(voted[t // 32 * 32 + lane]) << lane for lane in lanes) for t in range(96)]


def from_lane(source) -> list[int]:
    return [int(VOTERS[t // 32 * 32 + source(t % 32)]) for t in range(96)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_collectives_of_a_warp(schedule):
    yes = VOTERS % 3 == 0
    warps = VOTERS.reshape(3, 32)
    expected = [
        ballot(yes),
        (warps == 70).any(1).repeat(32).tolist(),
        (warps < 90).all(1).repeat(32).tolist(),
        from_lane(lambda lane: lane * 5 % 32),
        from_lane(lambda lane: lane // 8 * 8 + 3),
        from_lane(lambda lane: lane - 2 if lane >= 2 else lane),
        from_lane(lambda lane: lane - 3 if lane % 16 >= 3 else lane),
        from_lane(lambda lane: lane + 2 if lane < 30 else lane),
        from_lane(lambda lane: lane + 3 if lane % 16 < 13 else lane),
        from_lane(lambda lane: lane ^ 5),
        from_lane(lambda lane: lane ^ 12 if lane ^ 12 <= lane | 7 else lane),
        [(1 << 40) + value for value in from_lane(lambda _: 31)],
        [2 * value + 1 for value in from_lane(lambda lane: lane ^ 1)],
        [
            (low if t % 32 < 8 else high)
            for t, (low, high) in enumerate(zip(ballot(yes, range(8)), ballot(yes, range(8, 32)), strict=True))
        ],
    ]
    assert found_by(0, len(expected), schedule) == expected


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_collectives_of_a_block(schedule):
    expected = [[int((VOTERS % 3 == 0).sum())] * 96, [1] * 96, [0] * 96, [1] * 96, [0] * 96]
    assert found_by(1, len(expected), schedule) == expected


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_collectives_of_threads_that_passed_different_barriers_or_left(schedule):
    yes = VOTERS % 3 == 0
    expected = [ballot(yes), [int(yes.sum())] * 96, [96] * 96]
    *before, last = found_by(2, 4, schedule)
    assert before == expected
    assert last[:32] == [32] * 32


def test_values_are_those_of_cuda():
    numbers = np.float32([1.0, 3.0, 1.0 + 2**-12, (1.0 + 2**-12) ** 2, 3e38])
    bits = [int(value.view(np.int32)) for value in (numbers[0] / numbers[1], np.sqrt(numbers[1]))]
    sizes = [4, 4, 8, 8, *[8, 8] * 3, *[16, 16] * 3]
    expected = [*sizes, 1234, 8, 0, 4, 32, 31, 0, 0x3F800000, 0xC0, 3, 4, *bits, 0, 0, 0, 23]
    tensors = ({"numbers": ("float32", "5")}, {"found": ("int32", "K")})
    kernel = kernel_of("values", "values.cu", *tensors, integers=("K",), block=(32, 1, 1))
    found = run_on_host([kernel], {"numbers": torch.from_numpy(numbers)}, sizes={"K": len(expected)})["found"]
    assert found.tolist() == expected


def test_a_source_that_does_not_compile_shows_the_compilers_message():
    with pytest.raises(RuntimeError, match="cannot compile this kernel for the host"):
        run_on_host([probe("((")], {"values": VALUES})


def edges(dtype: torch.dtype) -> Tensor:
    """Return every value of a 16-bit type, the float32 midway to its neighbour, and those beside both."""
    narrow = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    exact = narrow.float().view(torch.int32)
    half_a_step = 1 << (12 if dtype == torch.float16 else 15)
    exact = torch.cat([exact, exact + half_a_step])
    below_the_normal = (torch.arange(4096) * 2.0**-25).view(torch.int32)  # the steps of small halves are wider
    exact = torch.cat([exact, below_the_normal, below_the_normal | -(2**31)])
    return torch.cat([exact, exact - 1, exact + 1]).view(torch.float32)


@pytest.mark.parametrize(("element", "number"), [("float16", 1), ("bfloat16", 2)])
def test_every_element_and_every_edge_between_two_is_converted_as_torch_does(element, number):
    dtype = getattr(torch, element)
    wide = torch.cat([edges(dtype), torch.tensor([0.0, -0.0, 65504, 65519.99, 65520, 3.4e38, torch.inf, torch.nan])])
    narrow = torch.arange(len(wide), dtype=torch.int32).to(torch.int16).view(dtype)
    kernel = kernel_of(
        "conversions",
        "conversions.cu",
        {"narrow": (element, "K"), "wide": ("float32", "K")},
        {"widened": ("float32", "K"), "narrowed": (element, "K")},
        constants={"ELEMENT": number},
        integers=("K",),
        grid=("ceil_div(K, 256)", "1", "1"),
        block=(256, 1, 1),
    )
    found = run_on_host([kernel], {"narrow": narrow, "wide": wide})
    for converted, expected in ((found["widened"], narrow.float()), (found["narrowed"], wide.to(dtype))):
        assert torch.equal(converted.isnan(), expected.isnan())
        bits = torch.int32 if converted.dtype == torch.float32 else torch.int16
        there = ~expected.isnan()
        assert torch.equal(converted.view(bits)[there], expected.view(bits)[there])
