"""The page: one HTML file with its styles and its script, which loads nothing from other hosts."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass

from markupsafe import Markup

from zoo.reporting.page import environment, styles
from zoo.serving.service import Service


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and the policy that lets a browser run this script and use these styles, and no others."""

    html: str
    security_policy: str


def render(service: Service) -> Page:
    """The page of a server."""
    templates = environment("zoo.serving")
    css = styles(templates) + Markup(templates.get_template("serve.css").render())
    script = Markup(templates.get_template("serve.js").render())
    about = service.describe()
    html = templates.get_template("serve.html").render(
        css=css,
        script=script,
        about=about,
        fault=service.fault,
        # JSON in a script element: markup in a class name must not end it.
        data=Markup(json.dumps(about.model_dump()).replace("<", "\\u003c")),
    )
    # Browsers hash what stands between the tags, line breaks included.
    policy = {
        "default-src": "'none'",
        "script-src": _hash(f"\n{script}\n"),
        "style-src": _hash(f"\n{css}\n"),
        "img-src": "blob: data:",
        "media-src": "blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return Page(html, "; ".join(f"{name} {value}" for name, value in policy.items()))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
