"""Classifiers: loaded, judged, verified, exported, served, and sent to and from the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.api.arguments import checked_arguments
from zoo.api.calls import origin_of, with_data, with_data_of_run, with_objects_of_classifier
from zoo.api.progress import with_progress
from zoo.display.shown import shown
from zoo.errors import OptionError
from zoo.events import Note, Report, silent
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from torch import nn

    from zoo.artefact.classifier import Classifier
    from zoo.artefact.evaluate import Evaluation
    from zoo.exporting.export import Exported
    from zoo.serving.server import Serving
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.data import DataLike
    from zoo.specs.head import HeadCallable, HeadSpec
    from zoo.training.verify import Verification


@checked_arguments({"report": "on_event"})
@with_progress()
def load(
    path: str | PathLike[str],
    *,
    backbone: str | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable | None = None,
    device: str = "auto",
    precision: str | None = None,
    compile: bool = False,
    views: str | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Classifier:
    """Open a saved classifier.

    Args:
        path: An artefact folder, a finished run, or `hf://OWNER/NAME[@REVISION]` on the Hugging Face hub.
        backbone: The object that it was made with, where its backbone was one: no package provides that.
        head: The same of its head. The golden logits tell whether it is the one.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`: the precision and memory layout that were measured to be at least
            1.2 times faster on this machine, with batch norms folded into convolutions. Default: what it was trained
            with, for the very logits that were scored.
        compile: Whether torch.compile translates the backbone, for many images. It takes up to a minute first.
        views: `flip` (an image and its mirror image) or `five` (centre and corners): `predict` averages probabilities
            over them, for 2 or 5 times the computing. `evaluate` says what that brings. Default: the image alone.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.

    Raises:
        ZooError: Not an artefact, a damaged one, one whose objects were not given or are others, no such device,
            precision or views, or views that turn a class into another one.
    """
    from zoo.artefact.classifier import Classifier

    folder = _artefact(path)
    known = with_objects_of_classifier(folder, registry, backbone, head)
    return Classifier.load(
        folder, device=device, precision=precision, compile=compile, views=views, report=on_event, registry=known
    )


@checked_arguments({"report": "on_event"})
@with_progress()
def export(
    path: str | PathLike[str],
    *,
    to: str,
    out: str | Path | None = None,
    input: str = "tensor",
    int8: bool = False,
    max_loss: float | None = None,
    data: DataLike | None = None,
    backbone: str | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Exported:
    """Export a saved classifier to a format that does not need zoo, in float32, for any batch size. Returns what was
    written.

    Before it is put in place, the export is read back and its logits are compared with the original's, on the golden
    images in batches of several sizes. The largest difference may be 1e-4 of the largest logit.

    Args:
        path: An artefact folder, a finished run, or `hf://OWNER/NAME[@REVISION]` on the Hugging Face hub.
        to: `onnx`: input `images[N, 3, H, W]`, output `logits[N, classes]`, without softmax; class names and
            preprocessing are its metadata. `pt2`: a program of torch.export.
            `timm`: a folder for `timm.create_model("local-dir:PATH", pretrained=True)`.
            `torchvision`: a state dict for `torchvision.models.NAME(num_classes=N)`.
            The last two are for that library's backbones with a head of one linear layer.
        out: Path to write, which must not exist. Default: beside the artefact.
        input: Of ONNX: `tensor`, preprocessed images; or `image`, a folder whose `model.onnx` takes pictures
            `uint8[N, H, W, 3]` of any size and gives `probabilities[N, classes]` (and `logits`), with class names and
            examples for Python and JavaScript. It is compared with Pillow's preprocessing on validation images of the
            run and on generated ones; at least 99.5 % must get the same class.
        int8: Of ONNX: whether it computes in 8 bits. They are calibrated on 128 training images of the run (at least
            16), and judged beside float32 on its validation images; where they lose too much, the layers that lose most
            stay in float32.
        max_loss: Points of accuracy that `int8` may lose. Default: 1.
        data: Where the images of the run are now, or the object in memory that it was trained on. Default: where the
            run found them. They must be the same images.
        backbone: As for `load`.
        head: As for `load`.

    Raises:
        Refused: The format cannot hold this classifier, `out` exists, a package of the extra `export` is missing, or
            there is too little to calibrate `int8` on.
        OptionError: No such format; for `pt2`, an `out` that does not end in .pt2; options that do not go together.
        ArtefactError: Not an artefact, a damaged one, or one that the exporter cannot trace.
        DataError: `int8` needs images of the run that are gone, or are others by now.
        CheckFailed: The export's logits differ from the original's; it prepares pictures in another way; or `int8`
            loses more than `max_loss`.
    """
    from zoo.exporting.export import export as write
    from zoo.exporting.formats import ExportRequest
    from zoo.storage.atomic import try_new_path

    asked = ExportRequest(to=to, input=input, int8=int8, max_loss=max_loss)
    place = None if out is None else Path(out).expanduser()
    if place is not None:
        try_new_path(place)  # before an artefact is downloaded and images are looked for
    folder = _artefact(path)
    known = with_objects_of_classifier(folder, registry, backbone, head)
    origin = origin_of(folder, data, known, on_event, needed=asked.needs_run)
    return write(folder, asked, place, known, on_event, origin=origin)


@checked_arguments({"report": "on_event"})
@with_progress()
def evaluate(
    artefact: str | PathLike[str],
    *,
    data: DataLike,
    backbone: str | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable | None = None,
    device: str = "auto",
    precision: str | None = None,
    compile: bool = False,
    views: str | None = None,
    workers: int | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Evaluation:
    """Score a saved classifier on labelled images: the `test` split, else `val`, else all of them.

    `artefact` is the `path` of `load`. `data` is given as for `finetune`, an object in memory as well; all others as
    for `load`. With views, `.views` compares with what the classifier is without them. Raises ArtefactError, DataError.
    """
    from zoo.artefact.evaluate import evaluate as score_folder
    from zoo.training.seen_images import trained_on

    place, known = with_data(data, registry or default_registry(), on_event)
    if place is None:
        raise OptionError("evaluate needs labelled images that the classifier has not seen.\nNext: data='photos/'")
    folder = _artefact(artefact)
    classifier = load(
        folder,
        backbone=backbone,
        head=head,
        device=device,
        precision=precision,
        compile=compile,
        views=views,
        on_event=on_event,
        registry=registry,  # of the classifier; `known` has the data as well
    )
    return score_folder(
        classifier,
        place,
        on_event,
        workers=workers,
        registry=known,
        trained_on=lambda files: trained_on(folder, files, known, on_event),
    )


@checked_arguments()
def serve(
    path: str | PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: str | Sequence[str] = (),
    backbone: str | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable | None = None,
    device: str = "auto",
    precision: str | None = None,
    max_images: int | None = None,
    max_bytes: int | None = None,
    max_pixels: int | None = None,
    timeout: float | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    on_ready: Callable[[Serving], None] | None = None,
    registry: Registry | None = None,
) -> None:
    """Answer HTTP requests with a saved classifier, and show a page to try it, until Ctrl-C.

    The artefact is checked first, as `verify` checks one. Then Ctrl-C or SIGTERM lets the requests under way be
    answered, for at most 8 seconds.

    Args:
        path: An artefact folder, a finished run, or `hf://OWNER/NAME[@REVISION]` on the Hugging Face hub.
        host: The address to listen on. Default: for this machine alone. There is no authentication.
        port: The port; 0: any free one.
        allow_hosts: Host names that requests may be for, such as that of a proxy, beside addresses and localhost. So
            no page of another site can pass for this server. Default: none; where `host` lets others in: any.
        backbone: As for `load`.
        head: As for `load`.
        device: As for `load`.
        precision: As for `load`.
        max_images: Most images in a request. Default: 32.
        max_bytes: Most bytes of an image file. Default: 20 million. A request may have five times as many.
        max_pixels: Most pixels of an image. Default: 64 million.
        timeout: Seconds in which a request must arrive, and again in which it must be answered. Default: 30.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`, for what is shown until requests are answered.
        on_ready: Called when requests are answered, with the server's `url`, its `digest` and its `name`.

    Raises:
        Refused: A package of the extra `serve` is missing.
        OptionError: The port is taken, the host is none of this machine, or a limit is not above 0.
        ArtefactError: Not an artefact, a damaged one, or one whose plugin is missing.
        CheckFailed: The classifier is not the one that was saved.
    """
    from zoo.serving.packages import refuse_without_packages

    refuse_without_packages()  # before the imports that would fail
    from zoo.serving.limits import limits_of
    from zoo.serving.server import serve as answer

    known = registry or default_registry()
    if backbone is not None or head is not None:
        known = with_objects_of_classifier(_artefact(path), known, backbone, head)
    limits = limits_of(images=max_images, image_bytes=max_bytes, pixels=max_pixels, seconds=timeout)
    with contextlib.ExitStack() as start:
        report = start.enter_context(shown(on_event, verbose))

        def ready(serving: Serving) -> None:
            if on_ready is None:
                report(Note(text=f"{serving.name} answers at {serving.url}"))
            # The start is over: while requests are answered, other functions may show what they do.
            start.close()
            if on_ready is not None:
                on_ready(serving)

        answer(
            fspath(path),
            host=host,
            port=port,
            allow_hosts=(allow_hosts,) if isinstance(allow_hosts, str) else tuple(allow_hosts),
            device=device,
            precision=precision,
            limits=limits,
            report=report,
            registry=known,
            on_ready=ready,
        )


@checked_arguments({"report": "on_event"})
@with_progress()
def verify(
    path: str | PathLike[str],
    *,
    data: DataLike | None = None,
    backbone: str | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Verification:
    """Check that a saved classifier is unchanged since it was made: an artefact folder, a finished run, or
    `hf://OWNER/NAME[@REVISION]` on the Hugging Face hub.

    Of an artefact, its digests and class names are checked, and a few golden pictures that it carries: preprocessing
    and logits must be as they were. Neither training data nor network is needed. On the same machine, with the same
    versions, every bit must be equal. A logit that differs by up to 1e-4 of the largest one (trained in bfloat16: 5e-2)
    is a warning, more is a fault.

    Of a run, the first steps are repeated from its plan as well. Their losses must be equal, on another machine within
    1e-3. Where data or weights no longer exist, a warning says so; with `offline`, weights that are not on this machine
    count as such. Nothing is written. For a run on an object in memory, `data` is the same object again; `backbone` and
    `head` are given as for `load`.

    Raises RunError for a run that is not finished, ArtefactError for anything else that is not an artefact.
    """
    from zoo.training.verify import verify as look_again

    folder = _artefact(path)
    known = with_data_of_run(folder, data, with_objects_of_classifier(folder, registry, backbone, head), on_event)
    return look_again(folder, known, on_event, offline=offline)


@checked_arguments()
def push(artefact: str | PathLike[str], repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Send a saved classifier to the Hugging Face hub, the artefact's files and nothing else. Returns its address.

    Args:
        artefact: An artefact folder or a finished run.
        repo: OWNER/NAME, created if it does not exist.
        private: Whether a repository that is created is private. Default: everybody sees it.
        revision: A branch, created if it does not exist. Default: main.

    Raises:
        ArtefactError: Not an artefact, a damaged one, or the hub cannot be reached.
        Refused: You are not logged in to the hub, or lack permission; `repo` is not a name, or `artefact` an address.
        Offline: The network is switched off.
    """
    from zoo.artefact.hub import push as send

    return send(Path(artefact).expanduser(), repo, private=private, revision=revision)


@checked_arguments()
def pull(repo: str, out: str | Path, *, revision: str | None = None) -> Path:
    """Download a saved classifier from the Hugging Face hub into a new folder and check it. Returns the folder.

    Args:
        repo: OWNER/NAME, or `hf://OWNER/NAME[@REVISION]`.
        out: The folder to write, which must not exist.
        revision: A branch, tag or commit. Default: main.

    Raises ArtefactError where there is no such artefact; Refused where `out` exists, or the address names another
    revision than `revision`; Offline.
    """
    from zoo.artefact.hub import pull as fetch

    return fetch(repo, Path(out).expanduser(), revision=revision)


def _artefact(path: str | PathLike[str]) -> Path:
    """The folder on this machine of a path, or of an address on the hub, which is downloaded."""
    place = fspath(path)
    if not place.startswith("hf:/"):  # one slash: `Path` takes the other one away
        return Path(place).expanduser()
    from zoo.artefact.hub import local_folder

    return local_folder(place)
