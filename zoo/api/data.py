"""Data sets: files and labels checked, and labels corrected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.api.arguments import checked_arguments
from zoo.api.calls import with_data
from zoo.api.progress import with_progress
from zoo.errors import OptionError
from zoo.events import Report, silent
from zoo.planning.request import make_request
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from torch import nn

    from zoo.advice.label_check import LabelCheck
    from zoo.advice.relabel import Relabelled
    from zoo.data.check.report import DataReport
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.data import DataLike


@checked_arguments({"report": "on_event"})
@with_progress(torch=False)
def check_data(
    path: DataLike,
    *,
    seed: int = 0,
    workers: int | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> DataReport:
    """Open every file of a data set and report what is wrong with it. Imports no torch.

    `.faults` make results wrong (unreadable files, leaks across splits, one picture under two labels, a class without
    images, image sizes that reveal the label). `.warnings` are the rest. `.passed` says that there are no faults.
    docs/data.md lists every finding.

    Args:
        path: A folder, or other data, as for `finetune`: also objects in memory.
        seed: Random seed of the split that is drawn where there is no `val/`, as for `finetune`.
        workers: Number of decoding threads. Default: one per core, at most eight.

    Raises:
        DataError: No such folder, no images, fewer than two classes, split folders without `train/`.
        OptionError: Fewer than one worker.
    """
    from zoo.data.check.survey import check

    place, known = with_data(path, registry or default_registry(), on_event)
    if place is None:
        raise OptionError("check_data needs data: a path, or an object in memory.\nNext: zoo.check_data('photos/')")
    return check(place, seed=seed, workers=workers, report=on_event, registry=known)


@checked_arguments({"report": "on_event"})
@with_progress()
def check_labels(
    path: DataLike,
    backbone: str | os.PathLike[str] | BackboneSpec | nn.Module,
    *,
    weights: str = "default",
    out: str | Path | None = None,
    input_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> LabelCheck:
    """Find labels that are likely wrong: each image is judged by probes that were fitted without it. docs/labels.md.

    `.suspects` are images of which another class is more probable than the given one, the likeliest to be wrong first.

    Args:
        path: A folder, or other data, as for `finetune`: also objects in memory. All splits are judged.
        backbone: `[provider/]architecture[.tag]`, the folder of a finished run: its backbone and weights; or an object
            as for `finetune`.
        weights: `default`, a tag, `random`, or the path of a file.
        out: A new folder for `suspects.csv` and a page of pictures. Default: nothing is written.
        input_size: (height, width) in pixels, or one number for both. Default: that of the weights.
        seed: Random seed of the split that is drawn where there is no `val/`, as for `finetune`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`, as for `finetune`.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Do not touch the network. Weights that are not on this machine are an error then.

    Raises:
        Refused: `out` exists, or the backbone is that of a run that was trained on these images.
        DataError: Fewer than two classes have five different images.
        ZooError: Something else cannot be done as asked.
    """
    from zoo.advice.labels import check_labels as look
    from zoo.planning.objects import name_objects

    place, known = with_data(path, registry or default_registry(), on_event)
    named = name_objects(known, backbone=backbone)
    request = make_request(
        backbone=named.backbone,
        weights=weights,
        data=place,
        input_size=input_size,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        offline=offline,
    )
    return look(request, named.registry, on_event, out=None if out is None else Path(out).expanduser())


@checked_arguments({"report": "on_event"})
def apply_suspects(
    path: str | Path,
    suspects: str | Path,
    out: str | Path,
    *,
    on_event: Report = silent,
    registry: Registry | None = None,
) -> Relabelled:
    """Write a new table of a data set with the suggestions of `check_labels` that you accepted. Imports no torch.

    No image changes. `finetune` reads the table as `data`.

    Args:
        path: The data that were checked.
        suspects: The `suspects.csv` of the check, with `yes` in its column `accept` where the suggestion is right,
            and `drop` where an image is to be left out.
        out: The new table, a `.csv`.

    Raises:
        Refused: `out` exists, nothing was accepted, a class is unknown, or the images are inside an archive.
        DataError: `suspects` is of other data.
    """
    from zoo.advice.relabel import apply_suspects as write

    # Collections get as far as here: `checked_arguments` leaves them to the function, as they may be data in memory.
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(
            "apply_suspects writes a table of the files of a data set, and these data are an object in memory.\n"
            "Next: change its labels yourself; the suspects of check_labels name each image."
        )
    # A shell expands `~`; from Python it arrives as it was written.
    data, file, table = (Path(each).expanduser() for each in (path, suspects, out))
    return write(data, file, table, registry or default_registry(), on_event)
