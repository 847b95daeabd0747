"""What zoo relies on in a backbone, one check each. It is built with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor, nn

from zoo.compute import Compute
from zoo.data.sample import sample_image
from zoo.data.transform import transform
from zoo.errors import WeightsMismatch
from zoo.model.build import build_backbone
from zoo.model.groups import Partition, partition
from zoo.model.measure import idle_parameters, measure
from zoo.model.model import HEAD, ZooModel
from zoo.specs import Backbone, BackboneSpec
from zoo.testing import compare
from zoo.testing.compare import require
from zoo.testing.conduct import SEED, Fault, Skip, Step

_CLASSES = 3
_SIZES = ((97, 64), (64, 97), (300, 40), (1, 1))


@dataclass(frozen=True)
class BackboneTrial:
    """A backbone under test, as for the weights `tag`."""

    spec: BackboneSpec
    tag: str | None

    def build(self, *, seed: int = SEED, state: Mapping[str, Tensor] | None = None) -> Backbone:
        torch.manual_seed(seed)
        return build_backbone(self.spec.build, tag=self.tag, state=state, input_size=None)

    @cached_property
    def built(self) -> Backbone:
        """One that no check changes; in evaluation mode."""
        built = self.build()
        built.module.eval()
        return built

    @cached_property
    def size(self) -> tuple[int, int, int]:
        return self.spec.preprocessing_for(self.tag).input_size

    def images(self, count: int) -> Tensor:
        return torch.randn(count, *self.size, generator=torch.Generator().manual_seed(count))

    def groups(self, built: Backbone) -> Partition:
        return partition(built.module, built.groups, backbone=self.spec.name)

    def model(self) -> ZooModel:
        """The backbone under a linear head."""
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


def _dtype(trial: BackboneTrial) -> str:
    others = [name for name, each in trial.built.module.named_parameters() if each.dtype != torch.float32]
    require(not others, f"parameters must be float32, {compare.named(others)} is not")
    found = _pooled(trial.built, trial.images(2)).dtype
    require(found == torch.float32, f"float32 images must give float32 features, gave {found}")
    return "float32 images give float32 features"


def _groups(trial: BackboneTrial) -> str:
    found = trial.groups(trial.built)
    holding = set(found.tensors.values())
    empty = [name for name in found.names if name not in holding]
    require(not empty, f"the groups {compare.named(empty)} hold no parameter")
    return f"each of {len(found.tensors)} tensors in exactly one of: {', '.join(found.names)}"


def _facts(trial: BackboneTrial) -> str:
    if trial.spec.facts is None:
        raise Skip("it states none; zoo measures them when asked")
    if trial.tag != next(iter(trial.spec.tags), None):
        raise Skip("they are those of the default weights")
    stated, found = trial.spec.facts.to_dict(), measure(trial.spec).to_dict()
    wrong = [f"{name} is {found[name]}, stated {stated[name]}" for name in found if found[name] != stated[name]]
    require(not wrong, "; ".join(wrong))
    return f"measured, they are as stated: {found['parameters']:,} parameters, {found['gmacs']} gmacs"


def _batch_of_one(trial: BackboneTrial) -> str:
    images = trial.images(3)
    together = _pooled(trial.built, images)
    alone = compare.require_shape(_pooled(trial.built, images[:1]), (1, together.shape[1]), "the features of 1 image")
    compare.require_close(alone, together[:1], "an image has other features alone than in a batch", share=1e-3)
    return "an image has the same features alone as in a batch"


def _gradients(trial: BackboneTrial) -> str:
    model = trial.model().train()
    torch.autograd.backward(model.features(trial.images(2)).square().sum())
    gradients = compare.gradients_of(model.backbone)
    compare.require_finite_gradients(gradients)
    reached = {model.groups.tensors[name] for name, each in gradients.items() if each is not None}
    unreached = [name for name in model.groups.names if name not in reached]
    require(not unreached, f"no gradient of the pooled features reaches the groups {compare.named(unreached)}")
    idle = sum(each is None for each in gradients.values())
    resting = f"; {idle} parameters take no part" if idle else ""
    return f"finite, in every group of {len(model.groups.names)}{resting}"


def _determinism(trial: BackboneTrial) -> str:
    images = trial.images(2)
    seen = []
    for _ in range(2):
        torch.manual_seed(SEED)
        with compare.seed_untouched("building or running it"):
            built = build_backbone(trial.spec.build, tag=trial.tag, state=None, input_size=None)
            state = compare.kept(built.module)
            with torch.no_grad():
                features = built.pool(built.module.train(), images)
        seen.append((state, features))
    (first, features), (second, again) = seen
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    require(not differ, f"built twice under one seed, {compare.named(differ)} differs")
    require(torch.equal(features, again), "run twice under one seed in training mode, the features differ")
    return "built and run twice under one seed, every bit is the same"


def _modes(trial: BackboneTrial) -> str:
    built, images = trial.build(), trial.images(3)
    module = built.module.eval()
    left = compare.training_modules(module)
    require(not left, f".eval() leaves {compare.named(left)} in training mode")
    before = compare.kept(module)
    first, second = _pooled(built, images), _pooled(built, images)
    require(torch.equal(first, second), "in evaluation mode the same images give other features the second time")
    moved = compare.changed(before, module)
    require(not moved, f"in evaluation mode a forward pass changes {compare.named(moved)}")
    turned = _pooled(built, images.flip(0)).flip(0)
    fault = "in evaluation mode an image's features depend on the others in its batch"
    compare.require_close(turned, first, fault, share=1e-3)
    return "in evaluation mode every image has its own features, always the same, and nothing changes"


def _state_round_trip(trial: BackboneTrial) -> str:
    built, images = trial.built, trial.images(2)
    stored = compare.through_a_file(built.module)
    again = trial.build(seed=SEED + 1, state=stored)
    again.module.eval()
    same = torch.equal(_pooled(again, images), _pooled(built, images))
    require(same, "built again with the saved state it has other features")
    missing = next(name for name in stored if not name.endswith("num_batches_tracked"))
    try:
        trial.build(state={name: each for name, each in stored.items() if name != missing})
    except WeightsMismatch:
        return f"built with its {len(stored)} saved tensors it is the same, bit for bit; with one missing it refuses"
    raise Fault(f"a state without {missing!r} is taken without a word; zoo.load_weights says what does not fit")


def _device_move(trial: BackboneTrial) -> str:
    with torch.device("meta"):
        outline = trial.build()
        outline.module.eval()
        shape = _pooled(outline, torch.empty(2, *trial.size)).shape
    wanted = (2, outline.shape.pooled)
    require(tuple(shape) == wanted, f"on the meta device the features are {list(shape)}, not {list(wanted)}")
    moved = trial.build()
    moved.module.to("meta").eval()
    elsewhere = [name for name, each in compare.tensors_of(moved.module).items() if not each.is_meta]
    require(not elsewhere, f"moved to another device, {compare.named(elsewhere)} stays")
    _pooled(moved, torch.empty(2, *trial.size, device="meta"))
    return "built on the meta device, and moved to it from the CPU, it runs"


def _cuda(trial: BackboneTrial) -> str:
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device here")
    built, images = trial.build(), trial.images(2)
    built.module.eval()
    expected = _pooled(built, images)
    built.module.to("cuda")
    # TF32 convolutions have ten bits.
    apart = compare.require_close(_pooled(built, images.to("cuda")), expected, "on the GPU they are others", share=1e-2)
    return f"on the GPU the features are those of the CPU, within {apart:.1g} of the largest"


def _preprocessing(trial: BackboneTrial) -> str:
    preprocessing = trial.spec.preprocessing_for(trial.tag)
    pictures = [sample_image(0, 1, "train", 0), *(Image.new("RGB", size, (200, 30, 90)) for size in _SIZES)]
    prepared = [transform(picture, preprocessing) for picture in pictures]
    if trial.spec.reference is None:
        raise Skip("its provider offers no reference transform to compare with")
    theirs = trial.spec.reference(trial.tag)
    for picture, ours in zip(pictures, prepared, strict=True):
        size = f"an image of {picture.width}x{picture.height}"
        expected = compare.require_shape(theirs(picture), ours.shape, f"{size} by the reference transform")
        require(torch.equal(ours, expected), f"{size} comes out differently than with the reference transform")
    return f"{len(pictures)} images come out bit for bit as with the reference transform"


def _freezing(trial: BackboneTrial) -> str:
    """The head alone, then each end of the backbone: what rests must not change, what trains must."""
    model, images = trial.model(), trial.images(2)
    model.idle = idle_parameters(_outline(trial))
    first, last = model.active_groups()[0], model.active_groups()[-1]
    for trains in ([HEAD], [last, HEAD], [first]):
        _step(model, trains, images)
    return f"while the head, {last} or {first} trains, the rest stays as it was, bit for bit"


def _outline(trial: BackboneTrial) -> ZooModel:
    with torch.device("meta"):
        return trial.model()


def _step(model: ZooModel, trains: list[str], images: Tensor) -> None:
    model.freeze_all_but(trains)
    model.train()
    before = compare.kept(model)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    torch.autograd.backward(model.loss(model.features(images), torch.arange(len(images)) % _CLASSES))
    optimizer.step()
    moved = compare.changed(before, model)
    wrong = [name for name in moved if not model.trains(name, trains)]
    require(not wrong, f"while {' and '.join(trains)} trains, the frozen {compare.named(wrong)} changes")
    still = set(trains) - {model.group_of(name) for name in moved}
    require(not still, f"a step that trains {' and '.join(trains)} leaves {', '.join(sorted(still))} as it was")


def _bf16(trial: BackboneTrial) -> str:
    model, images = trial.model().eval(), trial.images(2)
    with torch.no_grad():
        expected = model.features(images)
        found = model.compute_as(Compute(precision="bfloat16", memory_format="contiguous")).features(images)
    compare.require_shape(found, expected.shape, "the features in bfloat16")
    apart = compare.require_close(found, expected, "in bfloat16 the features are others", share=compare.CLOSE_BF16)
    return f"in bfloat16 the features are within {apart:.2g} of the largest of float32's"


class _Pool(nn.Module):
    """What an artefact would export: images -> pooled features."""

    def __init__(self, built: Backbone) -> None:
        super().__init__()
        self.module = built.module
        self._pool = built.pool

    def forward(self, images: Tensor) -> Tensor:
        return self._pool(self.module, images)


def _export(trial: BackboneTrial) -> str:
    built = trial.build()
    module = _Pool(built).eval().requires_grad_(False)
    compare.require_exported(module, trial.images(2), [trial.images(1), trial.images(3)])
    return "torch.export takes it, for any number of images, and the program's features are its own"


STEPS: tuple[Step[BackboneTrial], ...] = (
    ("builds", _builds),
    ("shapes", _shapes),
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
