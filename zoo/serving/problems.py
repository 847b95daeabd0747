"""What is wrong with a request, as RFC 9457 writes it: `application/problem+json`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

MEDIA_TYPE = "application/problem+json"


class ImageFault(BaseModel):
    """What is wrong with one of the images of a request."""

    index: int
    """Which image, counted from 0."""
    source: str
    """Its file name, as it was sent."""
    code: str
    detail: str


class ProblemDetails(BaseModel):
    """The body of every answer that is an error (RFC 9457)."""

    type: str = "about:blank"
    """Always `about:blank`: what is wrong says `code`."""
    title: str
    """The phrase of the status."""
    status: int
    code: str
    """The name of this kind of problem for programs; it stays."""
    detail: str
    """What was asked, what was found, and what to do."""
    errors: list[ImageFault] | None = None
    """Every image that cannot be used. No image of the request was classified then."""


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry_after: float | None = None,
        errors: Sequence[ImageFault] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        """`retry_after`: seconds after which it is worth another try."""
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.errors = list(errors)
        self._headers = headers or {}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, besides its type and length."""
        again = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return {**self._headers, **again}

    def body(self) -> bytes:
        """The answer's body."""
        details = ProblemDetails(
            title=_phrase(self.status),
            status=self.status,
            code=self.code,
            detail=self.detail,
            errors=self.errors or None,
        )
        return json_bytes(details.model_dump(exclude_none=True))


def json_bytes(content: Any) -> bytes:
    """JSON in UTF-8. Numbers are written so that reading them gives the same bits."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def _phrase(status: int) -> str:
    # RFC 9110 renamed these two, and not every Python has the new names.
    renamed = {413: "Content Too Large", 422: "Unprocessable Content"}
    return renamed.get(status) or HTTPStatus(status).phrase
