"""What a self-contained page carries besides its text: scripts, data and files to download, none of which can break out.

Data lies in the page as JSON without `<`, `>` and `&`, so that no text in it ends its element; downloads as base64 of gzip,
which the page inflates when asked. The page's policy names its scripts by digest: nothing else runs, and nothing is fetched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # U+2028, U+2029 and lone surrogates are escaped by ensure_ascii


def packaged(name: str) -> str:
    """The text of a file of this package, e.g. 'page.css' or 'vendor/plotly-basic.min.js'."""
    return files("weakspot.report").joinpath(name).read_text(encoding="utf-8")


def template(name: str) -> Template:
    """A template of this package that may extend and import others of it; whatever is put into it is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(packaged), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def as_data(value: Any) -> str:
    """JSON for a `<script type="application/json">`. Raises ValueError for NaN and infinities, which JSON does not know."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter, code in UNSAFE.items():
        text = text.replace(letter, code)
    return text


def as_download(text: str) -> str:
    """Base64 of the gzip of a text in UTF-8. Same text, same bytes."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), compresslevel=6, mtime=0)).decode()


def policy(*scripts: str) -> str:
    """A Content-Security-Policy under which only these inline scripts run and nothing is requested.

    Plotly writes its style sheet and the styles of its elements at run time, hence 'unsafe-inline' for styles alone.
    """
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    rules = ("default-src 'none'", f"script-src {digests}", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'")
    return "; ".join((*rules, "form-action 'none'"))
