"""The table of TensorRT plugins, which needs no TensorRT."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from frcnn.errors import KernelError, MissingDependencyError
from frcnn.plugins import OPERATORS
from frcnn.plugins.grouped_nms.kernel import kernels as nms_kernels
from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.tensorrt import register
from frcnn.plugins.tensorrt.plugins import PLUGINS, PLUGINS_OF, Variant

ALIGN = {
    "output_height": 7,
    "output_width": 5,
    "spatial_scales": (0.25, 0.125),
    "level_thresholds": (112.0,),
    "sampling_ratio": 2,
    "aligned": 0,
}


def test_nms_has_two_plugins_and_each_pooler_one_per_number_of_levels():
    levels = range(1, 9)
    assert [plugin.name for plugin in PLUGINS] == [
        "GroupedNMSMask",
        "GroupedNMSResolve",
        *(f"MultiscaleRoIAlign{n}" for n in levels),
        *(f"MultiscaleRoIPool{n}" for n in levels),
    ]
    assert {operator for operator, _ in PLUGINS_OF} == set(OPERATORS)


@pytest.mark.parametrize("case", sorted(PLUGINS_OF))
def test_the_plugins_of_an_operator_use_its_inputs_and_make_its_outputs(case):
    spec = OPERATORS[case[0]]
    have = set(spec.input_names(case[1] - len(spec.inputs) + 1))
    assert len(have) == case[1]
    used: set[str] = set()
    for plugin in PLUGINS_OF[case]:
        assert set(plugin.inputs) <= have
        used |= set(plugin.inputs)
        have |= set(plugin.outputs)
    assert have - used == {tensor.name for tensor in spec.outputs}
    assert {a for plugin in PLUGINS_OF[case] for a in plugin.attributes} == set(spec.attributes)


def test_a_plugin_makes_the_operators_kernel():
    mask, resolve = PLUGINS_OF["GroupedNMS", 2]
    kernels = nms_kernels(iou_threshold=0.3)
    assert mask.make(Variant(), {"iou_threshold": 0.3}) == kernels[0]
    assert resolve.make(Variant(), {}) == kernels[1]
    (align,) = PLUGINS_OF["MultiscaleRoIAlign", 3]
    for variant in align.variants:
        (kernel,) = align_kernels(
            element="float32", layout=variant.layout, output_layout=variant.output_layout, **ALIGN
        )
        assert align.make(variant, ALIGN) == kernel
    assert align.inputs[align.features] == "feature_0"


def test_a_plugin_refuses_the_attributes_of_another_number_of_levels():
    (align,) = PLUGINS_OF["MultiscaleRoIAlign", 4]
    with pytest.raises(KernelError, match="MultiscaleRoIAlign3 takes 3 spatial_scales, got 2"):
        align.make(Variant(), ALIGN)


def test_registering_without_tensorrt_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="'tensorrt'") as caught:
        register(architecture="sm_90")
    assert caught.value.hint == "pip install 'frcnn[tensorrt]'"


def test_a_tensorrt_without_ahead_of_time_plugins_is_too_old(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", ModuleType("tensorrt.plugin"))
    with pytest.raises(MissingDependencyError, match=r"tensorrt>=10\.13"):
        register(architecture="sm_90")
