"""The table of TensorRT plugins, which needs no TensorRT."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest
from support.operator_forms import FORMS, attributes_of

from frcnn.errors import KernelError, MissingDependencyError
from frcnn.plugins import OPERATORS
from frcnn.plugins.operator_kernels import POOLING, kernels_for
from frcnn.plugins.tensorrt import register
from frcnn.plugins.tensorrt.plugins import plugins

TABLE = {plugin.name: plugin for plugin in plugins()}
LAYOUTS = [("planar", "planar"), ("channels_last", "planar"), ("channels_last", "channels_last")]


def test_every_kernel_has_a_plugin():
    names: dict[str, None] = {}
    for operator, levels in FORMS:
        of_form = [kernel.plugin for kernel in kernels_for(operator, attributes_of(operator, levels))]
        assert len(set(of_form)) == len(of_form)
        names |= dict.fromkeys(of_form)
    assert [plugin.name for plugin in plugins()] == list(names)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("element", ["float32", "float16", "bfloat16"])
def test_a_plugin_is_its_kernel_for_other_attributes_and_types(form, element):
    operator, levels = form
    attributes = attributes_of(operator, levels)
    for kernel in kernels_for(operator, {**attributes, "element": element}):
        plugin = TABLE[kernel.plugin]
        names = [tensor.name for tensor in (*kernel.inputs, *kernel.outputs)]
        assert [*plugin.inputs, *plugin.outputs] == names
        assert len(plugin.outputs) == len(kernel.outputs)
        reads_levels = any(name.endswith(f"_{levels - 1}") for name in names)
        assert re.fullmatch(rf"{operator}[A-Za-z]*{levels if reads_levels else ''}", plugin.name)
        assert plugin.kernels(attributes, element=element)[0] == kernel
        if plugin.features is None:
            assert plugin.kernels(attributes)[0] == kernel
        else:
            assert kernel.inputs[plugin.features].element == element


@pytest.mark.parametrize("operator", POOLING)
@pytest.mark.parametrize(
    ("element", "channels", "layouts"),
    [("float16", 64, 3), ("float16", 12, 1), ("float32", 12, 3), ("float32", 6, 1), ("float16", None, 1)],
)
def test_pooling_has_a_kernel_for_each_layout_that_its_channels_fill(operator, element, channels, layouts):
    attributes = attributes_of(operator, 3)
    found = TABLE[f"{operator}3"].kernels(attributes, element=element, channels=channels)
    for kernel, (layout, output_layout) in zip(found, LAYOUTS[:layouts], strict=True):
        form = {"element": element, "layout": layout, "output_layout": output_layout, "channels": channels}
        assert kernel == kernels_for(operator, attributes | form)[0]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_kernels_of_an_operator_use_its_inputs_and_make_its_outputs(form):
    spec, kernels = OPERATORS[form[0]], kernels_for(form[0], attributes_of(*form))
    have, used = set(spec.input_names(form[1])), set()
    for kernel in kernels:
        reads = {tensor.name for tensor in kernel.inputs}
        assert reads <= have
        used |= reads
        have |= {tensor.name for tensor in kernel.outputs}
    assert have - used == {tensor.name for tensor in spec.outputs}


def test_a_plugin_refuses_the_attributes_of_another_number_of_levels():
    with pytest.raises(KernelError) as caught:
        TABLE["MultiscaleRoIAlign3"].kernels(attributes_of("MultiscaleRoIAlign", 2))
    assert str(caught.value) == "MultiscaleRoIAlign3 got the attributes of MultiscaleRoIAlign2"


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
