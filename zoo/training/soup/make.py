"""Make a soup: read its runs, judge them, add one after the other, then evaluate, save and prove the average.

Nothing is at the place of the soup before it is complete, and nothing is changed in the runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.artefact.config import FOLDER, TENSORS, SourceConfig
from zoo.artefact.golden import draw_golden
from zoo.artefact.read import read_model
from zoo.artefact.write import mark_failed, write_artefact
from zoo.data.dataset import Dataset
from zoo.data.prefetch import resolve_workers
from zoo.data.store import ImageStore
from zoo.errors import CheckFailed, DataError
from zoo.evaluation.context import Clock
from zoo.evaluation.metrics import Scores
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.events import Note, Progress, Report
from zoo.model.devices import choose_device
from zoo.planning.images_of_plan import images_of_plan
from zoo.planning.versions import versions
from zoo.process import use_threads
from zoo.registry.registry import Registry
from zoo.specs.data import Split
from zoo.specs.plan import Plan
from zoo.specs.run_result import Check
from zoo.storage.atomic import clear_write_errors, json_text, new_path, try_new_path, write_text
from zoo.text import counted, some
from zoo.training.proof import check_better_than_guessing, check_saved, check_test, failure_message, overall_verdict
from zoo.training.run_folder import SOUP, EvaluatedSplit, write_evaluation, write_proof
from zoo.training.soup.average import Trial, average_of, by_quality, choose_greedily
from zoo.training.soup.average_checks import check_average, check_ingredients, check_not_worse, check_unchanged
from zoo.training.soup.ingredients import Ingredient, every_class_the_same, read_ingredients
from zoo.training.soup.judge import Judge
from zoo.training.soup.outcome import RECIPE, Soup, Tasted, soup_content

_PARTS = ("data", "evaluate")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tasting:
    """The ingredients after judging."""

    ingredients: Sequence[Ingredient]
    """Those with weights of their own, in the order given."""
    scores: Sequence[Scores]
    """Their validation scores."""
    twins: Mapping[int, list[Ingredient]]
    """Further ingredients with the weights of the one at this position."""
    trials: Sequence[Trial]

    @property
    def best(self) -> Ingredient:
        """The ingredient that the soup began with."""
        return self.ingredients[self.trials[0].ingredient]

    @property
    def added(self) -> list[Ingredient]:
        """What the soup is the average of, in the order in which it was added."""
        return [self.ingredients[trial.ingredient] for trial in self.trials if trial.added]

    @property
    def candidates(self) -> int:
        """How many models were judged: each ingredient, and each average."""
        return len(self.ingredients) + sum(trial.together is not None for trial in self.trials)

    def listed(self) -> list[Tasted]:
        """What became of each ingredient, best first; one with the weights of another follows it."""
        rows = []
        for trial in self.trials:
            run, scores = self.ingredients[trial.ingredient], self.scores[trial.ingredient]
            rows.append(_tasted(run, scores, together=trial.together, added=trial.added))
            rows += [_tasted(twin, scores, same_as=run.name) for twin in self.twins.get(trial.ingredient, ())]
        return rows


def make_soup(
    runs: Sequence[Path],
    out: Path,
    registry: Registry,
    report: Report,
    *,
    data: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Soup:
    """Average the weights of runs greedily, and save the average as a classifier with its proof.

    Args:
        runs: Folders of finished runs.
        out: The folder to write, which must not exist.
        registry: Where names are looked up.
        report: Called with Note and Progress.
        data: Where the images are now; None: where the runs found them.
        device: Where to compute.
        workers: Number of decoding threads; default: one per core, at most eight.

    Raises:
        Refused: The runs are no ingredients of one soup, or `out` exists.
        CheckFailed: A check of the proof failed. Everything was written before.
        ZooError: Files or images cannot be read, or `out` cannot be written.
    """
    # At the start: judging takes minutes.
    try_new_path(out, with_parents=True)
    ingredients = read_ingredients(runs)
    chosen, clock = choose_device(device), Clock(*_PARTS)
    # Without the images there is nothing to choose by, so they come before any model.
    first = ingredients[0]
    with clock.measure("data"):
        dataset = images_of_plan(
            first.plan,
            first.path,
            registry,
            report,
            data=data,
            call="zoo.soup(RUNS, out=..., data=...)",
            workers=workers,
        )
    use_threads(first.plan.threads)
    model, _ = read_model(first.artefact, registry)
    with contextlib.closing(ImageStore(model.preprocessing, workers=resolve_workers(workers))) as store:
        with out_of_memory_as_error(f"moving {model.name} to {chosen}"):
            model = model.to(chosen)
        with clock.measure("data"):
            _decode(dataset, store, report)
        balanced = every_class_the_same(ingredients, report)
        judge = Judge(
            model=model, dataset=dataset, store=store, chunk=first.plan.chunk, report=report, balanced=balanced
        )
        with clock.measure("evaluate"):
            tasting = _taste(ingredients, judge)
        return _Finish(judge, tasting, registry, clock, device=chosen).run(out)


def _decode(dataset: Dataset, store: ImageStore, report: Report) -> None:
    """Decode the validation images once, for all that is judged on them. Raises DataError where one is unreadable."""
    files = dataset.splits["val"]
    store.expect(dataset)
    _, faults = store.examine(files, progress=lambda done: report(Progress(task="decode", done=done, total=len(files))))
    if faults:
        name, fault = next(iter(faults.items()))
        raise DataError(
            f"{name} cannot be read, which the runs could: {fault}\nNext: put the image back as the runs read it."
        )


def _taste(ingredients: Sequence[Ingredient], judge: Judge) -> _Tasting:
    """Judge each ingredient, and the averages that the greedy choice asks for."""
    positions: dict[str, int] = {}
    distinct: list[Ingredient] = []
    twins: dict[int, list[Ingredient]] = {}
    for ingredient in ingredients:
        if ingredient.digest in positions:
            position = positions[ingredient.digest]
            twins.setdefault(position, []).append(ingredient)
            text = f"{ingredient.name} has the weights of {distinct[position].name}, bit for bit: it counts once."
            judge.report(Note(text=text, loud=True))
        else:
            positions[ingredient.digest] = len(distinct)
            distinct.append(ingredient)
    scores = [
        judge.scores(each.tensors, each.plan.compute, f"validate {each.name} ({number} of {len(distinct)})")
        for number, each in enumerate(distinct, start=1)
    ]
    # A soup is saved with the plan of its best ingredient, so averages are judged as that computes.
    compute = distinct[by_quality(scores)[0]].plan.compute
    tried = 0

    def together(chosen: Sequence[int]) -> Scores:
        nonlocal tried
        tried += 1
        task = f"validate average {tried} of {len(distinct) - 1}"
        judge.use(average_of([distinct[position].tensors for position in chosen]), compute)
        return judge.scored(judge.logits("val", task), judge.targets("val"))

    trials = choose_greedily(scores, together)
    return _Tasting(ingredients=distinct, scores=scores, twins=twins, trials=trials)


class _Finish:
    """Evaluates, saves and proves the average that was chosen."""

    def __init__(self, judge: Judge, tasting: _Tasting, registry: Registry, clock: Clock, *, device: str) -> None:
        self._judge = judge
        self._tasting = tasting
        self._registry = registry
        self._clock = clock
        self._files = [each.tensors for each in tasting.added]
        self._plan = _plan_of(tasting, registry, device)
        self._apart = judge.batch_norms_apart(self._files)

    def run(self, out: Path) -> Soup:
        """Write the soup to `out`. Raises CheckFailed after it is written, where its proof failed."""
        judge, plan = self._judge, self._plan
        self._say_what_it_is()
        with self._clock.measure("evaluate"):
            # Made once more: the last average that was judged need not be the one that was chosen.
            state = average_of(self._files)
            judge.use(state, plan.compute)
            logits = judge.logits("val", "validate the soup")
            # The test split is looked at once, after everything has been chosen.
            evaluated = [judge.evaluated("val", logits), *self._test()]
        scores = {each.split: judge.scored(each.logits, each.targets) for each in evaluated}
        # These first, for the artefact is written with their verdict.
        checks = self._checks(scores["val"])
        checks += [fault for each in evaluated[1:] for fault in check_test(each.logits, each.files)]
        with clear_write_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        with new_path(out) as draft:
            with clear_write_errors(out):
                draft.mkdir()
            content = self._write(draft, state, evaluated, scores, checks)
        if overall_verdict(checks) == "failed":
            raise CheckFailed(failure_message(checks, out))
        return Soup(path=out, content=content)

    def _write(
        self,
        draft: Path,
        state: Mapping[str, Tensor],
        evaluated: Sequence[EvaluatedSplit],
        scores: Mapping[str, Scores],
        checks: list[Check],
    ) -> dict[str, Any]:
        """Write all files into the draft, and add the checks of what was saved -> the content of `soup.json`."""
        judge, plan = self._judge, self._plan
        metrics = {split: each.to_dict() for split, each in scores.items()}
        sources = [SourceConfig(name=each.path.absolute().name, digest=each.digest) for each in self._tasting.added]
        with out_of_memory_as_error("golden logits"):
            golden = draw_golden(judge.model)
        write_artefact(draft / FOLDER, state, plan, metrics, overall_verdict(checks), golden, sources=sources)
        saved = draft / FOLDER / TENSORS
        checks += [check_average(saved, self._files), check_unchanged(saved, self._files)]
        checks.append(self._check_saved(draft / FOLDER, evaluated[0].logits))
        if overall_verdict(checks) == "failed":
            mark_failed(draft / FOLDER)
        write_proof(draft, checks)
        write_evaluation(draft, evaluated, plan.classes)
        content = soup_content(
            plan,
            start=_start(self._tasting.best),
            tasted=self._tasting.listed(),
            balanced=judge.balanced,
            candidates=self._tasting.candidates,
            metrics=metrics,
            batch_norms_averaged=self._apart,
            retries=judge.retries,
            seconds=self._clock.seconds(),
            proof=overall_verdict(checks),
        )
        write_text(draft / SOUP, json_text(content))
        return content

    def _say_what_it_is(self) -> None:
        tasting, report = self._tasting, self._judge.report
        if len(tasting.added) == 1:
            text = (
                f"No average was as good on the validation images as {tasting.best.name} alone: the soup has its "
                "weights, and brings nothing."
            )
            report(Note(text=text, loud=True))
        if self._apart:
            text = (
                f"{counted(self._apart, 'batch norm')} moved in these runs, and their running statistics were averaged "
                "like weights: they are those of no images. How good that is, the validation scores say."
            )
            report(Note(text=text))

    def _checks(self, soup: Scores) -> list[Check]:
        """The checks that need no saved file."""
        tasting, targets = self._tasting, self._judge.targets("val")
        recorded = [
            (each.name, each.recorded, scores) for each, scores in zip(tasting.ingredients, tasting.scores, strict=True)
        ]
        return [
            check_ingredients(recorded),
            check_not_worse(soup, tasting.scores[tasting.trials[0].ingredient]),
            check_better_than_guessing(soup.accuracy, targets, self._plan.classes),
        ]

    def _check_saved(self, artefact: Path, logits: Tensor) -> Check:
        """Read the artefact back, as any user would, and compare its logits[N, classes] with the average's."""
        judge, plan = self._judge, self._plan
        judge.model.cpu()  # the device may not have memory for the model twice
        loaded, config = read_model(artefact, self._registry)
        before = len(judge.retries)
        with out_of_memory_as_error("check of the saved file"):
            found = judge.logits("val", "validate the saved file", model=loaded.to(plan.device), most=judge.chunk)
        described = config.classes == plan.classes and config.preprocessing == plan.preprocessing
        same, kept = len(judge.retries) == before, logits[: len(found)]
        facts = {"digest": config.digest, "of": "the soup"}
        return check_saved(kept, found, described=described, same_batch_size=same, **facts)

    def _test(self) -> list[EvaluatedSplit]:
        test: Split = "test"
        if not self._judge.dataset.splits.get(test):
            return []
        return [self._judge.evaluated(test, self._judge.logits(test, "evaluate test"))]


