"""What zoo reaches on real images, beside a hand-written loop and fastai: same images, network, weights and seeds.

    python -m benchmarks.recipes --train DIR --test DIR --backbone NAME --weights FILE --seeds 0,1,2
    python -m benchmarks.recipes --data NAME,NAME --backbones NAME,NAME --per-class 5,10 --results FILE.jsonl
    python -m benchmarks.recipes --recipes default,head_only:linear,head_only:prototype,full --results FILE.jsonl
    python -m benchmarks.recipes --table --results FILE.jsonl

Sets have folders of classes: those that --train and --test name, or data/NAME/train and data/NAME/val below the folder
that ZOO_TEST_DATA names. Networks are torchvision's by their name or timm's as timm/NAME. Their weights are safetensors
files with upstream's keys: --weights, or weights/NAME.safetensors below ZOO_TEST_DATA.

Who is judged on what: all programs get the images of --train and are judged on those of --test, by which nobody
chooses. zoo draws what it chooses by from --train, as it does for a user without val/. Of a named set each seed halves
val/ by class instead: zoo chooses on one half, all are judged on the other, and all train on train/ (--whole: as if its
val/ were --test). Peers report their last epoch; like most loops they look at the judged images after each epoch, which
costs them that time and chooses nothing. What is judged, in any program, was resized and cropped as upstream wants it
for the weights; fastai's accuracy with its own preprocessing stands beside it, for it may differ by some points.

Every run is a process of its own, one at a time. `seconds` is what it does after its imports, up to its result; for zoo
that includes saving the classifier and the proof. Each zoo run has a new cache folder. A run that has a row already is
not run again; one that failed has none. Which code made a row is recorded, not compared: take a new file, or --label,
for other code.

Below the tables of each network and set, one variant of zoo (--judge; its own default) is set beside all others, paired
by seed. The interval of a mean over pairs is that of repeating it with other seeds on the same networks and sets.

fastai is in the extra `bench`, and may live in another environment (--fastai-python): its program imports no zoo.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import zoo

from benchmarks import programs
from benchmarks.campaign import DEFAULT, FIRST, RANDOM, Asked, Bench, carry_out
from benchmarks.programs import PEERS
from benchmarks.rows import read_rows
from benchmarks.sets import ImageSet, given, named
from benchmarks.table import tables

ALL = "all"
PROGRAMS = ("zoo", *PEERS)


class Unusable(ValueError):
    """Arguments that do not say what to run; the message has the next step."""


def main() -> int:
    command = parser()
    told = command.parse_args()
    failed = 0
    if not told.table:
        try:
            asked, bench = understood(told)
        except ValueError as error:
            command.error(str(error))
        failed = carry_out(bench, asked.runs(), told.results)
    rows = read_rows(told.results)
    try:
        print(tables(rows, judge=told.judge))
    except LookupError as error:
        command.error(str(error))
    return 1 if failed else 0


def understood(told: argparse.Namespace) -> tuple[Asked, Bench]:
    """What the command line asks for, and where it is. Raises ValueError with the next step."""
    real = Path(os.environ["ZOO_TEST_DATA"]).resolve() if os.environ.get("ZOO_TEST_DATA") else None
    sets = _sets(told, real)
    asked = Asked(
        backbones=told.backbones,
        data=[each.name for each in sets],
        programs=_programs(told),
        seeds=told.seeds,
        per_class=told.per_class,
        weights=_weights(told, real),
        variants=_variants(told.recipes, told.heads),
        settings=tuple(told.zoo_set),
        label=told.label,
    )
    if not asked.runs():
        raise Unusable("that is nothing to run. Next: at least one network, set, program, recipe and seed")
    if told.zoo_set and not told.label:
        raise Unusable("--zoo-set needs --label, which names what was changed")
    if "fastai" in asked.programs and not programs.has_fastai(told.fastai_python):
        raise Unusable(
            f"{told.fastai_python} has no fastai. Next: pip install -e '.[bench]', or --fastai-python with the Python "
            "of an environment that has it, or --programs without it"
        )
    return asked, Bench({each.name: each for each in sets}, (real or Path()) / "weights", told.fastai_python)


def _sets(told: argparse.Namespace, real: Path | None) -> list[ImageSet]:
    if told.train or told.test:
        if not (told.train and told.test) or told.data or told.whole:
            raise Unusable("--train and --test name one set together, without --data and --whole")
        return [given(told.train, told.test)]
    if real is None:
        raise Unusable("there are no sets. Next: --train and --test, or ZOO_TEST_DATA for the folder that has data/")
    names = told.data or ["hymenoptera", "flowers5"]
    return [named(real / "data", name, halved=not told.whole) for name in names]


def _weights(told: argparse.Namespace, real: Path | None) -> str:
    """What rows say of them. Raises ValueError where a network has none."""
    if told.weights and told.weights != RANDOM:
        if len(told.backbones) > 1:
            raise Unusable("--weights FILE is for one network. Next: a call for each of them, with the same --results")
        if not Path(told.weights).is_file():
            raise Unusable(f"{told.weights} is no file. Next: a safetensors file with the network's weights, or random")
        return str(Path(told.weights).resolve())
    for backbone in told.backbones if not told.weights else ():
        file = Bench({}, (real or Path()) / "weights").weights_of(backbone)
        if real is None or file is None or not file.is_file():
            looked = f"there is no {file}" if real else "ZOO_TEST_DATA names no folder with weights/"
            raise Unusable(f"no weights for {backbone}: {looked}. Next: --weights FILE, or --weights {RANDOM}")
    return str(told.weights)


def _programs(told: argparse.Namespace) -> list[str]:
    if told.peers is None:
        return _known("program", told.programs or list(PROGRAMS), list(PROGRAMS))
    if told.programs is not None:
        raise Unusable("--peers NAMES is --programs zoo,NAMES. Next: give one of them")
    return ["zoo", *_known("peer", told.peers, list(PEERS))]


def _variants(recipes: list[str], heads: list[str]) -> list[tuple[str, str]]:
    """(recipe, head): every recipe with every head, but RECIPE:HEAD, which names its own."""
    registered = [recipe.name for recipe in zoo.list_recipes()]
    told = [name.partition(":") for name in (registered if recipes == [ALL] else recipes)]
    alone = [(recipe, head) for recipe, colon, head in told if colon]
    combined = [(recipe, head) for head in heads for recipe, colon, _ in told if not colon]
    _known("head", [head for _, head in [*alone, *combined]], [DEFAULT, *(head.name for head in zoo.list_heads())])
    return [(_recipe(recipe, registered), head) for recipe, head in [*combined, *alone]]


def _recipe(name: str, registered: list[str]) -> str:
    """As rows name it: a file by its absolute path. Raises ValueError where there is none."""
    if Path(name).is_file():
        return str(Path(name).resolve())
    return _known("recipe", [name], [DEFAULT, *registered])[0]


def _known(what: str, names: list[str], there: list[str]) -> list[str]:
    unknown = [name for name in names if name not in there]
    if unknown:
        raise Unusable(f"there is no {what} {unknown[0]!r}; there are: {', '.join(there)}")
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = made.add_argument
    option("--results", type=Path, default=Path("recipes.jsonl"), help="JSON lines; appended to (%(default)s)")
    option("--table", action="store_true", help="print tables of the results, run nothing")
    option("--judge", default="", metavar="NAME", help="the variant to set beside the others (zoo's default)")
    option("--data", type=_names, default=[], help="sets below ZOO_TEST_DATA/data (hymenoptera,flowers5)")
    option("--whole", action="store_true", help="judge named sets on their whole val/, by which nobody chooses then")
    option("--train", type=Path, metavar="DIR", help="class folders to train on, with --test")
    option("--test", type=Path, metavar="DIR", help="class folders to be judged on")
    option("--per-class", type=_numbers, default=[0], metavar="N,N", help="images of a class to train on; 0: all")
    option("--backbones", "--backbone", type=_names, default=[FIRST], metavar="NAME,NAME")
    option("--weights", default="", metavar="FILE", help=f"of the one network, or {RANDOM}")
    option("--programs", type=_names, help=f"of {','.join(PROGRAMS)} (all)")
    option("--peers", type=_names, help="--programs zoo and these; '' for none")
    option("--recipes", type=_names, default=[DEFAULT], help=f"zoo's: NAME, NAME:HEAD, TOML files, or {ALL}")
    option("--heads", type=_names, default=[DEFAULT], help="zoo's, with every recipe that names none")
    option("--zoo-set", action="append", default=[], metavar="STAGE.K=V", help="repeatable; with --label")
    option("--label", default="", help="a name for zoo's rows of this call")
    option("--seeds", type=_numbers, default=[0, 1, 2, 3, 4])
    option("--fastai-python", default=sys.executable, metavar="PATH", help="of an environment with fastai")
    return made


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    names = _names(text)
    if not all(name.isdecimal() for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 0,1,2")
    return [int(name) for name in names]


if __name__ == "__main__":
    sys.exit(main())
