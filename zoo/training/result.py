"""The result of a run: what `finetune` returns, and the content of `result.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.display.records import Records
from zoo.errors import COPY_FOLDER, OptionError, RunError
from zoo.evaluation.confusion_table import ConfusionTable
from zoo.registry.registry import default_registry
from zoo.specs.plan import Plan
from zoo.specs.run_result import RunResult, judged_on
from zoo.training.run_files import read_predictions
from zoo.training.run_folder import PREDICTIONS
from zoo.training.shown_result import REPORT, history_of, open_report, result_html, stages_of

if TYPE_CHECKING:
    from torch import nn

    from zoo.artefact.classifier import Classifier
    from zoo.evaluation.out_of_memory import OutOfMemoryRetry
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.head import HeadCallable, HeadSpec

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Result(RunResult):
    """A finished run, as `finetune` returns it, from which its classifier can be loaded."""

    def classifier(
        self,
        *,
        backbone: str | BackboneSpec | nn.Module | None = None,
        head: str | HeadSpec | HeadCallable | None = None,
    ) -> Classifier:
        """Load the classifier from the artefact. Takes the objects of the run, and raises ZooError, as `zoo.load`."""
        from zoo.artefact.classifier import Classifier
        from zoo.artefact.read import with_objects

        return Classifier.load(self.artefact, registry=with_objects(self.artefact, default_registry(), backbone, head))

    @property
    def history(self) -> Records:
        """A table with a row for each epoch: stage, epoch, losses, accuracy, learning rate, times.

        A list of dictionaries, which `pandas.DataFrame` and `polars.DataFrame` take. The learning rate is that of the
        group with the highest; `val_` is what the run was judged by, out of fold for a run in folds. A head that was
        fitted by a solver is one epoch. Raises RunError where the run's folder has no history any more.
        """
        return history_of(self.folder)

    @property
    def stages(self) -> Records:
        """A table with a row for each stage: whether it was kept, its scores, seconds and parameters.

        `content["stages"]` has all that is known of them.
        """
        return stages_of(self.content)

    @property
    def confusion(self) -> ConfusionTable:
        """The confusion matrix with class names: on `test` where there is one, else on what the run was judged by."""
        return self.confusion_on("test" if "test" in self.metrics else judged_on(self.metrics))

    def confusion_on(self, split: str) -> ConfusionTable:
        """The confusion matrix of a split, counted from `predictions.csv`. Raises OptionError, RunError."""
        if split not in self.metrics:
            raise OptionError(
                f"The run has no predictions on {split!r}.\nNext: give one of these: {', '.join(self.metrics)}."
            )
        predictions = [each for each in read_predictions(self.folder) if each.split == split]
        try:
            return ConfusionTable.of(split, predictions, self.classes)
        except ValueError as error:
            raise RunError(f"{self.folder / PREDICTIONS} cannot be read: {error}.\n{COPY_FOLDER}") from None

    @property
    def report_path(self) -> Path:
        """Where `report.html` is, unless the run was made with `report=False`."""
        return self.folder / REPORT

    def show(self) -> None:
        """Open the report in a browser. Raises RunError where there is no report, or no browser."""
        open_report(self.report_path)

    def _repr_html_(self) -> str:
        return result_html(self, self.report_path)


def result_content(
    plan: Plan,
    *,
    selection: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    stages: Sequence[Mapping[str, Any]],
    retries: Sequence[OutOfMemoryRetry],
    seconds: Mapping[str, float],
    proof: str,
    artefact: str,
    folds: Sequence[Mapping[str, Any]] | None = None,
    processes: Sequence[int] = (1,),
) -> dict[str, Any]:
    """Return the content of `result.json`, in plain JSON types.

    Args:
        plan: The plan of the run.
        selection: What was kept, how it was chosen, and what choosing is worth.
        metrics: Scores of each split.
        stages: A record of each stage.
        retries: A record of each time that memory ran out.
        seconds: Seconds of each part of the run, and in total.
        proof: `passed` or `failed`.
        artefact: The folder of the classifier, relative to the run folder.
        folds: Images and scores of each fold; None for a run with a validation split, whose result has no such key.
        processes: By how many processes the run was carried out, and each number that it went on with. No key for one.
    """
    return {
        "format": FORMAT,
        "backbone": plan.backbone.name,
        "weights": plan.weights.label,
        # Only where there is something to say, as below.
        **({"weights_trained_on": plan.weights.trained_on} if plan.weights.trained_on else {}),
        "head": plan.head.name,
        "recipe": plan.recipe,
        "classes": list(plan.classes),
        "metrics": metrics,
        "selection": selection,
        "stages": stages,
        "memory": [asdict(retry) for retry in retries],
        "seconds": seconds,
        "proof": proof,
        "artefact": artefact,
        # Left out, not null: files of runs without these stay as they were.
        **({} if folds is None else {"folds": folds}),
        **({} if list(processes) == [1] else {"processes": list(processes)}),
    }
