"""A real tritonserver, from the wheel of nvidia-pytriton, with its Python backend; and packages to ask it with.

It is Triton 24.10. Its Python stub reads arrays of numpy 1 only, takes no PYTHONPATH, and is linked with the libpython
of the Python whose environment it finds by PATH.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BACKENDS: Final = "FRCNN_TRITON_BACKENDS"
"""The variable that names a folder with more backends, such as ``onnxruntime``."""
_PACKAGES: Final = (
    ("nvidia-pytriton==0.7.0", "wheel"),
    ("numpy==1.26.4", "server"),
    ("tritonclient[http,grpc]", "client"),
)
_READY_S: Final = 120


class NotHereError(Exception):
    """What the server needs and this system does not have."""


def install_packages(folder: Path) -> None:
    """Install the packages, each into a folder of its own; a ``NotHereError`` where one has no wheel."""
    _libpython()
    for package, name in _PACKAGES:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", "--disable-pip-version-check"]
        extra = [] if name == "client" else ["--no-deps"]  # of pytriton the binaries alone
        done = subprocess.run([*pip, *extra, "--target", folder / name, package], capture_output=True, text=True)
        if done.returncode:
            raise NotHereError(f"pip cannot install {package} for this Python: {done.stderr.strip()[-300:]}")


def _libpython() -> Path:
    """Return the folder of this Python's shared library."""
    folder = Path(str(sysconfig.get_config_var("LIBDIR")))
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not list(folder.glob("libpython*.so.1.0")):
        raise NotHereError("this Python has no shared libpython, with which Triton's Python stub is linked")
    return folder


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs; ``log`` is what it has printed."""

    http: str
    grpc: str
    log: Path


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def run_client(packages: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python with tritonclient and the example's client, whose protobuf may be another than this environment's."""
    paths = (packages / "client", ROOT / "examples" / "triton")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def serving(packages: Path, repositories: Sequence[Path], folder: Path) -> Iterator[Server]:
    """Start a server on models, whose Python has frcnn and no torch, and stop it after the block."""
    library = _libpython()
    triton, libraries = packages / "wheel" / "pytriton" / "tritonserver", packages / "wheel" / "nvidia_pytriton.libs"
    backends, version = folder / "backends", f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(triton / "backends", backends)
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    Path(shutil.copy(stub, backends / "python")).chmod(0o755)
    if more := os.environ.get(BACKENDS):
        shutil.copytree(more, backends, dirs_exist_ok=True, symlinks=True)
    _make_environment(folder / "env", packages)
    http, grpc, log = _free_port(), _free_port(), folder / "server.log"
    command = [str(triton / "bin" / "tritonserver"), f"--backend-directory={backends}", "--allow-metrics=false"]
    command += [f"--model-repository={repository}" for repository in repositories]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
    Path(command[0]).chmod(0o755)
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{libraries}:{library}",
        "PATH": f"{folder / 'env' / 'bin'}:{os.environ['PATH']}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{http}/v2/health/ready", log)
        yield Server(http=f"127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}", log=log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _make_environment(folder: Path, packages: Path) -> None:
    """Make an environment of this Python with numpy 1 before the packages of this one, without torch."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    paths = (ROOT / "src", packages / "server", sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    (site / "frcnn.pth").write_text("".join(f"{path}\n" for path in paths))
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"tritonserver is not ready:\n{log.read_text(errors='replace')[-4000:]}")
