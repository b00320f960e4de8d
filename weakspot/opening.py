"""Opens a result: from its text, or from where an audit wrote it. Whatever is wrong with it is told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from weakspot import __version__
from weakspot.consistency import contradiction
from weakspot.errors import UserError
from weakspot.migrations import upgraded
from weakspot.records import SCHEMA_VERSION, Result
from weakspot.text import one_line

REMEDY = "give the result.json that `weakspot audit --out DIR` wrote"


def read_result(given: str | Path) -> Result:
    """Read the result of an audit, given its folder or its result.json.

    Raises:
        UserError: there is none, or it cannot be read, or it is no result of a schema version that is known.
    """
    path = result_path(given)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{one_line(str(path))} cannot be read ({error}): {REMEDY}") from error
    return open_text(text, one_line(str(path)))


def result_path(given: str | Path) -> Path:
    """The result.json meant by a folder or a file.

    Raises:
        UserError: there is none; an audit that has not ended is named as such.
    """
    place = Path(given).expanduser()
    try:
        path = place / "result.json" if place.is_dir() else place
        found, unfinished = path.is_file(), (place / "study.journal").exists()
    except OSError as error:
        raise UserError(f"{one_line(str(place), 200)} cannot be read ({error.strerror}): {REMEDY}") from error
    if not found:
        todo = "finish it with `weakspot audit --resume`" if unfinished else "give the folder that `weakspot audit --out` wrote"
        raise UserError(f"no result at {one_line(str(path))}: {todo}")
    return path


def open_text(text: str, origin: str = "result.json") -> Result:
    """Read a result. Types are those of the file: no number is read out of a text.

    Raises:
        UserError: it is not JSON, of a schema version that is not known, not of its schema (the message names the first field
            that is wrong), or it contradicts itself.
    """
    try:
        current = upgraded(text, SCHEMA_VERSION)
        result = Result.model_validate_json(current, strict=True)
    except UserError as error:
        raise UserError(f"{origin} {error}") from error
    except ValidationError as error:
        raise _refusal(origin, _first(error, text)) from error
    except ValueError as error:
        raise _refusal(origin, str(error)) from error
    if problem := contradiction(result):
        raise UserError(f"{origin} contradicts itself, as if changed by hand: {one_line(problem)}: {REMEDY}")
    return result


def _refusal(origin: str, problem: str) -> UserError:
    return UserError(f"{origin} is not a result of schema version {SCHEMA_VERSION}: {one_line(problem, 400)}: {REMEDY}")


def _first(error: ValidationError, text: str) -> str:
    """The first field that is wrong, and how. A name that is not known may be that of a later release."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = one_line(".".join(map(str, first["loc"])) or "the file", 200)
    later = f" (written by {_writer(text)}, read by weakspot {__version__})" if first["type"] == "extra_forbidden" else ""
    return f"{place}: {first['msg']}{later}"


def _writer(text: str) -> str:
    """Which release a result says it was written by."""
    provenance: Any = json.loads(text).get("provenance")
    version = provenance.get("weakspot") if isinstance(provenance, dict) else None
    return f"weakspot {one_line(version, 20)}" if isinstance(version, str) else "an unknown weakspot"
