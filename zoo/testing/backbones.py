"""The checks of a backbone. It is built with random weights, so nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor, nn

from zoo.data.sample import sample_image
from zoo.data.transform import transform
from zoo.errors import WeightsMismatch
from zoo.model.build import build_backbone
from zoo.model.groups import Partition, partition
from zoo.model.layers import NoLayers, find_outputs, layer_means
from zoo.model.measure import idle_parameters, measure
from zoo.model.model import HEAD, ZooModel
from zoo.specs.backbone import Backbone, BackboneSpec
from zoo.specs.plan import Compute
from zoo.testing import compare
from zoo.testing.compare import require
from zoo.testing.conduct import SEED, Fault, Skip, Step

_CLASSES = 3
_SIZES = ((97, 64), (64, 97), (300, 40), (1, 1))
"""(width, height) of images for the preprocessing check: wide, tall, very wide, one pixel."""


@dataclass(frozen=True)
class BackboneTrial:
    """A backbone under test, built as for the weights `tag`; None where it has no weights."""

    spec: BackboneSpec
    tag: str | None

    def build(
        self, *, seed: int = SEED, state: Mapping[str, Tensor] | None = None, size: tuple[int, int] | None = None
    ) -> Backbone:
        """Build it anew, from a state dict (tensors of any shape, by name) or with random weights of this seed.

        `size` is (height, width) in pixels, where it is another than that of the weights.
        """
        torch.manual_seed(seed)
        return build_backbone(self.spec.build, tag=self.tag, state=state, input_size=size)

    @cached_property
    def built(self) -> Backbone:
        """A shared instance in evaluation mode. Checks only read it; one that changes it must call `build`."""
        built = self.build()
        built.module.eval()
        return built

    @cached_property
    def size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the input."""
        return self.spec.preprocessing_for(self.tag).input_size

    def images(self, count: int) -> Tensor:
        """Random images[count, 3, H, W], always the same for one count."""
        return torch.randn(count, *self.size, generator=torch.Generator().manual_seed(count))

    def groups(self, built: Backbone) -> Partition:
        """Which group holds each tensor. Raises an error where the groups are no partition."""
        return partition(built.module, built.groups, backbone=self.spec.name)

    def model(self) -> ZooModel:
        """Build the backbone with a linear head on top, as zoo trains it."""
        built = self.build()
        return ZooModel(
            built,
            nn.Linear(built.shape.pooled, _CLASSES),
            name=self.spec.name,
            classes=tuple(f"class{index}" for index in range(_CLASSES)),
            preprocessing=self.spec.preprocessing_for(self.tag),
        )


def _pooled(built: Backbone, images: Tensor) -> Tensor:
    with torch.no_grad():
        return built.pool(built.module, images)


def _builds(trial: BackboneTrial) -> str:
    built = trial.built
    require(isinstance(built, Backbone), f"build must return a zoo.Backbone, returned a {type(built).__name__}")
    numbers = sum(parameter.numel() for parameter in built.module.parameters())
    return f"{numbers:,} parameters in {len(built.groups)} groups"


def _shapes(trial: BackboneTrial) -> str:
    built, images = trial.built, trial.images(2)
    width = built.shape.pooled
    pooled = compare.require_shape(_pooled(built, images), (2, width), "the pooled features of 2 images")
    require(bool(pooled.isfinite().all()), "the pooled features are not finite")
    if built.map is None:
        return f"pooled features[N, {width}], no map"
    with torch.no_grad():
        grid = built.map(built.module, images)
    compare.require_shape(grid, (2, built.shape.map, None, None), "the map of 2 images")
    require(bool(grid.isfinite().all()), "the map is not finite")
    return f"pooled features[N, {width}], map[N, {', '.join(map(str, grid.shape[1:]))}]"


