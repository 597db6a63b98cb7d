"""``results.json``: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import json

import pytest
from support.bench_results import made_up, replaced

from frcnn.benchmarks.report.results import SCHEMA_VERSION, Results
from frcnn.errors import ArtifactError


def test_results_are_read_back_as_written(tmp_path) -> None:
    path = tmp_path / "results.json"
    made_up().write(path)
    assert Results.read(path) == made_up()
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert Results.read(path) == made_up(), "saved again by an editor of Windows"


def test_results_of_images_whose_names_are_not_utf8_are_written(tmp_path) -> None:
    """msgspec refuses such names, after all the work."""
    results = made_up()
    images = (replaced(results.workload.images[0], name="n\udce9.jpg"),)
    replaced(results, workload=replaced(results.workload, images=images)).write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json").workload.images[0].name == "n?.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, f"schema version {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"rows": [{"id": "eager-fp32"}]}, "missing required field"),
        ({"partial": "yes"}, "Expected `bool`"),
    ],
)
def test_other_schemas_are_refused_in_one_line(tmp_path, change, message) -> None:
    path = tmp_path / "results.json"
    made_up().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message) as raised:
        Results.read(path)
    assert str(path) in raised.value.message and "\n" not in raised.value.message


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\xff"])
def test_a_file_that_is_not_json_is_refused(tmp_path, content) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match="damaged"):
        Results.read(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        Results.read(tmp_path / "none.json")
