"""Where the outputs of a backbone's groups are found, and what a head on all layers gets of them."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import zoo
from torch import Tensor, nn
from zoo.errors import PluginError, Refused
from zoo.model.adapters import adaptable_layers, adapted
from zoo.model.cut import CannotCut
from zoo.model.gradcam import grad_cam
from zoo.model.layers import NoLayers, find_outputs, layer_means
from zoo.model.measure import idle_parameters
from zoo.model.model import HEAD, ZooModel, check_shapes
from zoo.planning.resolved_model import ResolvedModel, resolve_model
from zoo.registry.catalogue import Filter, find_backbones
from zoo.registry.registry import default_registry
from zoo.specs.backbone import Backbone, FeatureShape, Group
from zoo.specs.plan import Compute

CLASSES = ("a", "b", "c")
REGISTRY = default_registry()
SIZE = (16, 16)
TRIED: dict[str, Any] = {"backbone": "timm/test_vit", "head": "layers", "weights": "random", "tune": False}


def resolved(backbone: str, input_size: tuple[int, int] | None = None) -> ResolvedModel:
    return resolve_model(REGISTRY, backbone, "layers", head_options={}, input_size=input_size)


def built(backbone: str, input_size: tuple[int, int] | None = None) -> ZooModel:
    torch.manual_seed(0)
    return resolved(backbone, input_size).build(CLASSES, None).eval()


def images_of(model: ZooModel, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *model.preprocessing.input_size, generator=generator)


def root_mean_square_one(mean: Tensor) -> Tensor:
    return torch.stack([image / float(image.square().mean()) ** 0.5 for image in mean])


# What the features are


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_of_a_convolutional_network_they_are_the_means_of_timms_own_intermediate_maps(name: str) -> None:
    model = built(f"timm/{name}")
    images, backbone = images_of(model), cast("Any", model.backbone)
    with torch.no_grad():
        features = model.features(images)
        pooled = backbone(images)
        maps = backbone.forward_intermediates(images, intermediates_only=True)
    assert torch.equal(features[:, : pooled.shape[1]], pooled)
    widths = [each.width for each in model.layers]
    means = features[:, pooled.shape[1] :].split(widths, dim=1)
    ours = dict(zip([each.group for each in model.layers], means, strict=True))
    # timm names the module whose output each map is.
    of_module = {each.module: ours[each.group] for each in model.layers}
    compared = 0
    for info, expected in zip(backbone.feature_info, maps, strict=True):
        if info["module"] in of_module:
            wanted = root_mean_square_one(expected.mean((2, 3)))
            assert torch.allclose(of_module[info["module"]], wanted, atol=1e-5)
            compared += 1
    assert compared >= 3


def test_of_a_transformer_they_are_the_means_of_all_tokens() -> None:
    model = built("timm/test_vit")
    backbone: Any = model.backbone
    images = images_of(model)
    with torch.no_grad():
        tokens = backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(images))))
        expected = [tokens.mean(1)]
        for block in backbone.blocks:
            tokens = block(tokens)
            expected.append(tokens.mean(1))
        expected[-1] = backbone.norm(tokens).mean(1)
        features = model.features(images)
    assert [each.group for each in model.layers] == list(model.groups.names)
    wanted = torch.cat([backbone(images), *map(root_mean_square_one, expected)], dim=1)
    assert torch.allclose(features, wanted, atol=1e-5)
    check_shapes(model)


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "torchvision/squeezenet1_1"])
def test_in_bfloat16_they_are_float32_and_about_the_same(backbone: str) -> None:
    model = built(backbone, (64, 64))
    with torch.no_grad():
        full = model.features(images_of(model))
        half = model.compute_as(Compute("bfloat16", "channels_last")).features(images_of(model))
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half) and float((full - half).abs().max()) < 0.1 * float(full.abs().max())


def test_an_image_has_the_same_features_alone_as_in_a_batch() -> None:
    model = built("timm/test_vit")
    images = images_of(model, 3)
    with torch.no_grad():
        assert torch.allclose(model.features(images[:1]), model.features(images)[:1], atol=1e-5)


# How the outputs are found


class Turned(nn.Module):
    """Turn map[N, C, H, W] into another layout."""

    def __init__(self, turn: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.turn = turn

    def forward(self, features: Tensor) -> Any:
        return self.turn(features * self.scale)


class Made(nn.Module):
    """Two groups, `first` and `second`; `forward` sees the output of `first` as a map again."""

    def __init__(self, turn: Callable[[Tensor], Any], back: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = Turned(turn)
        self.second = nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.back = back

    def forward(self, images: Tensor) -> Tensor:
        features = self.act(self.second(self.back(self.first(self.stem(images)))))
        pooled: Tensor = self.pool(features).flatten(1)
        return pooled


def make(turn: Callable[[Tensor], Any], back: Callable[[Any], Tensor]) -> Backbone:
    torch.manual_seed(0)
    groups = (Group(name="one", members=("stem", "first")), Group(name="two", members=("second",)))
    return Backbone(module=Made(turn, back).eval(), shape=FeatureShape(pooled=5), groups=groups)


def side(tokens: Tensor) -> int:
    return round(max(tokens.shape[1:]) ** 0.5)


LAYOUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor], tuple[int, ...]]] = {
    "NCHW": (lambda x: x, lambda x: x, (1,)),
    "NHWC": (lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2), (3,)),
    "NHCW": (lambda x: x.permute(0, 2, 1, 3), lambda x: x.permute(0, 2, 1, 3), (2,)),
    "NLC": (
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.transpose(1, 2).unflatten(2, (side(x), side(x))),
        (2,),
    ),
    "NCL": (lambda x: x.flatten(2), lambda x: x.unflatten(2, (side(x), side(x))), (1,)),
    "two": (lambda x: (x[:, :2], [x[:, 2:], (1, 2)]), lambda x: torch.cat([x[0], x[1][0]], 1), (1,)),
    "pair": (lambda x: (x[:, :2], x[:, 2:].permute(0, 2, 3, 1)), lambda x: _joined(x), (1, 3)),
}


def _joined(pair: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([pair[0], pair[1].permute(0, 3, 1, 2)], 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_channels_are_found_in_every_layout_of_the_output(layout: str) -> None:
    turn, back, channels = LAYOUTS[layout]
    one, two = find_outputs(lambda size: make(turn, back), SIZE)
    assert (one.group, one.module, one.channels) == ("one", "first", channels)
    # Not the pooling, whose output has no positions; and after the activation.
    assert (two.group, two.module, two.channels, two.width) == ("two", "act", (1,), 5)
    backbone, images = make(turn, back), torch.randn(4, 3, *SIZE)
    with torch.no_grad():
        features = layer_means(backbone.pool, (one, two))(backbone.module, images)
        stem = backbone.module.get_submodule("stem")(images).mean((2, 3))
    assert torch.allclose(features[:, 5 : 5 + one.width], root_mean_square_one(stem[:, : one.width]), atol=1e-5)
    assert torch.allclose(features[:, 5 + one.width :], root_mean_square_one(features[:, :5]), atol=1e-4)


def test_a_module_that_several_groups_use_is_no_output() -> None:
    class Shared(Made):
        def forward(self, images: Tensor) -> Tensor:
            features = self.act(self.first(self.stem(images)))
            pooled: Tensor = self.pool(self.act(self.second(features))).flatten(1)
            return pooled

    def build(size: tuple[int, int]) -> Backbone:
        original = make(lambda x: x, lambda x: x)
        return Backbone(module=Shared(lambda x: x, lambda x: x), shape=original.shape, groups=original.groups)

    assert [each.module for each in find_outputs(build, SIZE)] == ["first", "second"]


def test_a_group_without_a_clear_output_is_left_out_and_a_backbone_without_any_is_refused() -> None:
    # Neither of two tokens nor of the channels is known what grows with the image.
    def two_tokens(x: Tensor) -> Tensor:
        return x.mean((2, 3)).unflatten(1, (2, 3))

    def build(size: tuple[int, int]) -> Backbone:
        return make(two_tokens, lambda x: x.flatten(1)[..., None, None])

    (stem, last) = find_outputs(build, SIZE)
    assert (stem.module, last.module) == ("stem", "pool")  # the last ones whose channels are known

    def all_in_one(size: tuple[int, int]) -> Backbone:
        module = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (3, -1)))
        module.register_parameter("scale", nn.Parameter(torch.ones(1)))
        return Backbone(module=module, shape=FeatureShape(pooled=1), groups=(Group(name="all", members=("scale",)),))

    with pytest.raises(NoLayers, match="of none of its groups is it clear"):
        find_outputs(all_in_one, SIZE)


def test_a_backbone_of_one_size_is_refused_and_the_next_step_works() -> None:
    name = "timm/efficientformer_l1"
    with pytest.raises(Refused) as caught:
        resolved(name).outline(CLASSES)
    message = str(caught.value)
    assert message.startswith(f"Head 'layers' needs the outputs of the groups of {name}")
    assert "does not take images of 448x448" in message
    instead, listed = re.findall(r"--head (\w+)", message)
    resolve_model(REGISTRY, name, instead, head_options={}).outline(CLASSES)
    named = {each.spec.name for each in find_backbones(REGISTRY, Filter(head=REGISTRY.head(listed).spec))}
    assert name not in named and {"timm/test_vit", "torchvision/resnet18", "timm/crossvit_9_240"} <= named


# Hooks


def test_hooks_are_removed_again_after_a_fault_too() -> None:
    model = built("timm/test_resnet")
    with torch.no_grad():
        model.features(images_of(model))
        with pytest.raises(RuntimeError):
            model.features(torch.zeros(2, 4, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_two_threads_that_share_a_model_each_get_their_own_features() -> None:
    model = built("timm/test_resnet")
    batches = [images_of(model, 2), images_of(model, 3)]
    with torch.no_grad():
        alone = [model.features(batch) for batch in batches]
    found: list[list[Tensor]] = [[], []]
    meet = threading.Barrier(2)

    def run(number: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                meet.wait()
                found[number].append(model.features(batches[number]))

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert len(found[number]) == 20
        assert all(torch.allclose(each, alone[number], atol=1e-6) for each in found[number])


def test_a_copy_reads_its_own_modules() -> None:
    model = built("timm/test_resnet")
    twin, images = copy.deepcopy(model), images_of(model)
    with torch.no_grad():
        before = model.features(images)
        for parameter in model.backbone.parameters():
            parameter.zero_()
        assert torch.equal(twin.features(images), before)
        assert not torch.equal(model.features(images), before)


def test_an_output_that_is_not_computed_is_a_fault_and_not_a_gap() -> None:
    model = built("timm/test_resnet")
    images = images_of(model)
    with torch.no_grad():
        never = layer_means(lambda module, images: torch.zeros(2, 1), model.layers)
        with pytest.raises(PluginError, match="The output of the group stem was not computed"):
            never(model.backbone, images)
        twice = layer_means(lambda module, images: torch.cat([module(images), module(images)]), model.layers)
        with pytest.raises(PluginError, match="the output of the group stem, was called twice"):
            twice(model.backbone, images)
        other = replace(model.layers[0], width=1)
        with pytest.raises(PluginError, match="returned something else than when the outputs of the groups were found"):
            layer_means(lambda module, images: module(images), [other])(model.backbone, images)


# Training


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet"])
def test_gradients_reach_every_group_also_where_the_pooled_features_do_not_pass(name: str) -> None:
    model = built(name)
    features = model.features(images_of(model))
    features[:, model.shape.pooled :].sin().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.backbone.named_parameters()}
    assert {model.groups.tensors[name] for name, gradient in gradients.items() if gradient is not None} == set(
        model.groups.names
    )


def test_what_only_the_layers_use_is_not_idle() -> None:
    outline = resolved("timm/test_vit").outline(CLASSES)
    outline.idle = idle_parameters(outline)
    assert outline.active_groups() == outline.groups.names


def test_the_backbone_cannot_be_cut_below_such_a_head() -> None:
    model = built("timm/test_resnet")
    with pytest.raises(CannotCut, match="the head takes the outputs of the groups on both sides"):
        model.cut_before(model.groups.names[-1])


def test_outputs_of_adapted_layers_are_read_with_their_adapters() -> None:
    pytest.importorskip("peft")
    model = built("timm/test_vit")
    outline = resolved("timm/test_vit").outline(CLASSES)
    layers = adaptable_layers(outline, [*outline.groups.names], rank=2)
    images = images_of(model)
    with torch.no_grad():
        before = model.features(images)
        with adapted(model, layers, rank=2, alpha=4):
            assert torch.equal(model.features(images), before)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
            within = model.features(images)
        after = model.features(images)
    assert torch.equal(after, before)
    changed = [not torch.equal(*pair) for pair in zip(_means(model, within), _means(model, before), strict=True)]
    assert all(changed)


def _means(model: ZooModel, features: Tensor) -> list[Tensor]:
    return list(features.split([model.shape.pooled, *(each.width for each in model.layers)], dim=1))


def test_the_head_is_one_linear_layer_on_the_features_and_trains_alone() -> None:
    model = built("timm/test_resnet")
    linear = model.get_submodule(f"{HEAD}.fc")
    assert isinstance(linear, nn.Linear) and linear.in_features == model.shape.pooled + sum(model.shape.layers or ())
    images = images_of(model)
    with torch.no_grad():
        assert torch.equal(model(images), linear(model.features(images)))


def test_a_run_trains_the_head_on_kept_features_and_then_the_backbone_on_images(few: Path, tmp_path: Path) -> None:
    settings = ["last.augment=none", "last.epochs=2"]
    run = zoo.finetune(**TRIED, recipe="staged", epochs=1, set=settings, data=few, out=tmp_path / "run")
    plan = json.loads((run.path / "plan.json").read_text("utf-8"))
    head, last, _ = plan["stages"]
    assert head["inputs"] == "features" and last["inputs"] == "images"
    assert last["why"].endswith("cannot be cut before blocks.5: the head takes the outputs of the groups on both sides")
    assert run.content["proof"] == "passed"
    assert plan["backbone"]["features"] == 64 * 8 and [each["width"] for each in plan["head"]["layers"]] == [64] * 7
    images = sorted((few / "val").rglob("*.*"))
    assert len(zoo.load(run.path).predict(images)) == len(images)


def test_gradient_checkpointing_is_refused_and_the_next_step_works(few: Path) -> None:
    # It runs timm's blocks one by one, and a stage of them is never called.
    asked: dict[str, Any] = {**TRIED, "recipe": "staged", "data": few}
    with pytest.raises(Refused, match=r"gradient_checkpointing: does not compute as a whole .*; leave it out"):
        zoo.plan(**asked, set=["last.gradient_checkpointing=true"])
    zoo.plan(**asked)
    plan = zoo.plan(**{**asked, "head": "linear"}, set=["last.gradient_checkpointing=true"])
    # A checkpoint of a version without layers has no such key, which counts as None.
    assert plan.head.layers is None


def test_grad_cam_finds_the_last_map_below_such_a_head() -> None:
    model = built("timm/test_resnet")
    found = grad_cam(model, images_of(model))
    assert found.heat is not None and "the last map" in found.layer


def test_the_widths_of_the_layers_must_be_widths() -> None:
    for wrong in ((), (3, 0)):
        with pytest.raises(ValueError, match="layers must be widths of at least 1"):
            zoo.FeatureShape(pooled=3, layers=wrong)