def _layers(trial: BackboneTrial) -> str:
    _, height, width = trial.size
    native = height, width
    try:
        # None for the native size: that is how zoo builds it where nobody asks for another one.
        outputs = find_outputs(lambda size: trial.build(size=None if size == native else size), native)
    except NoLayers as error:
        raise Skip(f"no head can take the outputs of its groups: {error}") from None
    with torch.no_grad():
        features = layer_means(trial.built.pool, outputs)(trial.built.module, trial.images(2))
    wide = trial.built.shape.pooled + sum(each.width for each in outputs)
    compare.require_shape(features, (2, wide), "the features of all layers of 2 images")
    require(bool(features.isfinite().all()), "the features of all layers are not finite")
    return f"features[N, {wide}] of the outputs of {', '.join(each.module for each in outputs)}"


def _dtype(trial: BackboneTrial) -> str:
    other = [name for name, tensor in trial.built.module.named_parameters() if tensor.dtype != torch.float32]
    require(not other, f"parameters must be float32, {compare.listed(other)} is not")
    dtype = _pooled(trial.built, trial.images(2)).dtype
    require(dtype == torch.float32, f"float32 images must give float32 features, gave {dtype}")
    return "float32 images give float32 features"


def _groups(trial: BackboneTrial) -> str:
    groups = trial.groups(trial.built)
    not_empty = set(groups.tensors.values())
    # A recipe that trains a group without parameters would train nothing, and its stage would be in vain.
    empty = [name for name in groups.names if name not in not_empty]
    require(not empty, f"the groups {compare.listed(empty)} hold no parameter")
    return f"each of {len(groups.tensors)} tensors in exactly one of: {', '.join(groups.names)}"


def _facts(trial: BackboneTrial) -> str:
    if trial.spec.facts is None:
        raise Skip("its spec states no facts; zoo measures them when needed")
    if trial.tag != next(iter(trial.spec.tags), None):
        raise Skip("its spec states facts for the default weights only")
    stated, measured = trial.spec.facts.to_dict(), measure(trial.spec).to_dict()
    wrong = [f"{name} is {value}, stated {stated[name]}" for name, value in measured.items() if value != stated[name]]
    require(not wrong, "; ".join(wrong))
    return f"measured facts equal the stated ones: {measured['parameters']:,} parameters, {measured['gmacs']} gmacs"


def _batch_of_one(trial: BackboneTrial) -> str:
    images = trial.images(3)
    together = _pooled(trial.built, images)
    alone = compare.require_shape(_pooled(trial.built, images[:1]), (1, together.shape[1]), "the features of 1 image")
    compare.require_close(alone, together[:1], "an image has different features alone and in a batch", share=1e-3)
    return "an image has the same features alone as in a batch"


def _gradients(trial: BackboneTrial) -> str:
    model = trial.model().train()
    torch.autograd.backward(model.features(trial.images(2)).square().sum())
    gradients = compare.gradients_of(model.backbone)
    compare.require_finite_gradients(gradients)
    reached = {model.groups.tensors[name] for name, gradient in gradients.items() if gradient is not None}
    unreached = [name for name in model.groups.names if name not in reached]
    require(not unreached, f"no gradient of the pooled features reaches the groups {compare.listed(unreached)}")
    # A single idle parameter is no fault: some backbones have branches that the pooled features do not use.
    idle = sum(gradient is None for gradient in gradients.values())
    unused = f"; {idle} parameters are not used" if idle else ""
    return f"gradients are finite and reach all {len(model.groups.names)} groups{unused}"


def _determinism(trial: BackboneTrial) -> str:
    images = trial.images(2)
    runs = []
    for _ in range(2):
        torch.manual_seed(SEED)
        with compare.seed_untouched("building or running it"):
            built = build_backbone(trial.spec.build, tag=trial.tag, state=None, input_size=None)
            state = compare.snapshot(built.module)
            with torch.no_grad():
                # In training mode, because dropout and stochastic depth draw there, and zoo's seed must decide that,
                # too.
                features = built.pool(built.module.train(), images)
        runs.append((state, features))
    (first, first_features), (second, second_features) = runs
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    require(not differ, f"built twice with the same seed, {compare.listed(differ)} differs")
    same = torch.equal(first_features, second_features)
    require(same, "run twice with the same seed in training mode, the features differ")
    return "built and run twice with the same seed, the results are bit-identical"


