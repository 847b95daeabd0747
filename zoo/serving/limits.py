"""What a request may cost: bytes, pixels, images and time, and how many requests may be under way together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields

from zoo.errors import OptionError
from zoo.serving.problems import Problem
from zoo.text import counted, size

_IMAGES_WORTH = 5
"""A request may have the bytes of so many of the largest images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """The limits of a server. All must be above 0."""

    image_bytes: int = 20_000_000
    """Bytes of one image file: 413 beyond it."""
    request_bytes: int = 100_000_000
    """Bytes of one request: 413 beyond it."""
    pixels: int = 64_000_000
    """Pixels of one image, as its header states them, before or after the resize: 413 beyond it. A photo of this size
    needs about 200 MB while it is decoded."""
    images: int = 32
    """Images in one request: 413 beyond it."""
    explained: int = 4
    """The same for `/explain`, which computes each image forwards and backwards."""
    seconds: float = 30.0
    """Time in which a request must arrive (408 beyond it), and time in which it must be answered (503)."""
    queue: int = 256
    """Images that wait for their batch: 503 beyond it."""
    requests: int = 256
    """Requests under way together, received or answered: 503 beyond it."""
    held_bytes: int = 500_000_000
    """Bytes of all requests under way together: 503 beyond it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            # `not ... > 0`, which refuses what is no number (NaN) as well.
            if not getattr(self, field.name) > 0:
                raise OptionError(
                    f"The limit {field.name} must be above 0, got {getattr(self, field.name)}.\n"
                    f"Next: leave it out, for {field.default:,}."
                )
        # The images of a request wait together or not at all: a full one would be refused for ever.
        if self.queue < self.images:
            raise OptionError(
                f"A request may have {counted(self.images, 'image')}, but only {self.queue} may wait.\n"
                f"Next: let at least {self.images} wait, or fewer be sent."
            )

    def refuse_bytes(self, count: int) -> None:
        """Raise Problem (413) for a request of more bytes than one may have."""
        if count > self.request_bytes:
            raise Problem(
                413,
                "request_too_large",
                f"A request may have at most {size(self.request_bytes)}. Next: send fewer images at a time.",
            )

    def refuse_image_bytes(self, count: int, name: str) -> None:
        """Raise Problem (413) for an image file of more bytes than one may have."""
        if count > self.image_bytes:
            raise Problem(
                413,
                "image_too_large",
                f"{name}: an image file may have at most {size(self.image_bytes)}. Next: save it smaller.",
            )

    def refuse_images(self, count: int, most: int) -> None:
        """Raise Problem (413) for a request of more images than `most`."""
        if count > most:
            raise Problem(
                413,
                "too_many_images",
                f"A request may have at most {counted(most, 'image')}. Next: send several requests; "
                "they are gathered into batches all the same.",
            )


def limits_of(
    *, images: int | None, image_bytes: int | None, pixels: int | None, seconds: float | None
) -> RequestLimits:
    """The limits with some of their values given; what hangs together with them follows. Raises OptionError."""
    own = RequestLimits()
    # Whatever is asked for, there is room for two of the largest requests: else one would shut out all others.
    images = own.images if images is None else images
    image_bytes = own.image_bytes if image_bytes is None else image_bytes
    request_bytes = _IMAGES_WORTH * image_bytes
    return RequestLimits(
        image_bytes=image_bytes,
        request_bytes=request_bytes,
        pixels=own.pixels if pixels is None else pixels,
        images=images,
        explained=min(own.explained, images),
        seconds=own.seconds if seconds is None else seconds,
        queue=max(own.queue, 2 * images),
        held_bytes=max(own.held_bytes, 2 * request_bytes),
    )


class Room:
    """What requests under way together hold. All calls come from one thread, that of the event loop."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self.requests = 0
        self.bytes = 0

    @contextlib.contextmanager
    def entered(self, retry_after: float = 1.0) -> Iterator[Held]:
        """Inside, a request is under way. Raises Problem (503) where there are too many."""
        if self.requests >= self._limits.requests:
            raise Problem(
                503,
                "busy",
                f"{self.requests} requests are under way, as many as may be. Next: try again.",
                retry_after=retry_after,
            )
        held = Held(self, retry_after)
        # No lock: nothing is awaited between looking and counting, so no other request comes between.
        self.requests += 1
        try:
            yield held
        finally:
            self.requests -= 1
            self.bytes -= held.bytes

    def take(self, count: int, retry_after: float) -> None:
        """Count bytes that a request holds. Raises Problem (503) where all together hold too many."""
        if self.bytes + count > self._limits.held_bytes:
            raise Problem(
                503,
                "busy",
                f"The requests under way hold {size(self.bytes)}, as much as they may. Next: try again.",
                retry_after=retry_after,
            )
        self.bytes += count


class Held:
    """The bytes of one request."""

    def __init__(self, room: Room, retry_after: float) -> None:
        self._room = room
        self._retry_after = retry_after
        self.bytes = 0

    def add(self, count: int) -> None:
        """Hold so many bytes more, until the request is answered."""
        self._room.take(count, self._retry_after)
        self.bytes += count
