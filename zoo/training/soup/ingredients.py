"""The runs that a soup is made of: read, and refused where an average of their weights would mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from zoo.artefact.config import CONFIG, FOLDER, TENSORS
from zoo.artefact.read import check_files
from zoo.data.splits import split_note
from zoo.errors import COPY_FOLDER, Refused, RunError
from zoo.evaluation.metrics import Scores
from zoo.events import Note, Report
from zoo.registry.session import of_session
from zoo.specs.plan import Plan, StagePlan
from zoo.specs.recipe import BALANCED, Stage
from zoo.storage.atomic import parse_json
from zoo.text import shell_word, some
from zoo.training.run_folder import PLAN, PROOF, RESULT, SOUP, has_result
from zoo.training.stored_plan import read_plan

_SHORT = 12
"""Characters of a digest that messages show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where a run began to train its backbone: the end of its first stages, which train the head alone."""

    stage: str
    """The last of these stages."""
    head_digest: str
    """Digest of the head's tensors at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredient:
    """A finished run whose weights may go into the average."""

    path: Path
    """The run folder."""
    name: str
    """The folder's name, or the path as it was given where two have the same name."""
    plan: Plan
    start: Start
    digest: str
    """SHA-256 of the file with its tensors."""
    kept: str
    """The stage whose model the run kept."""
    recorded: Scores
    """The validation scores that the run recorded."""

    @property
    def artefact(self) -> Path:
        """The folder of its classifier."""
        return self.path / FOLDER

    @property
    def tensors(self) -> Path:
        """The file with its tensors."""
        return self.artefact / TENSORS


def read_ingredients(paths: Sequence[Path]) -> tuple[Ingredient, ...]:
    """Read the runs of a soup, in the order given.

    Raises:
        Refused: They are no ingredients of one soup: fewer than two, one twice, an artefact without its run, a run that
            is not finished, whose proof failed, of another task or model, or that began elsewhere.
        RunError: A path is not a run, or its files cannot be read.
        ArtefactError: A run's classifier is missing or damaged.
    """
    if len(paths) < 2:
        raise Refused(
            f"A soup needs two runs or more, and {len(paths)} was given.\n"
            "Next: train the same head with other settings of the later stages, then zoo soup RUN RUN --out FOLDER"
        )
    _refuse_repeated(paths)
    names = [path.absolute().name for path in paths]
    several = len(set(names)) < len(names)
    # All by their paths as soon as two folders have one name.
    read = tuple(_read(path, str(path) if several else name) for path, name in zip(paths, names, strict=True))
    # With the first alone: what agrees with it agrees among itself.
    for other in read[1:]:
        _refuse_other_model(read[0], other)
        _refuse_other_data(read[0], other)
        _refuse_other_start(read[0], other)
    _refuse_equal(read)
    return read


def every_class_the_same(ingredients: Sequence[Ingredient], report: Report) -> bool:
    """Whether ingredients are compared as if every class had equally many images: where all runs asked for that.

    Where only some did, all are compared by plain accuracy, and that is said.
    """
    by_run = {each.name: each.plan.choose_by for each in ingredients}
    asked = [name for name, choose_by in by_run.items() if choose_by in BALANCED]
    # A run that keeps its last stage may have had nothing to say it by.
    others = [each.name for each in ingredients if each.name not in asked and each.plan.keep != "last"]
    if asked and others:
        text = (
            f"The runs disagree about what is best: {asked[0]} has choose_by={by_run[asked[0]]}, where every class "
            f"counts the same, {others[0]} has choose_by={by_run[others[0]]}. So ingredients are chosen by plain "
            "accuracy, in which large classes count more.\n"
            f"Next: to let every class count the same, train {some(others)} again with "
            f"--set choose_by={by_run[asked[0]]}, or leave {'it' if len(others) == 1 else 'them'} out."
        )
        report(Note(text=text, loud=True))
    return bool(asked) and not others


