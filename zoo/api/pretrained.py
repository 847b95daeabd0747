"""Pretrained weights on this machine: listed, fetched, taken in and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.api.arguments import checked_arguments
from zoo.api.progress import with_progress
from zoo.events import Report, silent
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from zoo.weights.inventory import CheckedWeights, HeldWeights


@checked_arguments()
def list_weights(pattern: str = "", *, registry: Registry | None = None) -> list[HeldWeights]:
    """List the pretrained weights on this machine: in torchvision's folder, the hub's cache and zoo's own store.

    `pattern` matches `[provider/]architecture.tag`, with `*` and `?`; without either, the name must contain it. No file
    is read and no host is asked. Imports no torch.
    """
    from zoo.weights.inventory import held_weights

    return held_weights(registry or default_registry(), pattern)


@checked_arguments({"report": "on_event"})
@with_progress(torch=False)
def fetch_weights(
    names: str | Sequence[str],
    *,
    out: str | Path | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> list[Path]:
    """Download pretrained weights that are not on this machine yet. Returns the files, in order.

    Args:
        names: One or several names, `[provider/]architecture[.tag]`.
        out: A new folder for a bundle of safetensors and `weights.json`, for `import_weights` on a machine without a
            network. The files in the bundle are returned then.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.

    Raises:
        UnknownName: No such backbone or tag.
        Refused: Nobody published weights for it, or `out` exists already.
        WeightsError: They cannot be downloaded (Unreachable, Offline).
    """
    from zoo.weights.bundle import fetch_weights as fetch_all

    # To Python a text is a sequence of letters.
    several = [names] if isinstance(names, str) else names
    place = None if out is None else Path(out).expanduser()
    return [path for _, path in fetch_all(several, registry or default_registry(), on_event, out=place)]


@checked_arguments({"report": "on_event"})
@with_progress(torch=False)
def import_weights(
    path: str | Path,
    *,
    name: str | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> list[Path]:
    """Check weights that were copied to this machine and put them into zoo's store. Returns the files there.

    From then on every run finds them without a network.

    Args:
        path: A bundle made by `fetch_weights`, or one file as upstream publishes it.
        name: For one file, the weights that it holds: `[provider/]architecture[.tag]`. Not needed for files of
            torchvision, whose names say it.
        on_event: Told what could not be checked.
        verbose: As for `finetune`.

    Raises:
        WeightsError: A file is missing, damaged, differs from upstream's, or is not what this zoo looks for.
        Refused: `name` was given for a bundle, or is missing where the file's own name does not say it.
    """
    from zoo.weights.bundle import import_weights as take_in

    return [place for _, place in take_in(Path(path).expanduser(), registry or default_registry(), on_event, name=name)]


@checked_arguments({"report": "on_event"})
@with_progress(torch=False)
def verify_weights(
    name: str | None = None,
    *,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> list[CheckedWeights]:
    """Hash the pretrained weights on this machine and compare the digests with those that their publishers, the hub's
    cache and zoo's store recorded. `name`, `[provider/]architecture[.tag]`, limits it to one set of weights.

    Raises UnknownName, WeightsError where the named weights are not on this machine.
    """
    from zoo.weights.inventory import verify_weights as look

    return look(registry or default_registry(), name, report=on_event)