def _plan_of(tasting: _Tasting, registry: Registry, device: str) -> Plan:
    """The plan of the best ingredient, with what is the soup's own: its origin, and what it was computed with."""
    plan = tasting.best.plan
    backbone = registry.backbone(plan.backbone.name).plugin.version
    head = registry.head(plan.head.name).plugin.version
    return plan.model_copy(
        update={
            "recipe": RECIPE,
            "recipe_summary": f"the average of the weights of {counted(len(tasting.added), 'run')}: "
            f"{some([each.path.absolute().name for each in tasting.added])}",
            "device": device,
            # It was computed here, by what is installed now, whatever made the runs.
            "versions": versions(name for name in plan.versions if name != "python"),
            "backbone": plan.backbone.model_copy(update={"version": backbone}),
            "head": plan.head.model_copy(update={"version": head}),
        }
    )


def _start(best: Ingredient) -> dict[str, Any]:
    weights = best.plan.weights
    return {
        "stage": best.start.stage,
        "head_digest": best.start.head_digest,
        "weights": weights.label,
        "weights_digest": weights.digest,
        "seed": best.plan.seed if weights.kind == "random" else None,
    }


def _tasted(
    run: Ingredient, scores: Scores, *, together: Scores | None = None, added: bool = False, same_as: str | None = None
) -> Tasted:
    return Tasted(
        run=run.path,
        name=run.name,
        digest=run.digest,
        kept=run.kept,
        scores=scores,
        together=together,
        added=added,
        same_as=same_as,
    )
