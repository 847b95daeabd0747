"""The addresses of the server, and what every answer has in common."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoo.errors import meant
from zoo.serving import counters, problems
from zoo.serving.answers import TOP, ExplainAnswer, HealthAnswer, PredictAnswer
from zoo.serving.openapi import document
from zoo.serving.page import Page, render
from zoo.serving.problems import Problem, json_bytes
from zoo.serving.reading import opened, read_uploads
from zoo.serving.service import Service
from zoo.serving.sites import Sites

ADDRESSES = ("/", "/predict", "/explain", "/classes", "/healthz", "/readyz", "/metrics", "/openapi.json")
_TOP_DIGITS = 9
_LEFT = 499
"""The status that is counted for a request whose client left before it was answered."""
_EVERY_ANSWER = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of answers that are no page."""
_log = logging.getLogger(__name__)


def make_app(service: Service, sites: Sites) -> ASGIApp:
    """The application that answers requests with this service, other than those of other `sites`."""
    routes = _Routes(service)
    app = Starlette(
        routes=[
            Route("/", routes.page, methods=["GET"]),
            Route("/predict", routes.predict, methods=["POST"]),
            Route("/explain", routes.explain, methods=["POST"]),
            Route("/classes", routes.classes, methods=["GET"]),
            Route("/healthz", routes.healthz, methods=["GET"]),
            Route("/readyz", routes.readyz, methods=["GET"]),
            Route("/metrics", routes.metrics, methods=["GET"]),
            Route("/openapi.json", routes.openapi, methods=["GET"]),
        ],
        exception_handlers={
            Problem: _problem,
            HTTPException: _http_problem,
            ClientDisconnect: _nobody,
            Exception: _broken,
        },
    )
    # Starlette would answer /predict/ with a redirect, and a client would send its images twice.
    app.router.redirect_slashes = False
    return _Around(app, service, sites)


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._page: Page = render(service)
        self._document = document(service)

    async def page(self, request: Request) -> Response:
        _options(request, ())
        return Response(
            self._page.html, media_type="text/html", headers={"Content-Security-Policy": self._page.security_policy}
        )

    async def predict(self, request: Request) -> Response:
        service = self._service
        async with opened(request) as body:
            top = _top(request, len(service.config.classes))
            with service.room.entered(service.retry_after) as held:
                uploads = await read_uploads(body, service.limits, held, most=service.limits.images)
                predictions = await body.while_client_waits(service.predict(uploads, top=top))
        return _json(PredictAnswer(digest=service.digest, predictions=predictions))

    async def explain(self, request: Request) -> Response:
        service = self._service
        async with opened(request) as body:
            _options(request, ())
            with service.room.entered(service.retry_after) as held:
                uploads = await read_uploads(body, service.limits, held, most=service.limits.explained)
                explanations = await body.while_client_waits(service.explain(uploads))
        return _json(ExplainAnswer(digest=service.digest, explanations=explanations))

    async def classes(self, request: Request) -> Response:
        _options(request, ())
        return _json(self._service.describe())

    async def healthz(self, request: Request) -> Response:
        if not self._service.is_alive:
            raise Problem(503, "broken", "The thread that computes has ended. Next: start the server again.")
        return _json(HealthAnswer(status="ok", digest=self._service.digest))

    async def readyz(self, request: Request) -> Response:
        if self._service.is_stopping:
            raise Problem(503, "stopping", "The server finishes what is under way, and ends.")
        return await self.healthz(request)

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics(), headers={"Content-Type": counters.MEDIA_TYPE})

    async def openapi(self, request: Request) -> Response:
        return Response(json_bytes(self._document), media_type="application/json")


def _json(answer: BaseModel) -> Response:
    return Response(json_bytes(answer.model_dump()), media_type="application/json")


