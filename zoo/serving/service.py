"""The classifier as the routes see it: what it is, and answers for the images of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version

from zoo.artefact.classifier import Classifier
from zoo.errors import DeviceError, is_out_of_memory
from zoo.serving import counters
from zoo.serving.answers import ClassesAnswer, ExplanationBody, LimitsBody, PredictionBody, UnsureBody
from zoo.serving.batcher import Batch, Batcher, QueueFull
from zoo.serving.engine import Answered, Engine, Job, Kind
from zoo.serving.limits import RequestLimits, Room
from zoo.serving.pictures import PictureRefused, Upload
from zoo.serving.problems import ImageFault, Problem
from zoo.serving.unsure import UnsureRule
from zoo.text import counted


class Service:
    """A classifier that answers until it is closed."""

    def __init__(self, classifier: Classifier, *, name: str, rule: UnsureRule, limits: RequestLimits) -> None:
        """`name`: what people call the classifier."""
        self.name = name
        self.rule = rule
        self.limits = limits
        self.config = classifier.config
        self.fault = classifier.fault
        self.room = Room(limits)
        self.counters = counters.Counters(digest=self.config.digest, version=version("zoo-registry"))
        self.is_stopping = False
        self._preprocessing = classifier.model.preprocessing
        self._engine = Engine(classifier, rule, limits)
        self._batcher = Batcher[Job, Answered](
            self._compute, largest=self._engine.largest, queue=limits.queue, begin=self._engine.begin
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return self.config.digest

    @property
    def is_alive(self) -> bool:
        """Whether batches are computed."""
        return self._batcher.is_alive

    @property
    def retry_after(self) -> float:
        """Seconds after which a request that is refused for want of room is worth another try."""
        return self._batcher.seconds_to_empty

    def close(self) -> None:
        """Compute what waits, and end the threads."""
        # In this order: what waits is still to be decoded.
        self._batcher.close()
        self._engine.close()

    async def predict(self, uploads: Sequence[Upload], *, top: int) -> list[PredictionBody]:
        """A prediction for each image. Raises Problem, for all where one cannot be used, and where there is no room."""
        answers = await self._answers(uploads, "predict", top)
        predictions = [each for each in answers if isinstance(each, PredictionBody)]
        for each in predictions:
            self.counters.images("unsure" if each.unsure else "sure")
        return predictions

    async def explain(self, uploads: Sequence[Upload]) -> list[ExplanationBody]:
        """An explanation of each image. Raises Problem as `predict` does."""
        answers = await self._answers(uploads, "explain", 1)
        self.counters.images("explained", len(answers))
        return [each for each in answers if isinstance(each, ExplanationBody)]

    def describe(self) -> ClassesAnswer:
        """What the classifier is."""
        limits = self.limits
        return ClassesAnswer(
            name=self.name,
            digest=self.digest,
            classes=list(self.config.classes),
            backbone=self.config.backbone.name,
            head=self.config.head.name,
            preprocessing=self._preprocessing.describe(),
            unsure=UnsureBody(below=self.rule.below, why=self.rule.why),
            limits=LimitsBody(
                image_bytes=limits.image_bytes,
                request_bytes=limits.request_bytes,
                pixels=limits.pixels,
                images=limits.images,
                explained=limits.explained,
                seconds=limits.seconds,
            ),
        )

    def metrics(self) -> str:
        """What was counted, and how it stands now, as Prometheus reads it."""
        gauges = {
            "zoo_queue_images": ("Images that wait for their batch.", float(self._batcher.waiting)),
            "zoo_requests_under_way": ("Requests that are received or answered.", float(self.room.requests)),
            "zoo_request_bytes_held": ("Bytes of the requests under way.", float(self.room.bytes)),
        }
        memory = counters.resident_bytes()
        if memory is not None:
            gauges["process_resident_memory_bytes"] = ("Memory of this process.", float(memory))
        return self.counters.text(gauges)

    def _compute(self, batch: Batch[Job]) -> Sequence[Answered | Exception]:
        answers = self._engine.compute(batch)
        # A batch of which no image could be used was none for the classifier.
        if usable := sum(not isinstance(each, Exception) for each in answers):
            self.counters.batch(usable)
        return answers

    async def _answers(self, uploads: Sequence[Upload], kind: Kind, top: int) -> list[Answered]:
        jobs = [Job(upload, top) for upload in uploads]
        try:
            futures = [asyncio.wrap_future(each) for each in self._batcher.submit(jobs, kind)]
        except QueueFull:
            self.counters.images("refused", len(jobs))
            text = (
                f"{counted(self._batcher.waiting, 'image')} wait already, and at most {self.limits.queue} may. "
                "Next: try again."
            )
            raise Problem(503, "busy", text, retry_after=self.retry_after) from None
        try:
            async with asyncio.timeout(self.limits.seconds):
                # All are waited for, so that the answer lists every image that cannot be used, and not the first
                # alone. The timeout cancels them all: what still waits in the queue is then not computed.
                results = await asyncio.gather(*futures, return_exceptions=True)
        except TimeoutError:
            text = f"There was no answer within {self.limits.seconds:g} s. Next: try again."
            raise Problem(503, "busy", text, retry_after=self.retry_after) from None
        self._batcher.note_answered()
        return self._sound(uploads, results)

    def _sound(self, uploads: Sequence[Upload], results: Sequence[Answered | BaseException]) -> list[Answered]:
        """The results, where all are answers. Raises Problem."""
        faults: list[tuple[ImageFault, int]] = []
        answers: list[Answered] = []
        for index, (upload, result) in enumerate(zip(uploads, results, strict=True)):
            if isinstance(result, PictureRefused):
                fault = ImageFault(index=index, source=upload.source, code=result.code, detail=result.detail)
                faults.append((fault, result.status))
            elif isinstance(result, BaseException) and (isinstance(result, DeviceError) or is_out_of_memory(result)):
                # Another time, there may be enough memory.
                raise Problem(503, DeviceError.code, str(result) or "memory ran out", retry_after=self.retry_after)
            elif isinstance(result, BaseException):
                raise result  # a fault of the server: it is answered with 500, and the log has its traceback
            else:
                answers.append(result)
        if faults:
            # All of them: of a request with one bad image, no answer is given for the others either.
            self.counters.images("refused", len(uploads))
            raise _of_images(faults, len(uploads))
        return answers


def _of_images(faults: Sequence[tuple[ImageFault, int]], images: int) -> Problem:
    first, status = faults[0]
    if any(other != status for _, other in faults):
        status = 422
    others = "" if len(faults) == 1 else f" And {counted(len(faults) - 1, 'more image')} of this request."
    whole = "" if images == 1 else " No image of the request was classified. Next: send the others again."
    return Problem(
        status, first.code, f"{first.detail.rstrip('.')}.{others}{whole}", errors=[fault for fault, _ in faults]
    )
