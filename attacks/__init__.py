"""The catalogue of attacks. A new family is one file and one line here; a third party registers an entry point."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.full import FullFinetune
from weakspot.attacks.lora import Lora
from weakspot.attacks.noop import NoOp
from weakspot.errors import unknown

ATTACKS: dict[str, type[Attack]] = {family.name: family for family in (NoOp, FullFinetune, Lora)}


def catalogue() -> dict[str, type[Attack]]:
    """Built-in families and those of installed plug-ins (entry-point group `weakspot.attacks`)."""
    return {**_plugins(), **ATTACKS}  # a plug-in cannot replace a built-in family


@cache
def _plugins() -> dict[str, type[Attack]]:
    """Scanned once a process: it reads the metadata of every installed package."""
    return {point.name: point.load() for point in entry_points(group="weakspot.attacks")}


def get(name: str) -> type[Attack]:
    """A family by name. Raises UserError that lists the known ones."""
    known = catalogue()
    if name not in known:
        raise unknown("attack", name, known)
    return known[name]


__all__ = ["ATTACKS", "Attack", "Progress", "catalogue", "get"]
