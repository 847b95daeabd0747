"""Read the images of a request while they arrive, and stop at the first limit that they pass.

A body is either one image or `multipart/form-data` with a file in every field. Nothing else is taken: what a program
sends as JSON or as a form is not an image, and an address in it is never fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from zoo.serving.limits import Held, RequestLimits
from zoo.serving.pictures import Upload
from zoo.serving.problems import Problem
from zoo.text import printable

Result = TypeVar("Result")
_TOO_SLOW = 408
_MULTIPART = "multipart/form-data"
_BINARY = ("", "application/octet-stream")
_LINGER_SECONDS, _LINGER_BYTES = 1.0, 200_000_000
"""How long, and of how much, what still arrives is thrown away before an error is answered. A client that is cut off
while it sends often loses the answer."""
_EMPTY_FIELDS = 100
"""Most fields of a form in which no file was chosen. They hold nothing, but each costs time."""
_NAME_LETTERS = 255
"""Most letters of a file name that are kept."""
_AS_FILES = "Next: curl -F image=@photo.jpg URL, or curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' URL"


@contextlib.asynccontextmanager
async def opened(request: Request) -> AsyncIterator[Body]:
    """Inside, the body of a request is read. Where a Problem ends that, what still arrives is thrown away first."""
    body = Body(request)
    try:
        yield body
    except Problem as problem:
        # What did not arrive in all that time is not waited for once more.
        if problem.status != _TOO_SLOW:
            await body.discard()
        raise


async def read_uploads(body: Body, limits: RequestLimits, held: Held, *, most: int) -> list[Upload]:
    """The images of a request, at least one and at most `most`.

    Raises:
        Problem: Too large (413), too slow (408), of another kind (415), no multipart (400), or without an image (422).
        ClientDisconnect: The client has gone.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            return await _read(body, limits, held, most)
    except TimeoutError:
        text = f"The request did not arrive within {limits.seconds:g} s. Next: send fewer or smaller images."
        raise Problem(_TOO_SLOW, "too_slow", text, headers={"Connection": "close"}) from None


class Body:
    """The body of a request, as it arrives."""

    def __init__(self, request: Request) -> None:
        self.headers = request.headers
        self._receive = request.receive
        self._has_ended = False

    @property
    def stated_bytes(self) -> int:
        """How many bytes the request says that it has; 0 where it does not say."""
        stated = self.headers.get("content-length", "")
        return int(stated) if stated.isdecimal() else 0

    async def while_client_waits(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of some work for the client, which is given up where it leaves meanwhile.

        Raises ClientDisconnect then, and what the work raises.
        """
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(self._left())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            return working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _left(self) -> None:
        """Return once the client has gone. Nothing else comes when the body has ended."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def chunks(self) -> AsyncIterator[bytes]:
        """What arrives, part by part. Raises ClientDisconnect."""
        while not self._has_ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self._has_ended = not message.get("more_body", False)
            if part := message.get("body", b""):
                yield part

    async def discard(self) -> None:
        """Throw away what still arrives, for a while."""
        left = _LINGER_BYTES
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(_LINGER_SECONDS):
                async for part in self.chunks():
                    left -= len(part)
                    if left < 0:
                        return


async def _read(body: Body, limits: RequestLimits, held: Held, most: int) -> list[Upload]:
    kind, options = parse_options_header(body.headers.get("content-type", ""))
    media = kind.decode("latin-1").lower()
    # A few packed bytes can hold gigabytes, which the limits on what arrives would not see.
    if body.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "encoded", "A body with a Content-Encoding is not taken. Next: send the file as it is.")
    if media == _MULTIPART:
        return await _multipart(body, options.get(b"boundary", b""), limits, held, most)
    if media.startswith("image/") or media in _BINARY:
        return [await _single(body, limits, held)]
    raise Problem(
        415,
        "not_images",
        f"The request says that it holds {printable(media)}. Images are taken as they are, or as {_MULTIPART}; "
        f"an address is never fetched. {_AS_FILES}",
    )


async def _single(body: Body, limits: RequestLimits, held: Held) -> Upload:
    # What is stated is refused at once; what arrives is counted all the same, for a chunked request states nothing.
    limits.refuse_bytes(body.stated_bytes)
    limits.refuse_image_bytes(body.stated_bytes, "image 0")
    content = bytearray()
    async for chunk in body.chunks():
        held.add(len(chunk))
        content += chunk
        limits.refuse_image_bytes(len(content), "image 0")
    if not content:
        raise Problem(422, "no_image", f"The request has no body, so there is no image. {_AS_FILES}")
    return Upload("image 0", bytes(content))


async def _multipart(body: Body, boundary: bytes, limits: RequestLimits, held: Held, most: int) -> list[Upload]:
    limits.refuse_bytes(body.stated_bytes)
    if not boundary:
        raise Problem(400, "malformed", f"The Content-Type {_MULTIPART} names no boundary. {_AS_FILES}")
    form = _Form(limits, most)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        total = 0
        async for chunk in body.chunks():
            total += len(chunk)
            limits.refuse_bytes(total)
            held.add(len(chunk))
            parser.write(chunk)
    except FormParserError as error:
        raise Problem(
            400, "malformed", f"The body is not {_MULTIPART}: {str(error).rstrip('.')}. {_AS_FILES}"
        ) from None
    if not form.is_complete:
        raise Problem(400, "malformed", f"The body ends before the last boundary of its {_MULTIPART}. {_AS_FILES}")
    if not form.uploads:
        raise Problem(422, "no_image", f"The form has no file, so there is no image. {_AS_FILES}")
    return form.uploads


class _Form:
    """What the parser has found so far."""

    def __init__(self, limits: RequestLimits, most: int) -> None:
        self.uploads: list[Upload] = []
        self.is_complete = False
        self._limits = limits
        self._most = most
        self._content = bytearray()
        self._source = ""
        self._is_empty_field = False
        self._empty_fields = 0
        self._disposition = b""
        self._header, self._value = b"", b""

    def callbacks(self) -> Any:
        """The functions that the parser calls, by the names that it gives them."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        self._content, self._disposition = bytearray(), b""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        # Names and values come in pieces where the body does: a chunk may end in the middle of one.
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        file = options.get(b"filename")
        if file is None:
            field = options.get(b"name", b"").decode(errors="replace")[:_NAME_LETTERS]
            raise Problem(
                422,
                "not_a_file",
                f"The form field {field!r} is no file. Every field must be an image file; an address is never "
                f"fetched. {_AS_FILES}",
            )
        # A field without a file has no name for one either.
        self._is_empty_field = not file
        self._source = file.decode(errors="replace")[:_NAME_LETTERS] or f"image {len(self.uploads)}"
        # Already here, so that the content of one image too many is not taken in.
        if file:
            self._limits.refuse_images(len(self.uploads) + 1, self._most)

    def _add(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]
        self._limits.refuse_image_bytes(len(self._content), self._source)

    def _end(self) -> None:
        # A browser sends a file field in which nothing was chosen as a file without a name and without content.
        if self._is_empty_field and not self._content:
            self._empty_fields += 1
            if self._empty_fields > _EMPTY_FIELDS:
                text = (
                    f"The form has more than {_EMPTY_FIELDS} fields in which no file was chosen. Next: leave them out."
                )
                raise Problem(413, "too_many_images", text)
            return
        self._limits.refuse_images(len(self.uploads) + 1, self._most)
        self.uploads.append(Upload(self._source, bytes(self._content)))
        self._content = bytearray()

    def _complete(self) -> None:
        self.is_complete = True
