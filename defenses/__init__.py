"""The catalogue of defenses. A new method is one file and one line here."""

from __future__ import annotations

from weakspot.defenses.base import Defense, PaperAttack
from weakspot.defenses.random_answer import RandomAnswer
from weakspot.defenses.refusal import Refusal
from weakspot.defenses.tar import Tar
from weakspot.errors import unknown
from weakspot.knobs import configure

DEFENSES: dict[str, type[Defense]] = {method.name: method for method in (Refusal, RandomAnswer, Tar)}


def get(name: str) -> type[Defense]:
    """A method by name. Raises UserError that lists the known ones."""
    if name not in DEFENSES:
        raise unknown("defense", name, DEFENSES)
    return DEFENSES[name]


def preset(name: str, testbed: str) -> Defense:
    """A method with its hyperparameters for a testbed's scale, or the paper's where there are none."""
    method = get(name)
    return configure(method, method.presets.get(testbed, {}))


__all__ = ["DEFENSES", "Defense", "PaperAttack", "get", "preset"]
