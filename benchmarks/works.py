"""What is measured, program by program, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks import asked
from benchmarks.asked import Asked
from benchmarks.peers.task import Stage
from benchmarks.rows import Run

SQUEEZENET = "squeezenet1_1"
_LAST = Path(__file__).with_name("last.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """What a program works on."""

    real: str = ""
    """A folder of `data/`; nothing: generated photographs and random weights."""
    halved: bool = False
    """zoo chooses on one half of val/, drawn by the seed, and all are compared on the other; else all are on val/."""
    count: int = 0
    """Of generated photographs, for training and validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Zoo:
    """A run of `zoo finetune` with an empty cache folder."""

    name: str = "zoo"
    recipe: str
    epochs: int | None = None
    head: str = "dropout_linear"
    settings: tuple[str, ...] = ()
    """STAGE.K=V"""
    count: int | None = None
    """Of generated photographs, where it is not the work's."""
    planned: bool = False
    """`zoo plan` has found out before, in the same cache folder, which precision is fastest here."""
    earlier_head: str = ""
    """The same with this head has been done before, in the same cache folder; its row is in this one's `earlier`."""
    fixed_batch: bool = False
    """Measure beside it how fast its steps are on a batch in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A run of one of PEERS."""

    name: str
    program: str
    stages: tuple[Stage, ...]
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Programs that do the same and take turns."""

    name: str
    title: str
    backbone: str = SQUEEZENET
    images: Images
    programs: tuple[Zoo | Peer, ...]
    asked: tuple[Asked, ...]
    needs: str = ""
    """A key of a recipe's stages that this zoo must know."""
    note: str = ""


def run_of(work: Work, program: Zoo | Peer, seed: int, *, smoke: bool = False) -> Run:
    """The key of a row: everything that the program is told."""
    return Run(
        program=program.name,
        data=work.images.real or f"{work.images.count} photographs",
        seed=seed,
        settings=(*_told(program), *(["smoke"] if smoke else [])),
        label=work.name,
    )


def _told(program: Zoo | Peer) -> list[str]:
    told = {name: getattr(program, name) for name in program.__dataclass_fields__ if name != "name"}
    if isinstance(program, Zoo):  # a file by its name: the checkout may be anywhere
        told["recipe"] = Path(program.recipe).name
    else:
        told["stages"] = [tuple(stage) for stage in program.stages]
    return [f"{name}={value}" for name, value in sorted(told.items()) if value]


_HEAD_10 = (Stage("head", 10),)
_HALF = "plain, bf16 + channels-last"


def _plain(*stages: Stage) -> tuple[Peer, Peer]:
    loop = Peer(name="plain", program="plain", stages=stages)
    return loop, replace(loop, name=_HALF, precision="bfloat16")


def _head_on_hymenoptera() -> Work:
    fastai = Peer(name="fastai", program="fastai", stages=_HEAD_10)
    ours = Zoo(recipe="head_only", epochs=10)
    known, own = "zoo, precision known", "zoo, the recipe's 80 epochs"
    return Work(
        name="hymenoptera_head",
        title="hymenoptera, squeezenet1_1, the head for 10 epochs",
        images=Images(real="hymenoptera"),
        programs=(
            *_plain(*_HEAD_10),
            fastai,
            ours,
            replace(ours, name=known, planned=True),
            replace(ours, name=own, epochs=None),
        ),
        asked=(
            *(asked.faster(25, peer) for peer in ("plain", "fastai")),
            *(asked.faster(12, peer, quantity="whole process") for peer in ("plain", "fastai")),
            *(asked.as_accurate(peer) for peer in ("plain", "fastai")),
            *(asked.faster(25, peer, program=known) for peer in ("plain", "fastai")),
            asked.as_accurate("plain", program=own),
        ),
        note="All are scored on the whole of val/, by which nobody chooses: zoo's one stage ends with its last epoch.",
    )


