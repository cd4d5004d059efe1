"""Self-contained HTML pages: one file, no network, every name escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from reports.glossary import WORDS, marked, term
from reports.strips import axis_html, strip_html

__all__ = ["json_data", "render_page", "thumbnail"]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        # A misspelt name in a template is an error; by default it would be an empty text.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"strip": strip_html, "axis": axis_html, "term": term, "words": WORDS}
    environment.filters["marked"] = marked
    return environment


def json_data(value: Any) -> Markup:
    """Return JSON for a script element; no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    # In JSON, "<" occurs in strings only, where this escape stands for it.
    return Markup(text.replace("<", "\\u003c"))


def render_page(template: str, *, scripts: Sequence[str] = (), **context: Any) -> str:
    """Return a page from `reports/templates`, with the scripts of that folder inside it.

    Figures are passed as Markup; everything else is shown as text. The page may run only these
    scripts and may load nothing.
    """
    environment = _environment()
    assert environment.loader is not None
    sources = [environment.loader.get_source(environment, name)[0] for name in scripts]
    # The policy of the page allows scripts by hash, so a script in a name would never run.
    hashes = [
        base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources
    ]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    page = environment.get_template(template)
    return page.render(
        scripts=[Markup(source) for source in sources], allowed_scripts=allowed, **context
    )


def thumbnail(image: np.ndarray, *, height: int = 128, quality: int = 70) -> str:
    """Return an RGB image as a small JPEG in a data URI, at most four times as wide as high."""
    scale = height / image.shape[0]
    width = int(np.clip(round(image.shape[1] * scale), 1, 4 * height))
    # Averaging over areas avoids moire patterns where an image shrinks.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, (width, height), interpolation=method)
    options: Sequence[int] = [cv2.IMWRITE_JPEG_QUALITY, quality]
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
