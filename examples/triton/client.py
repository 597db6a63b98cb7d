"""Ask Triton what is in images: bytes of image files in, one line of JSON out for each.

pip install 'tritonclient[http,grpc]'
python client.py --model demo photo.jpg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

OUTPUTS = ("num_detections", "boxes", "scores", "labels")


def detect(client: Any, protocol: Any, model: str, files: list[bytes]) -> list[dict[str, Any]]:
    """Return the detections of each image; boxes are x1, y1, x2, y2 in its own pixels."""
    images = np.array([[data] for data in files], dtype=np.object_)
    tensor = protocol.InferInput("image", list(images.shape), "BYTES")
    tensor.set_data_from_numpy(images)
    result = client.infer(model, [tensor])
    counts, *padded = (result.as_numpy(name) for name in OUTPUTS)
    found = []
    for i, count in enumerate(counts.ravel()):  # rows past the count are padding
        boxes, scores, labels = (array[i, :count].tolist() for array in padded)
        found.append({"boxes": boxes, "scores": scores, "labels": labels})
    return found


def main() -> None:
    """Send each file as a request of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--protocol", choices=("http", "grpc"), default="http")
    parser.add_argument("--url", default=None, help="default: localhost:8000, of grpc localhost:8001")
    options = parser.parse_args()
    if options.protocol == "http":
        import tritonclient.http as protocol
    else:
        import tritonclient.grpc as protocol
    client = protocol.InferenceServerClient(options.url or f"localhost:{8000 + (options.protocol == 'grpc')}")
    config = client.get_model_config(options.model, **({"as_json": True} if options.protocol == "grpc" else {}))
    names = json.loads(config.get("config", config)["parameters"]["labels"]["string_value"])
    for path in options.images:
        (found,) = detect(client, protocol, options.model, [path.read_bytes()])
        classes = [names[label] if names else str(label) for label in found["labels"]]
        print(json.dumps({"image": str(path), **found, "classes": classes}))


if __name__ == "__main__":
    main()
