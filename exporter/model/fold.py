"""Fold batch normalisation into the preceding convolution, in float64: fewer nodes, and one rounding less in fp16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

from frcnn.exporter.model.spec_from_model import image_channels, probe_canvas
from frcnn.spec import ModelSpec


def fold_batchnorm(model: GeneralizedRCNN, spec: ModelSpec) -> int:
    """Fold batch normalisations of backbone and box head into their convolutions, in place; return how many.

    A forward pass with fake tensors records the uses of each convolution's output. A convolution is folded if every
    output of it is used once, by the same normalisation.
    """
    image = (image_channels(model), *probe_canvas(spec.transform))
    pooled_size = spec.roi_heads.pooler.output_size
    channels = int(model.backbone.out_channels)
    pairs = _follow(model.backbone, lambda: torch.empty(1, *image))
    pairs |= _follow(model.roi_heads.box_head, lambda: torch.empty(2, channels, *pooled_size))
    for normalisation, convolution in pairs.items():
        _fold(convolution, normalisation)
    _replace(model, set(pairs))
    return len(pairs)


class _CountUses(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses: Counter[int] = Counter()
        self.alive: list[object] = []  # an id is unique only while its tensor lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "prim":  # reading a tensor's device is not a use
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.alive.extend(inputs)
            self.uses.update({id(tensor) for tensor in inputs})
        return func(*args, **(kwargs or {}))


def _follow(root: nn.Module, make_input: Callable[[], Tensor]) -> dict[nn.Module, nn.Conv2d]:
    """Return normalisation -> the convolution that only it follows."""
    made_by: dict[int, nn.Conv2d] = {}
    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    inputs: list[tuple[nn.Module, Tensor]] = []

    def after_convolution(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(output)] = module
        outputs.append((module, output))

    hooks = []
    for module in root.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(after_convolution))
        elif type(module) in (nn.BatchNorm2d, FrozenBatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(lambda m, args: inputs.append((m, args[0]))))
    count = _CountUses()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            example = make_input()
            with count:
                results = root(example)
            count.uses.update(id(leaf) for leaf in tree_leaves(results))  # returning a tensor is a use
    finally:
        for hook in hooks:
            hook.remove()

    readers: dict[nn.Conv2d, set[nn.Module | None]] = {}
    normalisation_of = {id(tensor): module for module, tensor in inputs}
    for convolution, output in outputs:
        reader = normalisation_of.get(id(output)) if count.uses[id(output)] == 1 else None
        readers.setdefault(convolution, set()).add(reader)
    sources: dict[nn.Module, set[nn.Conv2d | None]] = {}
    for normalisation, tensor in inputs:
        sources.setdefault(normalisation, set()).add(made_by.get(id(tensor)))

    shared = Counter(id(parameter) for module in root.modules() for parameter in module.parameters(recurse=False))
    pairs: dict[nn.Module, nn.Conv2d] = {}
    for normalisation, convolutions in sources.items():
        (source, *others) = convolutions
        if source is not None and not others and readers[source] == {normalisation} and shared[id(source.weight)] == 1:
            pairs[normalisation] = source
    return pairs


def _fold(convolution: nn.Conv2d, normalisation: Any) -> None:
    n = normalisation
    vectors: list[Any] = [
        None if t is None else t.double() for t in (convolution.bias, n.running_mean, n.running_var, n.weight, n.bias)
    ]
    bias, mean, variance, gamma, beta = vectors
    fused = fuse_conv_bn_weights(convolution.weight, bias, mean, variance, n.eps, gamma, beta)
    convolution.weight, convolution.bias = (nn.Parameter(t.detach().float(), requires_grad=False) for t in fused)


def _replace(root: nn.Module, folded: set[nn.Module]) -> None:
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):  # named_children() yields each module once only
            if child in folded:
                setattr(parent, name, nn.Identity())