def _modes(trial: BackboneTrial) -> str:
    built, images = trial.build(), trial.images(3)
    module = built.module.eval()
    in_training = compare.modules_in_mode(module, training=True)
    require(not in_training, f".eval() leaves {compare.listed(in_training)} in training mode")
    before = compare.snapshot(module)
    first, second = _pooled(built, images), _pooled(built, images)
    require(torch.equal(first, second), "in evaluation mode the same images give different features the second time")
    changed = compare.changed(before, module)
    require(not changed, f"in evaluation mode a forward pass changes {compare.listed(changed)}")
    # The same size of batch: another one may change the last bits by itself.
    reversed_batch = _pooled(built, images.flip(0)).flip(0)
    fault = "in evaluation mode an image's features depend on the other images in its batch"
    compare.require_close(reversed_batch, first, fault, share=1e-3)
    return "in evaluation mode features are repeatable and independent of the batch, and a forward pass changes nothing"


def _state_round_trip(trial: BackboneTrial) -> str:
    built, images = trial.built, trial.images(2)
    stored = compare.through_a_file(built.module)
    # With another seed, so that only the state can make the two equal.
    again = trial.build(seed=SEED + 1, state=stored)
    again.module.eval()
    same = torch.equal(_pooled(again, images), _pooled(built, images))
    require(same, "rebuilt from its saved state, it gives different features")
    # Batch counters may be missing: old checkpoints lack them, and load_weights accepts that.
    missing = next(name for name in stored if not name.endswith("num_batches_tracked"))
    try:
        trial.build(state={name: tensor for name, tensor in stored.items() if name != missing})
    except WeightsMismatch:
        return f"rebuilt from its {len(stored)} saved tensors, it is bit-identical; with one missing it is refused"
    raise Fault(f"a state without {missing!r} is accepted silently; load it with zoo.load_weights, which refuses it")


def _device_move(trial: BackboneTrial) -> str:
    with torch.device("meta"):
        outline = trial.build()
        outline.module.eval()
        shape = _pooled(outline, torch.empty(2, *trial.size)).shape
    expected = (2, outline.shape.pooled)
    require(tuple(shape) == expected, f"on the meta device the features are {list(shape)}, not {list(expected)}")
    # The meta device stands for a GPU here: a tensor that does not move with the module fails on it in the same way.
    moved = trial.build()
    moved.module.to("meta").eval()
    left_behind = [name for name, tensor in compare.tensors_of(moved.module).items() if not tensor.is_meta]
    require(not left_behind, f"moved to another device, {compare.listed(left_behind)} stays on the old one")
    _pooled(moved, torch.empty(2, *trial.size, device="meta"))
    return "it runs when built on the meta device, and when moved there from the CPU"


def _cuda(trial: BackboneTrial) -> str:
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device here")
    built, images = trial.build(), trial.images(2)
    built.module.eval()
    expected = _pooled(built, images)
    built.module.to("cuda")
    actual = _pooled(built, images.to("cuda"))
    # TF32 convolutions have ten bits of precision.
    difference = compare.require_close(actual, expected, "the features on the GPU differ from the CPU's", share=1e-2)
    return f"the features on the GPU equal the CPU's, within {difference:.1g} of the largest"