def _refuse_repeated(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        real = path.resolve()  # a link or another spelling of the path is still the same run
        if real in seen:
            also = f", as {seen[real]} and as {path}" if str(seen[real]) != str(path) else ""
            raise Refused(f"{path} is given twice{also}. It would count twice.\nNext: name each run once.")
        seen[real] = path


def _read(path: Path, name: str) -> Ingredient:
    _refuse_no_run(path)
    plan = read_plan(path)
    for kind, named in (("backbone", plan.backbone.name), ("head", plan.head.name)):
        if of_session(named):
            raise Refused(
                f"The {kind} of {path} was passed as an object, {named}: whether other runs have the same is unknown.\n"
                "Next: make it a plugin (docs/plugins.md), and train the runs with its name."
            )
    if not has_result(path):
        raise Refused(f"{path} is not finished: it has no {RESULT}.\nNext: zoo finetune --resume {shell_word(path)}")
    if plan.folds is not None:
        raise Refused(
            f"{path} was trained in folds, on every image: none is left to say whether an average is better.\n"
            "Next: train the runs to be averaged without --folds."
        )
    try:
        return _ingredient(path, name, plan, _json(path / RESULT))
    except (KeyError, IndexError, TypeError) as error:
        raise RunError(
            f"{path / RESULT} or {path / PROOF} is not as a run writes it: {error!r}.\n{COPY_FOLDER}"
        ) from None


def _ingredient(path: Path, name: str, plan: Plan, result: Mapping[str, Any]) -> Ingredient:
    """The run, checked by itself. Raises as `read_ingredients`, and KeyError and the like for a damaged record."""
    if result["proof"] == "failed":
        raise Refused(
            f"The proof of {path} failed, so what its weights are is unknown:\n{_failed_checks(path)}\n"
            f"Next: leave {path} out, or mend the cause and train it again."
        )
    # Before the files are read, of which one may have gigabytes.
    start = _start(path, plan, result)
    config, _ = check_files(path / FOLDER)
    if config.classes != plan.classes:
        raise RunError(
            f"The classifier of {path} has other classes than its plan, or in another order.\n"
            f"Next: zoo verify {shell_word(path)} says what else differs; then train it again."
        )
    return Ingredient(
        path=path,
        name=name,
        plan=plan,
        start=start,
        digest=config.digest,
        kept=str(result["selection"]["kept"]),
        recorded=Scores.from_file(result["metrics"]["val"]),
    )


def _refuse_no_run(path: Path) -> None:
    if (path / PLAN).exists():
        return
    if (path / SOUP).exists():
        raise Refused(
            f"{path} is a soup, and a soup is made of runs.\n"
            f"Next: give the runs that it was made of, which {path / SOUP} names, and the further ones."
        )
    if (path / CONFIG).exists():
        inside = (path.absolute().parent / PLAN).exists() and path.absolute().name == FOLDER
        step = (
            f"give the run folder, {path.absolute().parent}" if inside else "give run folders, as finetune wrote them"
        )
        raise Refused(f"{path} is a classifier without its run, so where its training began is unknown.\nNext: {step}.")


def _failed_checks(path: Path) -> str:
    failed = [check for check in _json(path / PROOF)["checks"] if check["verdict"] == "failed"]
    return "\n".join(
        f"  {check['name']}{' (stage ' + check['stage'] + ')' if check['stage'] else ''}: {check['summary']}"
        for check in failed
    )


def _start(path: Path, plan: Plan, result: Mapping[str, Any]) -> Start:
    # Only stages before the backbone first trains: what comes later began elsewhere in each run.
    beginning = list(takewhile(lambda stage: stage.head_alone, plan.stages))
    if not beginning:
        raise Refused(
            f"{path} did not begin with a stage that trains the head alone, but with {plan.stages[0].settings.name!r}, "
            f"which trains {some(plan.stages[0].trains)}. Averaged are runs that began from the same trained head.\n"
            "Next: train it with a recipe that begins with the head, such as --recipe staged or --recipe lp_ft."
        )
    name = beginning[-1].settings.name
    digest = result["stages"][len(beginning) - 1].get("head_digest")
    if digest is None:
        raise Refused(
            f"{path} does not say which head its stage {name!r} ended with: an older zoo made it, which did not record "
            "that. So whether it began where the other runs did is unknown.\n"
            f"Next: train it again with this zoo; zoo report {shell_word(path)} writes a page with the command."
        )
    return Start(stage=name, head_digest=digest)


def _refuse_other_model(first: Ingredient, other: Ingredient) -> None:
    differing = [
        f"  {what}: {ours} and {theirs}"
        for what, value in _MODEL.items()
        if (ours := value(first.plan)) != (theirs := value(other.plan))
    ]
    if _weights(first.plan) != _weights(other.plan):
        differing.append(f"  weights: {_weights_in_words(first.plan)} and {_weights_in_words(other.plan)}")
    differing += _other_classes(first.plan.classes, other.plan.classes)
    if differing:
        listed = "\n".join(differing)
        raise Refused(
            f"{first.path} and {other.path} cannot be averaged; they differ in more than training:\n{listed}\n"
            "Next: give runs of one model on one set of classes, which differ in how their later stages train."
        )


def _other_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """A line for other classes, or another order of them; nothing where they are the same."""
    if len(ours) != len(theirs):
        return [f"  classes: {len(ours)} and {len(theirs)}"]
    pairs = enumerate(zip(ours, theirs, strict=True), start=1)
    first = next(((number, one, two) for number, (one, two) in pairs if one != two), None)
    return [f"  classes: number {first[0]} is {first[1]!r} and {first[2]!r}"] if first else []


def _weights(plan: Plan) -> tuple[object, ...]:
    """What says which weights a run began from: their bytes, whatever the file is called."""
    weights = plan.weights
    if weights.kind == "random":
        return weights.kind, plan.seed
    # Without a digest, the name is all that there is.
    return weights.kind, weights.taken, weights.digest or weights.label


def _weights_in_words(plan: Plan) -> str:
    weights = plan.weights
    if weights.kind == "random":
        # They have no file, and so no digest: the seed says which they are.
        return f"random, drawn from seed {plan.seed}"
    taken = f", {weights.taken}" if weights.taken else ""
    return f"{weights.label}{taken} ({(weights.digest or 'unknown')[:_SHORT]})"


_MODEL: Mapping[str, Callable[[Plan], str]] = {
    "backbone": lambda plan: plan.backbone.name,
    "head": lambda plan: plan.head.name,
    "head options": lambda plan: json.dumps(plan.head.options, sort_keys=True),
    "preprocessing": lambda plan: json.dumps(plan.preprocessing, sort_keys=True),
}
"""What runs must have in common for their tensors to mean the same, as text."""


def _refuse_other_data(first: Ingredient, other: Ingredient) -> None:
    ours, theirs = first.plan, other.plan
    if ours.data.digest == theirs.data.digest:
        return
    # The same images divided by another seed: then the seed is what to change.
    drawn = all(split_note(plan.seed) in plan.data.notes for plan in (ours, theirs))
    if drawn and ours.seed != theirs.seed and ours.data.argument == theirs.data.argument:
        raise Refused(
            f"{first.path} and {other.path} have other validation images: val was drawn from the images, with the "
            f"seeds {ours.seed} and {theirs.seed}.\n"
            f"Next: train {other.path} again with --seed {ours.seed}; or put the validation images into a folder val/, "
            "and train both again."
        )
    raise Refused(
        f"{first.path} and {other.path} were trained and validated on other images: {ours.data.argument} "
        f"({ours.data.digest[:_SHORT]}) and {theirs.data.argument} ({theirs.data.digest[:_SHORT]}).\n"
        "Next: train both on the same data."
    )


def _refuse_other_start(first: Ingredient, other: Ingredient) -> None:
    if first.start.head_digest == other.start.head_digest:
        return
    reasons = _reasons(first, other)
    found = "\n".join(["They differ in what trained it:", *reasons]) if reasons else "No setting tells why."
    raise Refused(
        f"{first.path} and {other.path} did not begin from the same head: at the end of the stage "
        f"{other.start.stage!r} it has the digest {first.start.head_digest[:_SHORT]} in one and "
        f"{other.start.head_digest[:_SHORT]} in the other. {found}\n"
        f"Next: train {other.path} again with --seed {first.plan.seed} and the same stage {first.start.stage!r}; later "
        "stages may differ."
    )


def _reasons(first: Ingredient, other: Ingredient) -> list[str]:
    """What differs between two runs up to the end of their head stages, a line each."""
    lines = []
    if first.plan.seed != other.plan.seed:
        lines.append(f"  seed: {first.plan.seed} and {other.plan.seed}")
    ours, theirs = (list(takewhile(lambda stage: stage.head_alone, run.plan.stages)) for run in (first, other))
    if len(ours) != len(theirs):
        return [*lines, f"  stages of the head alone: {_stage_names(ours)} and {_stage_names(theirs)}"]
    lines += [
        f"  {one.settings.name}.{key}: {getattr(one.settings, key)} and {getattr(two.settings, key)}"
        for one, two in zip(ours, theirs, strict=True)
        for key in Stage.model_fields
        if getattr(one.settings, key) != getattr(two.settings, key)
    ]
    around: Mapping[str, Callable[[Plan], object]] = {
        "device": lambda plan: plan.device,
        "compute": lambda plan: plan.compute,
        "threads": lambda plan: plan.threads,
    }
    for what, value in around.items():
        if value(first.plan) != value(other.plan):
            lines.append(f"  {what}: {value(first.plan)} and {value(other.plan)}")
    changed = [
        f"  {name}: {version} and {other.plan.versions.get(name, 'absent')}"
        for name, version in first.plan.versions.items()
        if other.plan.versions.get(name) != version
    ]
    return [*lines, *changed]


def _stage_names(stages: Sequence[StagePlan]) -> str:
    return some([stage.settings.name for stage in stages])


def _refuse_equal(read: Sequence[Ingredient]) -> None:
    # Some may be equal: they count once. Of all, no average is left.
    if any(one.digest != two.digest for one, two in pairwise(read)):
        return
    kept = sorted({ingredient.kept for ingredient in read})
    stage = f"stage {kept[0]!r}" if len(kept) == 1 else f"stages {some(kept)}"
    why = " with which all of them began" if kept == [read[0].start.stage] else ""
    raise Refused(
        f"All {len(read)} runs kept the same weights, bit for bit (of {stage}){why}. Their average is each of them.\n"
        f"Next: use {read[0].path} as it is, or train runs whose later stages end above the head (or with keep=last)."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}\n{COPY_FOLDER}") from None
    return content