def _default_on_flowers5() -> Work:
    stages = (Stage("head", 5), Stage("all", 5))
    peers = [Peer(name=name, program=name, stages=stages) for name in ("plain", "fastai")]
    return Work(
        name="flowers5_default",
        title="flowers5, squeezenet1_1, the default recipe to its end",
        images=Images(real="flowers5", halved=True),
        programs=(*peers, Zoo(recipe="staged")),
        asked=(
            asked.faster(3.5, "plain"),
            asked.faster(4.5, "fastai"),
            asked.as_accurate("plain"),
            asked.as_accurate("fastai"),
        ),
        note="zoo chooses its stage on one half of val/, drawn by the seed; all are scored on the other half.",
    )


def _resnet18_head() -> Work:
    return Work(
        name="resnet18_head",
        title="1,000 photographs, resnet18 (random weights), the head for 10 epochs",
        backbone="resnet18",
        images=Images(count=1000),
        programs=(*_plain(*_HEAD_10), Zoo(recipe="head_only", epochs=10)),
        asked=(asked.faster(15, "plain"),),
    )


def _full(backbone: str) -> Work:
    return Work(
        name=f"full_{backbone}",
        title=f"500 photographs, {backbone} (random weights), everything for 3 epochs",
        backbone=backbone,
        images=Images(count=500),
        programs=(*_plain(Stage("all", 3)), Zoo(recipe="full", epochs=3, fixed_batch=True)),
        asked=(asked.faster(2, "plain"), asked.share(0.9, "images/s", "images/s, fixed batch")),
    )


def _prefix(backbone: str) -> Work:
    kept = Zoo(recipe=str(_LAST))
    without = replace(kept, name="zoo, prefix off", settings=("last.prefix=off",))
    return Work(
        name=f"prefix_{backbone.rpartition('/')[2]}",
        title=f"500 photographs, {backbone} (random weights), the last stage for 4 epochs",
        backbone=backbone,
        images=Images(count=500),
        programs=(kept, without),
        asked=(asked.faster(1.8, without.name, quantity="stage"),),
        needs="prefix",
        note="The stage's seconds, in which the output of the frozen prefix is computed as well.",
    )


def _second_head() -> Work:
    second = Zoo(recipe="head_only", head="cosine", earlier_head="dropout_linear")
    return Work(
        name="second_head",
        title="1,000 photographs, squeezenet1_1 (random weights), a second run with another head",
        images=Images(count=1000),
        programs=(second,),
        asked=(asked.at_most(1, "features"),),
        note="`cosine` after `dropout_linear`, in one cache folder.",
    )


def _counted(name: str, title: str, counts: tuple[int, ...], *, epochs: int | None) -> tuple[Work, dict[str, int]]:
    named = {f"zoo, {count:,} images": count for count in counts}
    ours = [Zoo(name=each, recipe="head_only", epochs=epochs, count=count) for each, count in named.items()]
    images = Images(count=counts[0])
    return Work(name=name, title=title, images=images, programs=tuple(ours), asked=()), named


def _memory() -> Work:
    title = "peak memory of features, squeezenet1_1 (random weights), 20,000 images and 2,000"
    work, named = _counted("memory", title, (2000, 20_000), epochs=10)
    few, many = named
    return replace(work, asked=(asked.no_more_than(200, "peak MB", program=many, over=few),))


def _linear() -> Work:
    title = "time by images, squeezenet1_1 (random weights), head_only"
    work, named = _counted("linear", title, (250, 1000, 4000), epochs=None)
    return replace(work, asked=(asked.linear(1.1, named),))


WORKS = (
    _head_on_hymenoptera(),
    _default_on_flowers5(),
    _full(SQUEEZENET),
    _full("resnet18"),
    _resnet18_head(),
    *map(_prefix, ("resnet18", "timm/convnext_atto", "timm/vit_tiny_patch16_224")),
    _second_head(),
    _linear(),
    _memory(),
)
