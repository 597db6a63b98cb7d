"""``model.onnx`` without a trace of the system, with its manifest, and checked."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import msgspec
import onnx
import onnx.parser
import pytest
import torch
from support.engine_files import source_manifest

import frcnn
from frcnn.errors import ExportError
from frcnn.exporter.graph.finalize import finalize_graph
from frcnn.spec import MANIFEST_KEY, Manifest


@pytest.mark.parametrize("family", ["vgg16", "swin_fpn"])
def test_a_file_holds_no_trace_of_the_system(family, exports):
    export = exports(family)
    content = export.path.read_bytes()
    folders = {Path(frcnn.__file__).parents[1], Path(torch.__file__).parent, Path(tempfile.gettempdir()), export.path}
    for folder in (*folders, Path(sys.prefix), Path.home()):
        if len(str(folder)) > 4:
            assert str(folder).encode() not in content, folder
    assert not re.search(rb"\w\.py\b", content)
    model = onnx.load(export.path)
    assert [entry.key for entry in model.metadata_props] == [MANIFEST_KEY]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def small_graph() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20], doc_string: "secret">
        exported (float[N] x) => (float[N] y) { a = Neg (x) y = Abs (a) }"""
    )


def manifest_of(version: str) -> Manifest:
    return msgspec.structs.replace(source_manifest(precision="fp32"), versions={"frcnn": version})


def test_stack_traces_are_removed_and_the_manifest_is_added():
    model, manifest = small_graph(), manifest_of("1.2.3")
    model.metadata_props.add(key="pkg.torch.onnx", value="File somewhere.py, line 3")
    for item in (model.graph, *model.graph.node, *model.graph.input):
        item.doc_string = "File somewhere.py, line 3"
        item.metadata_props.add(key="trace", value="File somewhere.py, line 3")
    finalized = finalize_graph(model, manifest)
    assert b"somewhere" not in finalized.SerializeToString() and b"secret" not in finalized.SerializeToString()
    assert (finalized.producer_name, finalized.producer_version) == ("frcnn", "1.2.3")
    (entry,) = finalized.metadata_props
    assert Manifest.from_json(entry.value, source="test") == manifest


def test_an_invalid_graph_is_refused():
    model = small_graph()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ExportError, match=r"not valid ONNX: .*nowhere"):
        finalize_graph(model, manifest_of("1.2.3"))
