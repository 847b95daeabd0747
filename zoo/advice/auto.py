"""`--backbone auto`: a shortlist decides, and the plan remembers what was compared."""

from __future__ import annotations

from dataclasses import replace

from zoo.advice.candidate_backbones import Limits, grouped
from zoo.advice.ranking import Ranked, Shortlist
from zoo.advice.shortlist import Wanted, make_shortlist
from zoo.errors import OptionError
from zoo.events import Note, Report
from zoo.planning.request import AUTO, Request
from zoo.planning.resolve import find_recipe
from zoo.registry.registry import Registry
from zoo.specs.plan import ShortlistedBackbone, ShortlistPlan
from zoo.text import counted, duration
from zoo.training.run_folder import refuse_unusable

MOST_KEPT = 20
"""Most backbones whose figures a plan holds: the best ones."""


def choose_backbone(request: Request, registry: Registry, report: Report) -> tuple[Request, ShortlistPlan | None]:
    """Put the best backbone of a shortlist in place of `auto` -> the request, and what was compared.

    A request that names a backbone comes back as it is, with None.

    Raises:
        OptionError: `weights` or `budget` that do not go with the backbone, or as `make_shortlist` raises it.
        WeightsError: No pretrained weights can be had.
    """
    if request.backbone != AUTO:
        if request.budget is not None:
            raise OptionError(
                "--budget is the time that choosing a backbone may take, and the backbone is named.\n"
                f"Next: leave --budget out, or let zoo choose: --backbone {AUTO}"
            )
        return request, None
    if request.weights != "default":
        raise OptionError(
            f"--backbone {AUTO} chooses the weights too, and --weights says {request.weights!r}.\n"
            "Next: leave --weights out, or name the backbone; zoo shortlist --backbones NAME=FILE compares files."
        )
    _refuse_early(request, registry)
    # A time that was given is used. Folds open all images before the plan is shown, several processes do, too, and the
    # choice must not depend on how many these are.
    most = request.examine if request.budget is None and request.folds is None else None
    wanted = Wanted(budget=request.budget, limits=Limits(head=request.head), most_images=most, val_needed=True)
    found = make_shortlist(request, wanted, registry, report)
    # Ctrl-C was meant for the whole command: what was compared by then must not begin a run.
    if found.interrupted:
        raise KeyboardInterrupt
    best = found.best.candidate
    others = f"; left out: {grouped(found.left_out)}" if found.left_out else ""
    report(
        Note(
            text=f"Chosen of {counted(len(found.ranked), 'backbone')} in {duration(found.seconds)}: {best.name}, probe "
            f"accuracy {found.best.accuracy.value:.3f} on {found.best.images:,} of "
            f"{counted(found.images, 'training image')}{others}"
        )
    )
    # Without the budget, which is refused beside a backbone that is named.
    return replace(request, backbone=best.backbone, weights=best.weights, budget=None), _record(found)


def _refuse_early(request: Request, registry: Registry) -> None:
    """Refuse what the run would refuse anyway, before minutes are spent on its backbone."""
    refuse_unusable(request.out)
    find_recipe(request, registry, registry.head(request.head))


def _record(found: Shortlist) -> ShortlistPlan:
    return ShortlistPlan(
        seconds=round(found.seconds, 3),
        # Of all training images; each row says on how many of them it was judged.
        images=found.images,
        compared=len(found.ranked),
        left_out=len(found.left_out),
        backbones=tuple(_row(each) for each in found.ranked[:MOST_KEPT]),
    )


def _row(row: Ranked) -> ShortlistedBackbone:
    return ShortlistedBackbone(
        name=row.candidate.name,
        images=row.images,
        accuracy=row.accuracy.value,
        low=row.accuracy.low,
        high=row.accuracy.high,
        as_good=row.as_good,
        milliseconds=row.latency.alone if row.latency else None,
        out=row.out,
    )
