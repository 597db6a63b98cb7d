"""Write a model repository for NVIDIA's Triton Inference Server.

It has two models. The one named like the file takes bytes of image files and gives detections in their pixels. It calls
the network, which Triton runs by ONNX Runtime or, for a plan of TensorRT, by TensorRT. What Triton has no backend for,
or any file with --backend python, is one model that frcnn runs. Triton's Python needs frcnn.

  frcnn triton model.onnx -o repository/
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from frcnn.console import say, show_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn triton``."""
    parser.add_argument("model", help="model.onnx, made by frcnn export, or model.frcnn, made by frcnn build")
    parser.add_argument("-o", "--output", metavar="REPOSITORY", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--name", help="of the model in Triton; default: the file's, without its suffix")
    backends = ("onnxruntime", "tensorrt", "python")
    parser.add_argument("--backend", choices=backends, help="what runs the network; default: by the file")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu for a model.onnx, else cuda")
    parser.add_argument("--batch", type=int, metavar="N", help="most images at a time; default: 8, or the artifact's")


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn triton``."""
    from frcnn.runtime.triton.repository import write_repository

    folder: Path = arguments.output
    options = {name: getattr(arguments, name) for name in ("name", "backend", "device", "batch")}
    write_repository(arguments.model, folder, **options)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [(str(path.relative_to(folder)), f"{path.stat().st_size:,}") for path in files]
    show_table("repository", ("file", "bytes"), rows)
    say(f"written to {folder}")
    say(f"tritonserver --model-repository={shlex.quote(str(folder.absolute()))}", exact=True)
    return 0