def _preprocessing(trial: BackboneTrial) -> str:
    preprocessing = trial.spec.preprocessing_for(trial.tag)
    images = [sample_image(0, 1, "train", 0), *(Image.new("RGB", size, (200, 30, 90)) for size in _SIZES)]
    # Before the reference is looked at: zoo's own transform must handle these sizes even without one.
    preprocessed = [transform(image, preprocessing) for image in images]
    if trial.spec.reference is None:
        raise Skip("its provider offers no reference transform to compare with")
    reference = trial.spec.reference(trial.tag)
    for image, actual in zip(images, preprocessed, strict=True):
        size = f"an image of {image.width}x{image.height}"
        expected = compare.require_shape(reference(image), actual.shape, f"{size} by the reference transform")
        require(torch.equal(actual, expected), f"{size} is preprocessed differently by the reference transform")
    return f"{len(images)} images are preprocessed bit-identically to the reference transform"


def _freezing(trial: BackboneTrial) -> str:
    """Train the head alone, then the last and the first group: only what trains may change, and it must."""
    model, images = trial.model(), trial.images(2)
    model.idle = idle_parameters(_outline(trial))
    first, last = model.active_groups()[0], model.active_groups()[-1]
    # The first group alone: its gradient has to pass through all that is frozen above it.
    for trains in ([HEAD], [last, HEAD], [first]):
        _step(model, trains, images)
    return f"while the head, {last} or {first} trains, everything else stays bit-identical"


def _outline(trial: BackboneTrial) -> ZooModel:
    with torch.device("meta"):
        return trial.model()


def _step(model: ZooModel, trains: list[str], images: Tensor) -> None:
    model.freeze_all_but(trains)
    model.train()
    before = compare.snapshot(model)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    torch.autograd.backward(model.loss(model.features(images), torch.arange(len(images)) % _CLASSES))
    optimizer.step()
    changed = compare.changed(before, model)
    wrong = [name for name in changed if not model.trains(name, trains)]
    require(not wrong, f"while {' and '.join(trains)} trains, the frozen {compare.listed(wrong)} changes")
    unchanged = set(trains) - {model.group_of(name) for name in changed}
    require(not unchanged, f"a step that trains {' and '.join(trains)} does not change {', '.join(sorted(unchanged))}")


def _bf16(trial: BackboneTrial) -> str:
    model, images = trial.model().eval(), trial.images(2)
    with torch.no_grad():
        expected = model.features(images)
        actual = model.compute_as(Compute(precision="bfloat16", memory_format="contiguous")).features(images)
    compare.require_shape(actual, expected.shape, "the features in bfloat16")
    fault = "the features in bfloat16 differ from float32's"
    difference = compare.require_close(actual, expected, fault, share=compare.CLOSE_BF16)
    return f"the features in bfloat16 equal float32's, within {difference:.2g} of the largest"


class _Pooled(nn.Module):
    """The backbone as a module that can be exported: images[N, 3, H, W] -> features[N, F]."""

    def __init__(self, built: Backbone) -> None:
        super().__init__()
        self.module = built.module
        self._pool = built.pool

    def forward(self, images: Tensor) -> Tensor:
        return self._pool(self.module, images)


def _export(trial: BackboneTrial) -> str:
    built = trial.build()
    module = _Pooled(built).eval().requires_grad_(False)
    compare.require_exported(module, trial.images(2), [trial.images(1), trial.images(3)])
    return "torch.export accepts it for any batch size, and the exported program gives the same features"


STEPS: tuple[Step[BackboneTrial], ...] = (
    ("builds", _builds),
    ("shapes", _shapes),
    ("layers", _layers),
    ("dtype", _dtype),
    ("groups", _groups),
    ("facts", _facts),
    ("batch_of_one", _batch_of_one),
    ("gradients", _gradients),
    ("determinism", _determinism),
    ("train_and_eval", _modes),
    ("state_round_trip", _state_round_trip),
    ("device_move", _device_move),
    ("cuda", _cuda),
    ("preprocessing", _preprocessing),
    ("freezing", _freezing),
    ("bf16", _bf16),
    ("export", _export),
)
