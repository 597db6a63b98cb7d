"""``frcnn profile``, end to end: table, JSON and chart of a real model; and what it refuses."""

from __future__ import annotations

import hashlib
import re

import msgspec
import pytest
from support.engine_files import static_profile, write_engine_file

from frcnn.benchmarks.profile import page
from frcnn.benchmarks.profile.profile import SCHEMA_VERSION, STAGES, Profile
from frcnn.cli import main
from frcnn.errors import ArtifactError
from frcnn.runtime import Detector

FAMILY = "resnet18_fpn_max"


@pytest.fixture
def profile(exports, tmp_path):
    def run(*options, model=None):
        path = exports(FAMILY).path if model is None else model
        chart = ["--chart", tmp_path / "out" / "chart.html"]
        return main([*map(str, ["profile", path, "--repeats", "2", *chart, *options])])

    return run


@pytest.fixture
def measured(profile, tmp_path):
    """Profile, and read the JSON strictly."""

    def run(*options):
        assert profile("--threads", "1", "--json", tmp_path / "p.json", *options) == 0
        return msgspec.json.decode((tmp_path / "p.json").read_bytes(), type=Profile)

    return run


def test_table_json_and_chart_show_the_same_profile(measured, exports, images, tmp_path, capsys):
    found = measured("--images", images, "--top", "7")
    path = exports(FAMILY).path
    assert found.schema_version == SCHEMA_VERSION == 1
    assert (found.model, found.sha256) == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    assert (found.runtime, found.device, found.precision, found.batch) == ("onnxruntime", "cpu", "fp32", 1)
    assert (found.architecture, found.source, found.repeats) == (FAMILY, "given", 2)
    assert found.environment.threads == 1 and found.environment.packages["onnxruntime"]
    assert found.environment.command.startswith("frcnn profile")
    assert [stage.name for stage in found.stages] == [stage for stage in STAGES if stage != "copies"]
    assert sum(stage.share for stage in found.stages) == pytest.approx(1)
    assert found.total_ms == pytest.approx(sum(stage.ms for stage in found.stages))
    assert sum(stage.layers for stage in found.stages) == len(found.layers)
    assert [layer.ms for layer in found.layers] == sorted((layer.ms for layer in found.layers), reverse=True)
    printed = capsys.readouterr()
    assert f"the slowest 7 of {len(found.layers)} layers" in printed.out
    assert all(layer.name in printed.out for layer in found.layers[:7])
    assert found.layers[7].name not in printed.out
    assert re.search(
        r"the network takes [\d.,]+ ms without the profiler and [\d.,]+ ms with it \([+-]\d+%, -?[\d.]+ us", printed.out
    )
    assert "image(s) left out" in printed.err
    chart = (tmp_path / "out" / "chart.html").read_text()
    assert chart.startswith("<!doctype html>") and "<script" not in chart
    assert re.findall(r"(?:src|href)=\"(?!#)", chart) == []
    slowest = max(found.stages, key=lambda stage: stage.ms)
    assert f"of it: {slowest.name}." in chart
    assert chart.count('scope="row"') == len(found.stages) + 7
    assert found.layers[6].name in chart and found.layers[7].name not in chart


def test_json_on_standard_output_is_alone_there(profile, capsys):
    assert profile("--threads", "1", "--json", "-", "--batch", "2", "--size", "160x224") == 0
    printed = capsys.readouterr()
    found = msgspec.json.decode(printed.out, type=Profile)
    assert (found.batch, found.canvas) == (2, (160, 224))
    assert "decode" not in {stage.name for stage in found.stages}  # ours are in memory
    assert len(found.images) == 4
    assert found.source != "given"
    assert printed.err.splitlines()[-2].endswith("chart.html")


def test_an_image_that_cannot_be_read_is_named_and_the_exit_code_is_1(profile, images, capsys):
    (images / "broken.png").write_bytes(b"nothing")
    assert profile("--threads", "1", "--images", images) == 1
    printed = capsys.readouterr()
    assert "broken.png" in printed.err and printed.err.startswith("warning: skipped")
    assert "the slowest 20 of" in printed.out


def test_names_from_a_model_cannot_be_markup(measured):
    found = measured()
    bad = msgspec.structs.replace(found.layers[0], name='<img src=x onerror="alert(1)">')
    drawn = page.profile_page(msgspec.structs.replace(found, layers=(bad,), architecture="<b>"), top=3)
    assert "<img" not in drawn and "&lt;img src=x" in drawn
    assert "<b>&" not in drawn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch: expected 1 to 1024, got 0"),
        (["--repeats", "0"], "--repeats: expected 1 or more, got 0"),
        (["--top", "-1"], "--top: expected 1 or more, got -1"),
        (["--threads", "0"], "--threads: expected 1 or more, got 0"),
        (["--size", "big"], "--size: expected HEIGHTxWIDTH in pixels, got 'big'"),
        (["--size", "160x224,224x160"], "--size: expected one canvas, got '160x224,224x160'"),
        (["--size", "100x100"], "--size: the model takes no canvas of 100x100 (height x width)"),
        (["--images", "nowhere"], "--images: not one image can be used: nowhere: nowhere: no such file or folder"),
        (["--device", "cuda"], "device 'cuda': of a model.onnx only the processor can be profiled"),
        (["--provider", "tensorrt"], "device 'cuda': of a model.onnx only the processor can be profiled"),
        (["--chart", "."], "cannot write .: it is a folder"),
        (["--json", "."], "cannot write .: it is a folder"),
        (["--json", "a.html", "--chart", "a.html"], "the model, --chart and --json are not three different files"),
    ],
)
def test_invalid_options_are_refused_in_one_line(profile, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert profile(*options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0].startswith(f"error: {message}")
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:])
    assert not (tmp_path / "out" / "chart.html").exists()


def test_a_broken_model_is_refused_and_never_overwritten(profile, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing")
    assert profile(model=path) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}")
    assert profile("--chart", path, model=path) == 2
    assert "are not three different files" in capsys.readouterr().err
    assert path.read_bytes() == b"nothing"


@pytest.fixture
def engine_file(exports, tmp_path):
    path = tmp_path / "model.frcnn"
    write_engine_file(path, source=exports(FAMILY).manifest, profiles=(static_profile(160, 224),))
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "holds engines for a GPU, got device 'cpu'"),
        (["--threads", "2"], "threads: an engine runs on the GPU, got 2"),
        (["--provider", "cuda"], "provider: an engine runs on the GPU, got 'cuda'"),
    ],
)
def test_options_of_onnx_models_are_refused_for_an_engine(profile, engine_file, options, message, capsys):
    assert profile(*options, model=engine_file) == 2
    assert message in capsys.readouterr().err.splitlines()[0]


def test_without_a_gpu_an_engine_is_refused_as_loading_it_is(profile, engine_file, capsys):
    try:
        Detector.load(engine_file).close()
    except ArtifactError as error:
        expected = error
    else:
        pytest.skip("this system has a GPU")
    assert profile(model=engine_file) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "CUDA" in expected.message or "NVIDIA" in expected.message
    lines = printed.err.splitlines()
    assert lines[-2:] == [f"error: {expected.message}", f"hint: {expected.hint}"]
