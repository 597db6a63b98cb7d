"""Nothing that frcnn does uses the internet but ``export --weights`` and ``detect`` of an address, which are asked to.

Every verb runs in a process that the kernel stops when any code in it, native code too, asks for an internet socket.
The processes get a home of their own and no other variables: some software behaves better where it finds itself in CI.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from PIL import Image
from support import tiny_detector
from support.no_internet import SYSTEMS

from frcnn.cli import VERBS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() not in SYSTEMS, reason="the kernel's filter is for Linux"
    ),
]

ROOT = Path(__file__).parent.parent
ARCH = ("--arch", f"{tiny_detector.__file__}:build")
PREPARED = f"""
import sys
sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "tests")!r}]
from support.no_internet import forbid_internet
forbid_internet()
"""
VERBS_IN_A_ROW = """
import json, shlex
from frcnn.cli import main
for command in json.loads(sys.argv[1]):
    print("$ frcnn", shlex.join(command), flush=True)
    code = main(command)
    if code != 0:
        sys.exit(f"exit code {code}")
"""

# What ONNX Runtime makes when it is imported, to be told from others by; it is some seconds before it sends anything.
TELEMETRY = ".cache/Microsoft/DeveloperTools/.onnxruntime/deviceid"
OPENVINO_TELEMETRY = "intel"

IMAGES = 8
ANY_DROP = ("--max-drop", "100")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def without_internet(tmp_path):
    """Return a function that runs Python code in a process without the internet, in an empty folder."""

    def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PREPARED + code, *arguments],
            cwd=tmp_path,
            env={name: os.environ[name] for name in ("PATH", "TMPDIR")} | {"HOME": str(tmp_path / "home"), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


@pytest.fixture
def desk(tmp_path):
    """A folder with a checkpoint, annotated images and a video."""
    torch.save(tiny_detector.build().state_dict(), tmp_path / "my.pth")
    (tmp_path / "images").mkdir()
    for seed in range(IMAGES):
        Image.fromarray(tiny_detector.noise(seed, 48, 64)).save(tmp_path / "images" / f"{seed}.png")
    boxes = [
        {"id": 3 * seed + label, "image_id": seed, "category_id": label, "bbox": [4, 4, 20, 20], "iscrowd": 0}
        for seed in range(IMAGES)
        for label in (1, 2, 3)
    ]
    truth = {
        "images": [{"id": seed, "file_name": f"{seed}.png", "width": 64, "height": 48} for seed in range(IMAGES)],
        "categories": [{"id": label, "name": str(label)} for label in (1, 2, 3)],
        "annotations": boxes,
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 48))
    for seed in range(3):
        video.write(tiny_detector.noise(seed, 48, 64))
    video.release()
    return tmp_path


def test_every_verb_works_without_the_internet(desk, without_internet):
    commands = [
        ["try", "my.pth", *ARCH, "--images", "images", "--budget", "2", "-o", "tried"],
        ["export", "my.pth", *ARCH, "-o", "model.onnx"],
        ["detect", "model.onnx", "images", "clip.mp4", "-o", "annotated", "--json", "found.json"],
        ["detect", "model.onnx", "images", "--provider", "openvino", "--json", "openvino.json"],
        ["compare", "my.pth", "model.onnx", *ARCH, "--images", "images"],
        ["eval", "model.onnx", "--annotations", "truth.json", "--images", "images", "--checkpoint", "my.pth", *ARCH],
        ["quantize", "model.onnx", "--images", "images", "--annotations", "truth.json", "-o", "int8.onnx", *ANY_DROP],
        ["tune", "model.onnx", "--images", "images", "--budget", "5"],
        ["build", "model.onnx", "-o", "model.frcnn", "--size", "32x64", "--kernel-arch", "sm_89"],
        ["inspect", "model.onnx"],
        ["inspect", "model.frcnn"],
        ["triton", "model.onnx", "-o", "repository"],
        ["unpack", "model.frcnn", "-o", "parts"],
        ["doctor"],
        ["completion", "bash"],
        ["profile", "model.onnx", "--images", "images", "--repeats", "2", "--chart", "profile.html"],
        ["bench", "my.pth", "model.onnx", *ARCH, "-o", "report", "--budget", "10", "--compile-limit", "0"],
    ]
    assert {command[0] for command in commands} == set(VERBS)
    done = without_internet(VERBS_IN_A_ROW, json.dumps(commands))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (desk / "home" / TELEMETRY).exists()
    assert not (desk / "home" / OPENVINO_TELEMETRY).exists()
    assert {"model.onnx", "found.json", "annotated", "model.frcnn", "parts", "report"} <= {
        p.name for p in desk.iterdir()
    }


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.create_connection(('::1', 9))",
        "import socket; socket.getaddrinfo('example.org', 443)",
        "import ctypes; ctypes.CDLL(None).socket(2, 1, 0)",
        "import socket, threading; thread = threading.Thread(target=socket.socket); thread.start(); thread.join()",
        "import subprocess; sys.exit(subprocess.call([sys.executable, '-c', 'import socket; socket.socket()']))",
        "from frcnn.cli import main; main(['export', '--weights', 'fasterrcnn_resnet50_fpn=COCO_V1'])",
        "from frcnn.runtime.images.addresses import fetch_image; fetch_image('http://127.0.0.1:9/a.jpg')",
        "from frcnn.runtime import frames; next(frames('rtsp://127.0.0.1:9/live'))",
    ],
    ids=["IPv4", "IPv6", "a name", "native code", "a thread", "a child", "export --weights", "an image", "a stream"],
)
def test_a_process_that_asks_for_the_internet_is_killed(code, without_internet):
    """So the test above can fail."""
    done = without_internet(code)
    assert done.returncode in (-signal.SIGSYS, 256 - signal.SIGSYS), done.stdout + done.stderr


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n",
        "ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.mp4'\n",
        "RTSP://127.0.0.1:9/a\n",
    ],
    ids=["HLS", "SDP", "concat", "RTSP"],
)
def test_a_video_that_names_another_system_is_refused(content, without_internet, tmp_path):
    (tmp_path / "clip.mp4").write_text(content)
    code = "from pathlib import Path; from frcnn.runtime.images.video import open_video; open_video(Path('clip.mp4'))"
    done = without_internet(code)
    assert done.returncode == 1, done.stderr
    assert "ImageError: clip.mp4: not a video that OpenCV can read" in done.stderr


def test_local_sockets_are_allowed(without_internet):
    done = without_internet("import socket; socket.socketpair(); socket.socket(socket.AF_UNIX); print('done')")
    assert (done.stdout, done.returncode) == ("done\n", 0)


@pytest.mark.parametrize(
    ("variables", "is_there"), [({}, False), ({"ORT_DISABLE_TELEMETRY": "0"}, True)], ids=["by default", "asked for"]
)
def test_onnxruntime_reports_nothing_unless_it_is_asked_to(variables, is_there, without_internet, tmp_path):
    done = without_internet("import frcnn.runtime, onnxruntime", **variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / TELEMETRY).exists() == is_there
