"""What the server answers, as data: the bodies of its answers, and the schemas of its OpenAPI document."""

from __future__ import annotations

from pydantic import BaseModel

TOP = 5
"""Most classes that a prediction lists, unless the request says otherwise."""


class ClassShare(BaseModel):
    """A class and its probability."""

    label: str
    probability: float
    """0 to 1."""


class BatchPlace(BaseModel):
    """Where an image was computed. Last bits depend on how many images are computed together, and on nothing else: the
    same images in the same order as one batch of `Classifier.predict` give the same bits."""

    number: int
    """Batches are counted from 1 since the server started."""
    size: int
    """Images in the batch."""
    index: int
    """Position of this image in it, counted from 0."""


class PredictionBody(BaseModel):
    """The prediction for one image."""

    source: str
    """The file name, as it was sent; `image N` without one, counted from 0."""
    label: str
    """The most probable class."""
    probability: float
    """Probability of `label`, 0 to 1."""
    unsure: bool
    """Whether the probability is below `unsure.below` of `/classes`."""
    top: list[ClassShare]
    """The most probable classes, best first."""
    batch: BatchPlace


class PredictAnswer(BaseModel):
    """The answer of `/predict`: a prediction for each image, in their order."""

    digest: str
    """SHA-256 of the weights of the classifier that answered."""
    predictions: list[PredictionBody]


class ExplanationBody(BaseModel):
    """Where the classifier looked in one image, and what it saw of it."""

    source: str
    label: str
    """The class that is explained: the most probable one."""
    seen: str
    """The image after preprocessing, as a picture again: a `data:` address of a PNG file."""
    overlay: str | None
    """The same in grey, under its Grad-CAM heat map: a `data:` address of a JPEG file. Bright areas
    speak for `label`."""
    heat: list[list[float]] | None
    """The map itself, in rows from the top, each value from 0 to 1."""
    layer: str
    """The layer whose output was weighted."""
    reason: str
    """Why there is no heat map; empty where there is one."""


class ExplainAnswer(BaseModel):
    """The answer of `/explain`."""

    digest: str
    explanations: list[ExplanationBody]


class UnsureBody(BaseModel):
    """When a prediction counts as unsure."""

    below: float
    """A prediction with a lower probability is unsure."""
    why: str
    """Where that number comes from."""


class LimitsBody(BaseModel):
    """What a request may cost."""

    image_bytes: int
    request_bytes: int
    pixels: int
    images: int
    explained: int
    seconds: float


class ClassesAnswer(BaseModel):
    """The answer of `/classes`: what the classifier is."""

    name: str
    """The name of its folder, or of its repository."""
    digest: str
    classes: list[str]
    """In the order of the logits."""
    backbone: str
    head: str
    preprocessing: str
    unsure: UnsureBody
    limits: LimitsBody


class HealthAnswer(BaseModel):
    """The answer of `/healthz` and `/readyz`."""

    status: str
    """`ok`."""
    digest: str
