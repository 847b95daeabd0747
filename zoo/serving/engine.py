"""Compute a batch: decode and preprocess its images in threads, then classify or explain them. Called by one thread.

Which images make a batch decides `zoo.serving.batcher`; what a request is answered, `zoo.serving.service`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from PIL.Image import Image
from torch import Tensor

from zoo.artefact.classifier import BATCH_SIZE, Classifier
from zoo.data.prefetch import resolve_workers
from zoo.data.transform import as_seen
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.evaluation.probabilities import NO_CLASS, best_classes, have_probabilities
from zoo.model.gradcam import grad_cam, with_heat
from zoo.serving.answers import BatchPlace, ClassShare, ExplanationBody, PredictionBody
from zoo.serving.batcher import Batch
from zoo.serving.limits import RequestLimits
from zoo.serving.pictures import PictureRefused, Upload, prepare
from zoo.serving.unsure import UnsureRule

Kind = Literal["predict", "explain"]
_DIGITS = 4
"""Digits of a heat map's values: colours have fewer."""


@dataclass(slots=True)
class Job:
    """An image, and what is asked of it."""

    upload: Upload
    top: int
    """Classes to list; at most as many as there are."""
    prepared: Future[Tensor | Exception] | None = None
    """The preprocessed image[3, H, W] to come, or why there is none; None until it is begun."""


Answered = PredictionBody | ExplanationBody


class Engine:
    """A classifier that computes batches of jobs."""

    def __init__(
        self, classifier: Classifier, rule: UnsureRule, limits: RequestLimits, *, workers: int | None = None
    ) -> None:
        """`workers`: decoding threads; default: one per core, at most eight."""
        self._classifier = classifier
        self._rule = rule
        self._limits = limits
        self._pool = ThreadPoolExecutor(resolve_workers(workers), thread_name_prefix="zoo-decode")

    def largest(self, kind: object) -> int:
        """Most images in a batch of this kind."""
        return self._limits.explained if kind == "explain" else BATCH_SIZE

    def begin(self, job: Job) -> Future[Tensor | Exception]:
        """Start to decode and preprocess an image in another thread -> the image[3, H, W] to come, or what is wrong."""
        job.prepared = self._pool.submit(self._prepare, job)
        return job.prepared

    def compute(self, batch: Batch[Job]) -> list[Answered | Exception]:
        """A prediction or an explanation for each job, in their order, or an error: PictureRefused for a bad image.

        Images that cannot be used take no part in the batch. Raises DeviceError where memory runs out.
        """
        # All cores decode, then all compute: on a CPU, each would only slow the other down (zoo.data.prefetch). So what
        # gathers is decoded meanwhile, and nothing is begun while a batch is computed.
        for job in batch.jobs:
            if job.prepared is None:
                self.begin(job)
        prepared = [job.prepared.result() for job in batch.jobs if job.prepared is not None]
        usable = [(job, image) for job, image in zip(batch.jobs, prepared, strict=True) if isinstance(image, Tensor)]
        answers: Sequence[Answered | PictureRefused] = []
        if usable:
            jobs, images = [job for job, _ in usable], torch.stack([image for _, image in usable])
            with out_of_memory_as_error("serving"):
                answers = self._explain(jobs, images) if batch.kind == "explain" else self._predict(jobs, images, batch)
        of_usable = iter(answers)
        return [each if isinstance(each, Exception) else next(of_usable) for each in prepared]

    def close(self) -> None:
        """End the decoding threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, job: Job) -> Tensor | Exception:
        try:
            return prepare(job.upload, self._classifier.model.preprocessing, self._limits)
        except Exception as error:
            # Whatever it is, it is this image's alone: the others of the batch are somebody else's.
            return error

    def _predict(self, jobs: list[Job], images: Tensor, batch: Batch[Job]) -> Sequence[PredictionBody | PictureRefused]:
        """Predictions of images[N, 3, H, W], as `Classifier.predict` makes them of one batch."""
        # Equally many are listed for all, so each job takes the beginning of what the longest list needs.
        most = max(job.top for job in jobs)
        logits = self._classifier.logits(images)
        probabilities, labels = best_classes(logits, most)
        rows = zip(jobs, labels.tolist(), probabilities.tolist(), have_probabilities(logits).tolist(), strict=True)
        return [
            self._prediction(job, top_labels, shares, BatchPlace(number=batch.number, size=len(jobs), index=index))
            if known
            else _no_class(job)
            for index, (job, top_labels, shares, known) in enumerate(rows)
        ]

    def _prediction(self, job: Job, labels: list[int], probabilities: list[float], place: BatchPlace) -> PredictionBody:
        names = self._classifier.classes
        top = [
            ClassShare(label=names[label], probability=probability)
            # Not strict: `labels` is cut to what this job asked for, `probabilities` may be as long as another one's.
            for label, probability in zip(labels[: job.top], probabilities, strict=False)
        ]
        return PredictionBody(
            source=job.upload.source,
            label=top[0].label,
            probability=top[0].probability,
            unsure=self._rule.says(top[0].probability),
            top=top,
            batch=place,
        )

    def _explain(self, jobs: list[Job], images: Tensor) -> Sequence[ExplanationBody | PictureRefused]:
        """Grad-CAM of images[N, 3, H, W]."""
        model = self._classifier.model
        device = next(model.parameters()).device
        relevance = grad_cam(model, images.to(device))
        heats = [None] * len(jobs) if relevance.heat is None else list(relevance.heat.cpu())
        labels = relevance.logits.argmax(1).tolist()
        known = have_probabilities(relevance.logits).tolist()
        explained: list[ExplanationBody | PictureRefused] = []
        for job, image, heat, label, has_class in zip(jobs, images, heats, labels, known, strict=True):
            if not has_class:
                explained.append(_no_class(job))
                continue
            seen = as_seen(image, model.preprocessing)
            explained.append(
                ExplanationBody(
                    source=job.upload.source,
                    label=self._classifier.classes[label],
                    seen=_address(seen, "png"),
                    overlay=None if heat is None else _address(with_heat(seen, heat), "jpeg"),
                    heat=None if heat is None else [[round(v, _DIGITS) for v in row] for row in heat.tolist()],
                    layer=relevance.layer,
                    reason=relevance.reason,
                )
            )
        return explained


def _no_class(job: Job) -> PictureRefused:
    return PictureRefused(422, "no_class", f"{job.upload.source}: {NO_CLASS}.")


def _address(picture: Image, kind: str) -> str:
    """A picture as a `data:` address, in its own size."""
    content = io.BytesIO()
    picture.save(content, kind, **({"quality": 88} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
