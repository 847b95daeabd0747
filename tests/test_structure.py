"""What the matrix checks of every backbone's tensors, modules and passes: each fault is seen, and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import zoo
from tests.structure import faults_of_a_pass, faults_of_tensors
from torch import Tensor, nn
from zoo.model.groups import partition


class Net(nn.Module):
    """Nothing unusual, beside two blocks that use one layer, and what is kept in evaluation mode, as LeViT does it."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.shared = nn.Linear(4, 4)
        self.blocks = nn.Sequential(nn.Sequential(self.shared), nn.Sequential(self.shared, nn.Dropout(0.5)))
        self.register_buffer("index", torch.arange(4), persistent=False)
        self.size = (3, 3)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Net:
        self.cache = {}
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            self.cache.setdefault("weight", self.shared.weight[:, self.index])
        output: Tensor = self.blocks(self.norm(self.conv(images)).mean((2, 3)))
        return output


def _faults(module: nn.Module) -> list[str]:
    groups = [zoo.Group(name="all", members=tuple(name for name, _ in module.named_children() if name != "blocks"))]
    own = tuple(name for name, _ in module.named_parameters(recurse=False))
    groups = [zoo.Group(name="all", members=(*groups[0].members, *own))]
    return faults_of_tensors(module, partition(module, groups, backbone="net"))


def _faults_of_a_pass(module: nn.Module) -> list[str]:
    module.eval()
    with torch.no_grad():
        return faults_of_a_pass(module, lambda: module(torch.empty(3, 3, 8, 8, device="meta")), 3)


def test_shared_layers_and_caches_that_are_emptied_are_no_faults() -> None:
    with torch.device("meta"):
        net = Net()
    assert _faults(net) == [] and _faults_of_a_pass(net) == []


def _hook(net: Net) -> None:
    net.conv.register_forward_hook(lambda *_: None)


def _half(net: Net) -> None:
    net.conv.half()


def _part(net: Net) -> None:
    net.shared.bias = nn.Parameter(torch.zeros(8)[:4])


def _expanded(net: Net) -> None:
    net.register_buffer("table", torch.zeros(1, 4).expand(4, 4))


def _transposed(net: Net) -> None:
    net.shared.weight = nn.Parameter(net.shared.weight.detach().t())


def _memory(net: Net) -> None:
    net.register_buffer("bias", net.shared.bias.detach())


def _empty(net: Net) -> None:
    net.register_buffer("none", torch.zeros(0))


def _plain(net: Net) -> None:
    net.cache = {"scale": torch.ones(1)}


def _hidden(net: Net) -> None:
    net.size = (nn.Linear(1, 1),)  # type: ignore[assignment]


def _lazy(net: Net) -> None:
    net.add_module("later", nn.LazyLinear(2))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_hook, "conv has hooks"),
        (_half, "conv.weight is torch.float16"),
        (_part, "shared.bias is a view, of strides [1] on 32 bytes"),
        (_expanded, "table is a view, of strides [0, 1] on 16 bytes"),
        (_transposed, "shared.weight is a view, of strides [1, 4] on 64 bytes"),
        (_memory, "bias has the memory of shared.bias"),
        (_empty, "none has no elements"),
        (_plain, "cache is a tensor, and neither parameter nor buffer"),
        (_hidden, "size is a module that is no part of it"),
        (_lazy, "later.weight has no shape before the first pass"),
    ],
)
def test_what_no_backbone_had_before_is_a_fault(spoil: Callable[[Net], None], fault: str) -> None:
    with torch.device("meta"):
        net = Net()
        spoil(net)
    assert any(each.lstrip(".") == fault for each in _faults(net)), _faults(net)


class Keeping(Net):
    def forward(self, images: Tensor) -> Tensor:
        self.size = tuple(images.shape)  # type: ignore[assignment]
        return super().forward(images)


class Counting(Net):
    def forward(self, images: Tensor) -> Tensor:
        self.index.add_(1)
        return super().forward(images)


class Random(Net):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images))


class OfTheBatch(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.batch_norm(images, None, None, training=True))


class Standardised(Net):
    """Its weights are standardised as if they were one image, as those of a BiT."""

    def forward(self, images: Tensor) -> Tensor:
        nn.functional.batch_norm(self.conv.weight.reshape(1, 4, -1), None, None, training=True)
        return super().forward(images)


@pytest.mark.parametrize(
    ("of", "fault"),
    [
        (Keeping, "keeps .size from one pass to the next"),
        (Counting, "keeps .index from one pass to the next"),
        (Random, "which draws random numbers"),
        (OfTheBatch, "which takes the statistics of the batch"),
    ],
)
def test_what_an_output_may_not_depend_on_is_a_fault(of: type[Net], fault: str) -> None:
    with torch.device("meta"):
        faults = _faults_of_a_pass(of())
    assert len(faults) == 1 and faults[0].endswith(fault)


def test_standardised_weights_are_no_statistics_of_the_batch() -> None:
    with torch.device("meta"):
        assert _faults_of_a_pass(Standardised()) == []
