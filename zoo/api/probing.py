"""Before a run: which backbone suits the images, and what more images would bring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.api.arguments import checked_arguments
from zoo.api.calls import with_data
from zoo.api.progress import with_progress
from zoo.errors import OptionError
from zoo.events import Report, silent
from zoo.planning.request import make_request, parse_count, parse_duration
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from torch import nn

    from zoo.advice.curve import CurveReport
    from zoo.advice.ranking import Shortlist
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.data import DataLike


@checked_arguments({"report": "on_event"})
@with_progress()
def shortlist(
    data: DataLike | None = None,
    *,
    backbones: str | Sequence[str] = (),
    budget: str | float | None = None,
    max_params: int | str | None = None,
    max_latency: str | float | None = None,
    licence: str | None = None,
    head: str = "dropout_linear",
    html: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    tune: bool = True,
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Shortlist:
    """Rank backbones for your images: the accuracy of a cross-validated probe, beside latency, size and licence.

    The probe is L2 logistic regression on pooled features, which are computed once and cached; up to 512 images a run
    with the backbone that wins finds them there. Only training images are looked at. What cannot win any more is
    dropped on the way (arXiv:1502.07943), by a paired test. docs/choose.md says what a probe can say and what not.

    Args:
        data: As for `finetune`.
        backbones: Candidates: `NAME`, `NAME=FILE`, `NAME=random` or patterns with `*` and `?`; one text may hold
            several with commas. A file that a run trained on these images is left out. Default: the weights on this
            machine and, unless `offline`, what can be fetched in time.
        budget: Seconds, or a text such as `10m`. Default: a fifth of what fine-tuning is estimated to take, at least
            a minute.
        max_params: Largest number of parameters, without the classifier, or a text such as `25M`.
        max_latency: Most milliseconds for one image on this machine, or a text such as `20ms`.
        licence: `permissive`, or a licence of weights as upstream states it.
        head: The head that a run is to have: candidates that cannot take it are left out. The probe stays linear.
        html: Path of a page with the ranking and a picture of accuracy against latency; it must not exist.
        seed: Draws the folds, the samples and, without a val split, the images that are left out as val.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: As for `finetune`.
        tune: Whether the fastest precision is measured.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Do not touch the network: weights that are not on this machine are left out.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        OptionError: Limits that leave nothing, a budget that is too small for one candidate, or `html` exists.
        UnknownName: No such backbone, licence or head.
        WeightsError: No pretrained weights can be had.
        DataError: The data cannot be read, or a class has a single image.
    """
    from zoo.advice.candidate_backbones import Limits
    from zoo.advice.shortlist import Wanted, make_shortlist
    from zoo.advice.shortlist_page import write_shortlist_page
    from zoo.storage.atomic import try_new_path

    page = None if html is None else Path(html).expanduser()
    # Before the minutes that a ranking takes.
    if page is not None:
        try_new_path(page)
    names = [backbones] if isinstance(backbones, str) else backbones
    # A module, which most functions take here, would end in an AttributeError far below.
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise OptionError(
            "A shortlist compares backbones by their names, and one of these is no text.\n"
            "Next: zoo.learning_curve(data, module) measures a module."
        )
    largest = None if max_params is None else parse_count("--max-params", max_params)
    longest: float | None = None
    if isinstance(max_latency, str):
        # A text without a unit is refused: milliseconds and seconds are both likely.
        longest = 1000 * parse_duration("--max-latency", max_latency, unit="", example="20ms or 0.5s")
    elif max_latency is not None:
        # Through the same checks, and without an exponent, which a time for people does not have.
        longest = 1000 * parse_duration("--max-latency", f"{max_latency / 1000:f}")
    wanted = Wanted(
        backbones=tuple(name.strip() for each in names for name in each.split(",") if name.strip()),
        budget=None if budget is None else parse_duration("--budget", budget),
        limits=Limits(max_params=largest, licence=licence, head=head),
        max_latency=longest,
    )
    place, known = with_data(data, registry or default_registry(), on_event)
    request = make_request(
        # No backbone of its own: the shortlist looks up its candidates.
        backbone="auto",
        data=place,
        seed=seed,
        device=device,
        precision=precision,
        tune=tune,
        workers=workers,
        offline=offline,
    )
    found = make_shortlist(request, wanted, known, on_event)
    if page is not None:
        write_shortlist_page(found, page)
    return found


@checked_arguments({"report": "on_event"})
@with_progress()
def learning_curve(
    path: DataLike,
    backbone: str | BackboneSpec | nn.Module,
    *,
    weights: str | Path = "default",
    seed: int = 0,
    html: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> CurveReport:
    """Measure how the accuracy of a linear probe grows with the number of training images, and extrapolate it.

    `.sentences` says what twice and four times as many images would bring, or that it cannot be said; `.record` has the
    points, the forecasts with the intervals that backtests earn, and every class. docs/curve.md explains them.

    Args:
        path: The images, as `data` of `finetune`. Only the training images are used.
        backbone: `[provider/]architecture[.tag]`, an object as for `finetune`, or the path of a run that has not
            trained its backbone on these images; it stays frozen.
        weights: As for `finetune`. A run brings its own.
        seed: Random seed of the split, where one is drawn, of folds and of draws.
        html: Path of a page with the chart, which must not exist. Default: no page.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Use no network.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.

    Raises:
        Refused: Names that do not exist, or `html` exists; or a run trained the backbone, or the weights in the file,
            on these images.
        DataError: No images, fewer than two classes, or no class with two different training images.
        WeightsError: The weights cannot be had.
    """
    from zoo.advice.curve import probe_curve, write_curve_page
    from zoo.planning.objects import name_objects
    from zoo.storage.atomic import try_new_path

    page = None if html is None else Path(html).expanduser()
    # Before the work, as above.
    if page is not None:
        try_new_path(page)
    place, known = with_data(path, registry or default_registry(), on_event)
    named = name_objects(known, backbone=backbone)
    request = make_request(
        backbone=named.backbone,
        data=place,
        weights=str(weights),
        seed=seed,
        device=device,
        workers=workers,
        offline=offline,
    )
    found = probe_curve(request, named.registry, on_event)
    if page is not None:
        write_curve_page(found, page)
    return found
