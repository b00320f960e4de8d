"""A hub testbed's TOML file, read and checked. All mistakes are told at once, each with its line."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from weakspot.errors import UserError
from weakspot.testbeds.base import SPLITS
from weakspot.testbeds.hub import checks, presets
from weakspot.testbeds.hub.lines import Path as Place
from weakspot.testbeds.hub.lines import key_lines, line_of
from weakspot.testbeds.hub.schema import (
    GROUPS,
    SECTIONS,
    Budget,
    Choice,
    DataSource,
    Head,
    Judges,
    ModelSource,
    Replies,
    Section,
    Utility,
)  # fmt: skip

DATA = (*SPLITS, "never_taught", *GROUPS)
DECISIVE = (  # keys that others are read by
    "policy", "measure", "path", "id", "dataset", "revision", "files", "columns", "header", "search", "report", "tasks",
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """A file's content. `data` holds the sources of each split or group; `folder` is where relative paths start."""

    file: Path
    head: Head
    model: ModelSource
    data: Mapping[str, tuple[DataSource, ...]]
    never_taught_model: ModelSource | None = None
    judges: Judges | None = None
    choice: Choice = field(default_factory=Choice)
    replies: Replies = field(default_factory=Replies)
    utility: Utility = field(default_factory=Utility)
    budget: Budget = field(default_factory=Budget)

    @property
    def folder(self) -> Path:
        return self.file.parent

    def content(self) -> dict[str, Any]:
        """All that can change a score, as plain data: the file without the budget and the words for readers."""
        parts = {name: getattr(self, name) for name in SECTIONS if name != "budget"}
        return {
            "head": self.head.model_dump(include={"policy", "measure", "refusal"}),
            "data": {name: [s.model_dump(exclude={"fetch"}) for s in sources] for name, sources in sorted(self.data.items())},
            **{name: part and part.model_dump() for name, part in parts.items()},
        }

    def digest(self) -> str:
        text = json.dumps({"folder": str(self.folder), **self.content()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Draft:
    """A file while it is read: where its keys stand, and what is wrong so far, in the order of the lines."""

    given: Mapping[str, Any]
    lines: Mapping[Place, int]
    wrong: list[tuple[int, str]] = field(default_factory=list)

    def mistake(self, place: Place, words: str) -> None:
        """Add one. A place that the file does not name itself (a preset's key) counts as that of the table around it."""
        self.wrong.append((line_of(place, self.lines), words))


def read_spec(text: str, file: Path) -> Spec:
    """A spec from a file's text.

    Raises:
        UserError: the text is no TOML, or holds mistakes: unknown keys, wrong types, missing keys, files and columns, values
            that contradict each other. One line each.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is no TOML: {error}") from error
    draft = Draft(given, key_lines(text))
    whole = with_preset(draft)
    known = (*Head.model_fields, *SECTIONS, "data")
    for key in whole:
        if key not in known:
            draft.mistake((key,), unknown_key("", key, known))
    head = section(draft, Head, {k: v for k, v in whole.items() if k in Head.model_fields}, ())
    parts = {name: section(draft, kind, whole[name], (name,)) for name, kind in SECTIONS.items() if name in whole}
    data = data_sources(draft, whole.get("data", {}))
    checks.check(draft, file.parent, whole, head, parts, data)
    if draft.wrong:
        raise UserError(listed(file, draft.wrong))
    assert isinstance(head, Head)
    return Spec(file=file, head=head, data=data, **parts)  # type: ignore[arg-type]


def with_preset(draft: Draft) -> dict[str, Any]:
    """The file's content over its preset's, table by table; arrays and single values are replaced."""
    name = draft.given.get("preset", "")
    if not name or not isinstance(name, str):
        return dict(draft.given)
    if name not in presets.names():
        near = difflib.get_close_matches(name, presets.names(), 1)
        hint = f": did you mean {near[0]!r}?" if near else f": known are {', '.join(presets.names())}"
        draft.mistake(("preset",), f"unknown preset {name!r}{hint}")
        return dict(draft.given)
    return presets.merged(presets.read(name), draft.given)


def section(draft: Draft, kind: type[Section], given: Any, place: Place) -> Any:
    """A table as its section, mistakes noted; without what is wrong in it, so that the rest is checked too. None if a key is
    wrong or absent whose lack would be taken for one more mistake."""
    if not isinstance(given, dict):
        draft.mistake(place, f"{title(place)} is {type(given).__name__}: expected a table")
        return None
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        for told in error.errors():
            draft.mistake((*place, *told["loc"]), in_words(kind, place, told))
        if any(told["type"] != "extra_forbidden" and told["loc"][0] in DECISIVE for told in error.errors()):
            return None
        return kind.model_validate(without(given, [told["loc"] for told in error.errors()]))


def without(table: Mapping[str, Any], places: Iterable[Place]) -> dict[str, Any]:
    """A copy of a table without some keys of it or of the tables in it; an array goes as a whole."""
    paths = list(places)
    return {
        key: without(value, [path[1:] for path in paths if path[0] == key]) if isinstance(value, dict) else value
        for key, value in table.items()
        if (key,) not in paths and (isinstance(value, dict) or not any(path[0] == key for path in paths))
    }


def in_words(kind: type[Section], place: Place, told: Any) -> str:
    """A mistake that pydantic found, in the words of the file."""
    loc = told["loc"]
    inner = next((f.annotation for n, f in kind.model_fields.items() if len(loc) > 1 and n == loc[0]), kind)
    fields = inner.model_fields if isinstance(inner, type) and issubclass(inner, Section) else kind.model_fields
    where = title((*place, *loc[:-1]))
    if told["type"] == "extra_forbidden":
        return unknown_key(where, str(loc[-1]), fields)
    if told["type"] == "missing":
        return f"{where} lacks {loc[-1]!r}"
    return f"{title((*place, *loc))} is {told['input']!r}: {told['msg'].lower()}"


def unknown_key(where: str, key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{where + ' has an' if where else 'an'} unknown key {key!r}: {hint}"


def title(place: Place) -> str:
    """A place as the file would write it: `[data.attack]`, and the key after it."""
    words = ".".join(str(part) for part in place if not isinstance(part, int))
    return f"[{words}]" if words else ""


def data_sources(draft: Draft, given: Any) -> dict[str, tuple[DataSource, ...]]:
    """The tables of `data`; one that is an array of tables has several sources. What is wrong in one is left out."""
    if not isinstance(given, dict):
        draft.mistake(("data",), f"[data] is {type(given).__name__}: expected tables such as [data.withheld]")
        return {}
    found = {}
    for name, tables in given.items():
        if name not in DATA:
            draft.mistake(("data", name), unknown_key("[data]", name, DATA))
            continue
        many = isinstance(tables, list)
        places = [("data", name, i) if many else ("data", name) for i in range(len(tables) if many else 1)]
        read = [section(draft, DataSource, t, p) for t, p in zip(tables if many else [tables], places, strict=True)]
        found[name] = tuple(source for source in read if source is not None)
    return found


def listed(file: Path, wrong: Iterable[tuple[int, str]]) -> str:
    """One line a mistake, in the order of the file."""
    lines = [f"line {line}: {words}" for line, words in sorted(set(wrong))]
    if len(lines) == 1:
        return f"{file}, {lines[0]}"
    return f"{file} has {len(lines)} mistakes:\n  " + ";\n  ".join(lines)
