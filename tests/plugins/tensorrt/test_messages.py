"""What is said for lines that TensorRT really logged, see ``recorded_lines.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from frcnn.plugins.tensorrt.messages import explain, plain

CASES: list[dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("recorded_lines.toml").read_text(encoding="utf-8")
)["case"]

MEMORY = (
    "nvidia-smi shows what else uses the GPU; a smaller batch or canvas takes less: --batch and --size of frcnn build"
)
REBUILD = "build the artifact again on this system: frcnn build model.onnx"
DRIVER = (
    "there is no NVIDIA driver, or it is older than the CUDA of this TensorRT: r580 or later serves CUDA 13, r525 or "
    "later CUDA 12 (pip install tensorrt-cu12); frcnn doctor shows what is here"
)
KERNELS = (
    "a file of TensorRT, for builds that of the kernels for this GPU, is missing, does not load or is of another "
    "release: install TensorRT as a whole, pip install --force-reinstall tensorrt, or add the file's folder to "
    "LD_LIBRARY_PATH"
)
NO_KERNEL = (
    "this TensorRT has no kernel for that part of the model on this GPU: another release may have one, and --target "
    "onnxruntime needs none"
)
OPERATOR = (
    "TensorRT's parser does not know this operator: a newer TensorRT may, and --target onnxruntime needs no parser"
)
PLUGIN = (
    "the plan needs a plugin that is not loaded here; the plans of frcnn carry theirs: frcnn build model.onnx --target "
    "tensorrt"
)
LEAN = (
    "TensorRT's lean runtime runs version compatible plans only: frcnn build model.onnx --target tensorrt "
    "--version-compatible, or install TensorRT itself: pip install 'frcnn[tensorrt]'"
)
DAMAGED = f"the engine is damaged, cut off, none at all, or of another TensorRT; {REBUILD}"
RELEASE = f"the engine is of another release of TensorRT: install that one, or {REBUILD}"
OTHER_GPU = f"an engine runs on the kind of GPU that it was built on; {REBUILD}"
PLATFORM = f"the engine is of another operating system or processor; {REBUILD}"
HINTS = {
    "": "",
    "MEMORY": MEMORY,
    "WORKSPACE": "TensorRT may use too little memory while it builds: leave --workspace out, or raise it",
    "NO_KERNEL": NO_KERNEL,
    "KERNELS": KERNELS,
    "DRIVER": DRIVER,
    "NO_GPU": "nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES and the container must let one through",
    "REBOOT": "the driver's library and kernel module differ: reboot after the update",
    "DOCTOR": "frcnn doctor shows the driver, the CUDA that it serves and the GPUs that it sees",
    "OPERATOR": OPERATOR,
    "PLUGIN": PLUGIN,
    "LEAN": LEAN,
    "DAMAGED": DAMAGED,
    "RELEASE": RELEASE,
    "OTHER_GPU": OTHER_GPU,
    "GPU_RELEASE": "install a release of TensorRT that supports this GPU, or build with --target onnxruntime",
    "PLATFORM": PLATFORM,
}

# yuanyang1991/birefnet_tensorrt#4, release 10, its log and its title
NO_KERNEL_LINE = (
    "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[ONNXTRT_ShapeShuffle_37148_output[Constant].../bb/Reshape_4 + /bb/Transpose_4]}.)"
)
MEMORY_WARNINGS = [
    "UNSUPPORTED_STATE: Skipping tactic 0 due to insufficient memory on requested size of 3835900160 detected for "
    "tactic 0x0000000000000000.",
    # modal-labs/modal-examples#747, release 9 or 10
    "Tactic Device request: 157500MB Available: 40339MB. Device memory is insufficient to use tactic.",
    # marcoslucianops/DeepStream-Yolo#366, release 8
    "Requested amount of GPU memory (4294967296 bytes) could not be allocated. There may not be enough free memory for "
    "allocation to succeed.",
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case['what']}, {case['release']}" for case in CASES])
def test_what_tensorrt_logs_is_one_line_with_a_hint(case: dict[str, Any]) -> None:
    found = explain(case["errors"])
    assert (found.reason, found.hint) == (case["reason"], HINTS[case["hint"]])


def test_every_hint_has_a_recorded_line() -> None:
    assert {case["hint"] for case in CASES} == set(HINTS)


@pytest.mark.parametrize("warning", MEMORY_WARNINGS)
def test_a_warning_tells_why_a_kernel_is_missing(warning: str) -> None:
    found = explain([NO_KERNEL_LINE], [warning])
    assert found.reason == plain(NO_KERNEL_LINE)
    assert found.hint == (
        f"TensorRT had too little memory to try its kernels: {MEMORY}; a --workspace that is too small does the same"
    )
    assert explain([NO_KERNEL_LINE]).hint == NO_KERNEL
    assert explain(["IBuilderConfig::addOptimizationProfile: Error Code 3: API Usage Error"], [warning]).hint == ""


def test_a_cause_that_is_only_a_warning_is_told() -> None:
    # 8.6, triple-mu/YOLOv8-TensorRT#134: the builder is None, and there is no error
    check = "Please check your CUDA installation: http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html"
    warnings = ["Unable to determine GPU memory usage", f"CUDA initialization failure with error: 35. {check}"]
    found = explain([], warnings)
    assert found.reason == f"Unable to determine GPU memory usage; {warnings[1]}"
    assert found.hint == DRIVER
    assert explain(["an error"], warnings).reason == "an error"
    assert explain([]).reason == "TensorRT gives no reason"


def test_the_last_lines_and_the_cause_are_in_a_reason_that_is_too_long() -> None:
    lines = [
        "first",
        "OutOfMemory (no further information)",
        *(f"{number} " * 150 for number in range(100, 120)),
        "last",
    ]
    reason = explain(lines).reason
    assert reason.startswith("OutOfMemory (no further information); 118 118")
    assert reason.endswith("119 1...; last")
    assert len(reason) <= 1200
    assert explain(["word " * 1000]).reason.endswith("word wo...")
