"""An engine artifact, profiled on a device whose work takes known times."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.fake_device import FakeDevice
from support.simt import require_compiler
from support.tiny_artifact import TinyArtifact, profile

from frcnn.benchmarks.candidates.images import given_images
from frcnn.benchmarks.profile.engine_profile import profile_engine
from frcnn.benchmarks.profile.inputs import choose_inputs
from frcnn.benchmarks.profile.profile import stage_times
from frcnn.errors import ArtifactError, UsageError
from frcnn.runtime.images.canvases import EngineCanvases

COPY, PREPROCESS, POOL = 0.5, 2.0, 3.0
CHOOSE = {"candidates": 1.0, "suppress": 0.75, "select": 0.25}
ENGINE, REPORTED = 20.0, 26.0
LAYERS = (("backbone/body/conv1/Conv + relu", 9.0), ("myelin", 4.0), ("rpn/head/conv/Conv", 5.0))
DURATIONS = {
    "copy": COPY,
    "preprocess": PREPROCESS,
    "multiscale_roi_pool": POOL,
    **{f"box_detections_{stage}": ms for stage, ms in CHOOSE.items()},
    "engine": ENGINE,
    "engine, reported": REPORTED,
}
COPIES = 4  # pixels, sizes, table, answers


@pytest.fixture
def device():
    require_compiler()
    made = FakeDevice()
    made.durations_ms = DURATIONS
    made.activate()
    yield made
    assert made.misuses == []


@pytest.fixture
def artifact(exports):
    return TinyArtifact(exports("vgg16").manifest, profiles=(profile((1, 2), (160, 160), (224, 224)),))


@pytest.fixture
def run(device, artifact, tmp_path):
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (80, 112, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    warnings = []

    def run(*, batch=1, repeats=2, **options):
        manifest, engines = artifact.manifest, artifact.engines(device, **options)
        canvases, transform = EngineCanvases(manifest), manifest.source.model.transform
        inputs = choose_inputs(given_images([tmp_path]), transform, canvases, canvas=None, first=None)
        shares = []
        try:
            measured = profile_engine(
                artifact,
                device,
                engines,
                inputs,
                batch=batch,
                repeats=repeats,
                report=lambda what, share: shares.append(share),
                warn=warnings.append,
            )
        finally:
            for engine in engines.values():
                engine.close()
        assert shares == sorted(shares) and 0 <= shares[0] <= shares[-1] < 1
        return measured

    run.warnings = warnings
    return run


@pytest.mark.parametrize("batch", [1, 2])
def test_every_delay_is_attributed_to_its_stage(run, device, batch):
    measured = run(batch=batch, layers=LAYERS)
    assert measured.device == "Fake GPU"
    assert run.warnings == []
    layers = sum(ms for _, ms in LAYERS)
    assert {stage: times for stage, times in measured.more.items() if stage not in ("decode", "post")} == {
        "copies": [COPIES * COPY] * 2,
        "preprocess": [PREPROCESS] * 2,
        "between layers": [2 * (ENGINE - layers)] * 2,
    }
    whole = 3 * COPY + PREPROCESS + POOL + sum(CHOOSE.values())
    assert measured.network_ms == pytest.approx(whole + 2 * ENGINE)
    assert measured.profiled_ms == pytest.approx(whole + 2 * REPORTED)
    assert [(layer.name, layer.stage, layer.ms) for layer in measured.runs[1]] == [
        ("backbone/body/conv1/Conv + relu", "backbone", 9.0),
        ("myelin", "backbone", 4.0),
        ("rpn/head/conv/Conv", "RPN head", 5.0),
        ("roi_heads/MultiscaleRoIPool (multiscale_roi_pool)", "RoI pooling", POOL),
        ("backbone/body/conv1/Conv + relu #2", "backbone", 9.0),
        ("myelin #2", "backbone", 4.0),
        ("rpn/head/conv/Conv #2", "RPN head", 5.0),
        *((f"roi_heads/BoxDetections (box_detections_{stage})", "post", ms) for stage, ms in CHOOSE.items()),
    ]
    on_host = {"decode": [0.0] * 2, "post": [0.0] * 2}
    total = sum(stage.ms for stage in stage_times(measured.runs, measured.more | on_host))
    assert total == pytest.approx(whole + COPY + 2 * ENGINE)  # all that the steps took, and no more


def test_the_graph_is_timed_first_and_plain_steps_after(run, device):
    run(repeats=3, layers=LAYERS)
    assert device.calls["capture"] == 1
    assert device.calls["graph launch"] == 1 + 3  # the second run captures and launches
    assert device.calls["enqueue"] == 2 * (1 + 1 + 3 + 1 + 3)  # plainly, captured, steps, warm-up and reported steps
    assert device.calls["report_layers"] == 2
    assert device.calls["create_event"] == device.calls["event close"] > 0


def test_engines_that_report_nothing_are_shown_as_a_whole(run):
    measured = run()
    assert measured.more["between layers"] == [2 * ENGINE] * 2
    assert [layer.op for layer in measured.runs[0]] == ["kernel"] * 4
    assert run.warnings == ["the engines reported no layers: they are shown as a whole, between layers"]


def test_a_profile_of_more_images_warns(run, artifact, device):
    profiles = (profile((2, 2), (160, 160), (224, 224)),)
    artifact.manifest = TinyArtifact(artifact.manifest.source, profiles=profiles).manifest
    measured = run(layers=LAYERS)
    assert len(measured.runs) == 2
    assert run.warnings == ["the engine runs 2 images at the least: 2 are timed, 1 of them asked for"]


def test_a_batch_larger_than_every_profile_is_refused(run, device):
    with pytest.raises(UsageError, match="no profile of the engine holds 3 images"):
        run(batch=3)
    assert device.left_open() == {"devices": 1}


@pytest.mark.parametrize("call", ["create_event", "event record", "graph launch", "enqueue", "event time", "copy"])
def test_everything_is_released_after_a_failure(run, device, call):
    device.fail_next(call)
    with pytest.raises(ArtifactError, match=f"injected: {call} fails"):
        run(layers=LAYERS)
    assert device.left_open() == {"devices": 1}