def _top(request: Request, classes: int) -> int:
    text = _options(request, ("top",)).get("top")
    if text is None:
        return min(TOP, classes)
    # More digits are no number of classes, and Python refuses to read thousands of them.
    if not (text.isascii() and text.isdecimal() and len(text) <= _TOP_DIGITS and 1 <= int(text) <= classes):
        raise Problem(
            422,
            "option",
            f"top must be a whole number from 1 to {classes}, the number of classes; got {text[:99]!r}. "
            f"Next: leave it out, for {min(TOP, classes)}.",
        )
    return int(text)


def _options(request: Request, known: tuple[str, ...]) -> Mapping[str, str]:
    """The query. Raises Problem for a name that is not known, or that comes twice."""
    given = request.query_params.multi_items()
    # An option that is misspelt would be passed over without a word, and another answer given than was asked for.
    for name, _ in given:
        if name not in known:
            raise no_such_option(name, known)
    if len(given) > len(dict(given)):
        raise Problem(422, "option", f"{given[0][0]} is given twice. Next: give it once.")
    return dict(given)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _answer_of(error)


def _answer_of(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, headers={**problem.headers, "Content-Type": problems.MEDIA_TYPE})


async def _http_problem(request: Request, error: Exception) -> Response:
    """What starlette itself refuses: an address that does not exist, and another method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"{path} takes {allowed or 'another method'}, not {request.method}."
        problem = Problem(405, "method", text, headers=dict(error.headers or {}))
    else:
        problem = no_such_address(path)
    return await _problem(request, problem)


async def _nobody(_: Request, error: Exception) -> Response:
    """The client has left: what is answered is only counted."""
    return Response(status_code=_LEFT)


async def _broken(request: Request, error: Exception) -> Response:
    return await _problem(request, Problem(500, "internal", "This is a fault of the server. Its log says more."))


def no_such_option(name: str, known: Sequence[str]) -> Problem:
    """The answer to a name in a query that its address does not know."""
    there_are = f" There is: {', '.join(known)}." if known else " This address has none."
    return Problem(422, "option", f"There is no option {name!r}.{meant(name, known)}{there_are}")


def no_such_address(path: str) -> Problem:
    """The answer to an address that does not exist."""
    text = f"There is no {path}.{meant(path, ADDRESSES)} /openapi.json lists all addresses."
    return Problem(404, "not_found", text)


def _two_lengths(headers: Headers) -> Problem | None:
    """What is wrong with a request that states its length in two ways: a proxy may believe the other one, and take the
    rest for somebody else's request (RFC 9112, 6.1)."""
    if "transfer-encoding" not in headers or "content-length" not in headers:
        return None
    text = "The request has a Content-Length and a Transfer-Encoding. Next: send one of them."
    return Problem(400, "malformed", text, headers={"Connection": "close"})


class _Around:
    """What every request gets: its headers, its count, and an answer where something broke."""

    def __init__(self, app: Starlette, service: Service, sites: Sites) -> None:
        self._app = app
        self._sites = sites
        self._service = service
        self._paths = {route.path for route in app.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = _LEFT

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(message)]
            async with asyncio.timeout(self._service.limits.seconds):  # a client that reads nothing
                await send(message)

        headers = Headers(scope=scope)
        refused = _two_lengths(headers) or self._sites.problem_of(scope["method"], headers)
        try:
            await (self._app if refused is None else _answer_of(refused))(scope, receive, send_on)
        except TimeoutError:
            status = _LEFT
        except Exception:
            # It has been answered (`_broken`). The log must say what it was, in one line whatever the path holds.
            _log.exception("%s %r", scope["method"], scope["path"])
        finally:
            # A path that anybody can make up must not become a name that is counted for ever.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._service.counters.request(path, status, time.monotonic() - began)

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        present = {name.lower() for name, _ in message["headers"]}
        headers = {**_EVERY_ANSWER, "Zoo-Digest": self._service.digest, "Content-Security-Policy": _NO_PAGE}
        encoded = ((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())
        return [(name, value) for name, value in encoded if name not in present]
