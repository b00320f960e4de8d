"""Files of earlier schema versions, made into today's one version at a time; files of later ones, refused.

A field with a default needs nothing here: it is filled in on reading, and the schema version stays. A field that is renamed,
dropped or means something else makes a new version, and a function in MIGRATIONS that turns the last one's content into it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from weakspot.errors import UserError

Migration = Callable[[dict[str, Any]], dict[str, Any]]

# From a schema version to what turns a result of that version into one of the next; it need not change `schema_version`.
MIGRATIONS: Mapping[int, Migration] = {}


def upgraded(text: str, current: int, migrations: Mapping[int, Migration] = MIGRATIONS) -> str:
    """The text of a result in the current schema version.

    Raises:
        ValueError: it is not JSON, not an object, holds a number that is not finite, or says no version.
        UserError: a version that cannot be read here; the line begins with "is" and follows the file's name.
    """
    data = load(text)
    version = data.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise ValueError("schema_version: Field required" if version is None else "schema_version: expected a whole number")
    shown = str(version)[:20]
    if version > current:
        raise UserError(
            f"is of schema version {shown} and this weakspot reads versions up to {current}: "
            "open it with the weakspot that wrote it, or with a newer one (pip install --upgrade weakspot)"
        )
    oldest = min([*migrations, current])
    if version < oldest:
        raise UserError(
            f"is of schema version {shown} and this weakspot reads versions {oldest} to {current}: "
            "run the audit again, or open it with the weakspot that wrote it"
        )
    if version == current:
        return text
    for step in range(version, current):
        data = migrations[step](data) | {"schema_version": step + 1}
    return json.dumps(data)


def load(text: str) -> dict[str, Any]:
    """An object of strict JSON: NaN and Infinity, which Python's reader lets pass, are refused wherever they stand.

    Raises:
        ValueError: what is wrong, in one line.
    """
    try:
        data = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("the file: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the file: no JSON from line {error.lineno}, column {error.colno} on ({error.msg})") from None
    if not isinstance(data, dict):
        raise ValueError("the file: expected an object in braces")
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the file: {constant} is no number of JSON")
