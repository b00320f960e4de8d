"""Files that make a cluster, rendered from templates: for Ray's cluster launcher, KubeRay, Slurm and Docker.

A template is a head in YAML (what it is, its fields), a line `---`, and a body. Nobody's text is pasted into YAML: a body in
YAML is read, its tags are replaced by values, and the whole is written anew by the YAML library. In a shell script and a
Dockerfile each `{{ field }}` goes through shlex.quote.

    !field name           the value; an entry whose value is empty is left out
    !text name            the value as a text, for Kubernetes' quantities
    !when [name, entry]   the entry, where the field is neither empty, 0 nor no
    !join [part, ...]     a text; a field's value in it is quoted for a shell
    !command [word, ...]  a command line, word by word quoted; a field that is a list gives several
    !times [name, n]      a number n times as large
    !count name           the length of a list
    !base                 the body of the template named by `base` in the head
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml

from weakspot import __version__
from weakspot.cluster.fields import Field, closest, values_of
from weakspot.errors import UserError

FOLDER = Path(__file__).parent / "templates"
DROPPED = object()  # stands for an entry that is left out
TAGS = ("field", "text", "when", "join", "command", "times", "count", "base")


@dataclass(frozen=True)
class Tag:
    """A tag of a template's body that waits for its values."""

    name: str
    inner: Any


@dataclass(frozen=True)
class Template:
    """A target.

    Attributes:
        next: the command that uses the file.
        base: the template whose fields it has too, and whose body `!base` stands for.
        body: text, in YAML unless the file ends in .j2.
    """

    name: str
    about: str
    next: str
    base: str
    own: Mapping[str, Field]
    body: str
    is_yaml: bool

    @property
    def fields(self) -> dict[str, Field]:
        return {**self.own, **(load(self.base).fields if self.base else {})}


class Loader(yaml.SafeLoader):
    """Plain YAML, and the tags above."""


def tagged(name: str) -> Callable[[yaml.SafeLoader, yaml.Node], Tag]:
    def construct(loader: yaml.SafeLoader, node: yaml.Node) -> Tag:
        if isinstance(node, yaml.SequenceNode):
            return Tag(name, loader.construct_sequence(node, deep=True))
        assert isinstance(node, yaml.ScalarNode), f"!{name} takes a name or a list"
        return Tag(name, loader.construct_scalar(node))

    return construct


for _name in TAGS:
    Loader.add_constructor(f"!{_name}", tagged(_name))


def targets() -> list[str]:
    """The names of all targets."""
    return sorted(path.stem for path in FOLDER.iterdir() if path.suffix in (".yaml", ".j2") and path.name[0] != "_")


def find(name: str) -> Template:
    """The template of a target.

    Raises:
        UserError: there is none; what may have been meant is said.
    """
    if name not in targets():
        raise UserError(f"unknown target {name!r}: {closest(name, dict.fromkeys(targets()))}")
    return load(name)


@cache
def load(name: str) -> Template:
    path = next(FOLDER / f"{name}{suffix}" for suffix in (".yaml", ".j2") if (FOLDER / f"{name}{suffix}").exists())
    head, _, body = path.read_text(encoding="utf-8").partition("\n---\n")
    said = yaml.safe_load(head)
    fields = {key: Field(key, **entry) for key, entry in said.get("fields", {}).items()}
    return Template(name, said["about"], said.get("next", ""), said.get("base", ""), fields, body, path.suffix == ".yaml")


def render(name: str, given: Mapping[str, str]) -> str:
    """The file of a target.

    Raises:
        UserError: an unknown target or field, or a value that is none.
    """
    template = find(name)
    values = values_of(name, template.fields, given)
    note = f"# {template.about}. Rendered by `weakspot cluster render {name}`, weakspot {__version__}."
    if template.is_yaml:
        filled = fill(yaml.load(template.body, Loader), values, template)
        return f"{note}\n# Next: {template.next}\n" + yaml.dump(filled, Dumper=Plain, sort_keys=False, width=10_000)
    environment = jinja2.Environment(
        finalize=quoted, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    text = environment.from_string(template.body).render(values)
    first, end, rest = text.partition("\n") if text.startswith("#!") else ("", "", text)
    return f"{first}{end}{note}\n# Next: {template.next}\n{rest}"


class Plain(yaml.SafeDumper):
    """YAML without anchors, which few people read."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def quoted(value: Any) -> str:
    """A value as a shell takes it; a list as words."""
    return shlex.join(map(str, value)) if isinstance(value, list) else shlex.quote(str(value))


def fill(node: Any, values: Mapping[str, Any], template: Template) -> Any:
    """A body with its tags replaced."""
    if isinstance(node, Tag):
        return replaced(node, values, template)
    if isinstance(node, dict):
        filled = {key: fill(entry, values, template) for key, entry in node.items()}
        return {key: entry for key, entry in filled.items() if entry is not DROPPED}
    if isinstance(node, list):
        return [entry for entry in (fill(entry, values, template) for entry in node) if entry is not DROPPED]
    return node


def replaced(tag: Tag, values: Mapping[str, Any], template: Template) -> Any:
    """What a tag stands for."""
    inner = tag.inner
    if tag.name == "field":
        return DROPPED if values[inner] == "" else values[inner]
    if tag.name == "text":
        return str(values[inner])
    if tag.name == "count":
        return len(values[inner])
    if tag.name == "times":
        return values[inner[0]] * inner[1]
    if tag.name == "when":
        return fill(inner[1], values, template) if values[inner[0]] else DROPPED
    if tag.name == "base":
        return fill(yaml.load(load(template.base).body, Loader), values, template)
    parts = [quoted(fill(part, values, template)) if isinstance(part, Tag) or tag.name == "command" else part for part in inner]
    return "".join(parts) if tag.name == "join" else " ".join(part for part in parts if part)
