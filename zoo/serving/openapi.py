"""The OpenAPI 3.1 document. Its schemas are those of the answers themselves, so they cannot differ."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from zoo.serving import problems
from zoo.serving.answers import TOP, ClassesAnswer, ExplainAnswer, HealthAnswer, PredictAnswer
from zoo.serving.service import Service
from zoo.text import counted, size

_JSON = "application/json"
_BINARY = {"type": "string", "format": "binary"}
_REFUSALS = {
    "400": "The body is no multipart, or no HTTP.",
    "403": "A page of another site sent it, or it is for the name of another host.",
    "408": "The request did not arrive in time.",
    "413": "Too many bytes, pixels or images.",
    "415": "The body is neither an image nor multipart.",
    "422": "An image that cannot be read or has no class, none at all, or an option that does not exist.",
}
_BUSY = "No room, or no answer in time. Try again after Retry-After seconds."


def document(service: Service) -> dict[str, Any]:
    """The document for a server."""
    models = (PredictAnswer, ExplainAnswer, ClassesAnswer, HealthAnswer, problems.ProblemDetails)
    # "serialization": answers as they are written, in which fields with a default are always there.
    _, schemas = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    limits = service.limits
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"zoo serve: {service.name}",
            "version": version("zoo-registry"),
            "description": f"Sorts images into {counted(len(service.config.classes), 'class', 'classes')}. "
            f"The classifier's digest is {service.digest}. There is no authentication.",
        },
        "paths": {
            "/predict": {"post": _predict(service)},
            "/explain": {
                "post": _posts(
                    "explain",
                    "Where the classifier looked (Grad-CAM), and what it saw after preprocessing",
                    ExplainAnswer.__name__,
                    f"At most {counted(limits.explained, 'image')}.",
                )
            },
            "/classes": _gets("classes", "What the classifier is, and its limits", ClassesAnswer.__name__),
            "/healthz": _gets("healthz", "Whether the server computes", HealthAnswer.__name__, busy="It is broken."),
            "/readyz": _gets(
                "readyz", "Whether to send requests", HealthAnswer.__name__, busy="It is broken, or it is ending."
            ),
            "/metrics": _plain("metrics", "Counters, as Prometheus reads them", "text/plain"),
            "/openapi.json": _plain("openapi", "This document", _JSON),
            "/": _plain("page", "The page for people", "text/html"),
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _predict(service: Service) -> dict[str, Any]:
    limits, classes = service.limits, len(service.config.classes)
    operation = _posts(
        "predict",
        "Classify one or several images",
        "PredictAnswer",
        f"At most {counted(limits.images, 'image')} of {size(limits.image_bytes)} each and "
        f"{size(limits.request_bytes)} together, of at most {limits.pixels:,} pixels each. "
        "If one image cannot be used, none is classified.",
    )
    operation["parameters"] = [
        {
            "name": "top",
            "in": "query",
            "description": "How many classes to list for each image.",
            "schema": {"type": "integer", "minimum": 1, "maximum": classes, "default": min(TOP, classes)},
        }
    ]
    return operation


def _posts(name: str, summary: str, answer: str, description: str) -> dict[str, Any]:
    files = {"type": "object", "additionalProperties": {"anyOf": [_BINARY, {"type": "array", "items": _BINARY}]}}
    refusals = {status: _problem(meaning) for status, meaning in _REFUSALS.items()}
    again = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
    return {
        "operationId": name,
        "summary": summary,
        "description": description,
        "requestBody": {
            "required": True,
            "description": "An image file as it is, or a form whose every field is an image file, of any name.",
            "content": {
                "multipart/form-data": {"schema": files},
                "image/*": {"schema": _BINARY},
                "application/octet-stream": {"schema": _BINARY},
            },
        },
        "responses": {"200": _answer(answer), **refusals, "503": {**_problem(_BUSY), "headers": again}},
    }


def _gets(name: str, summary: str, answer: str, busy: str = "") -> dict[str, Any]:
    responses = {"200": _answer(answer), **({"503": _problem(busy)} if busy else {})}
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _plain(name: str, summary: str, media: str) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": {media: {}}}}
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _answer(name: str) -> dict[str, Any]:
    return {"description": "The answer.", "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


def _problem(meaning: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{problems.ProblemDetails.__name__}"}
    return {"description": meaning, "content": {problems.MEDIA_TYPE: {"schema": schema}}}
