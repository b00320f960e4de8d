"""How this machine and its software differ from those that made a result, and how much that may matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import weakspot
from weakspot.records import Provenance
from weakspot.search import provenance
from weakspot.search.pins import WEIGHTS

Grade = Literal["none", "minor", "major", "fatal"]
GRADES: tuple[Grade, ...] = ("none", "minor", "major", "fatal")
LEADING = ("weakspot", "torch", "transformers")  # another release of these computes other numbers; a patch seldom does


@dataclass(frozen=True)
class Mismatch:
    """One thing that is not as it was recorded."""

    grade: Grade
    what: str
    recorded: str
    here: str


def worst(found: Sequence[Mismatch]) -> Grade:
    """The grade of several mismatches together."""
    return GRADES[max((GRADES.index(m.grade) for m in found), default=0)]


def software_and_machine(recorded: Provenance) -> list[Mismatch]:
    """What can be said before any model is there: versions, commit, machine."""
    versions = {"weakspot": recorded.weakspot, **recorded.packages}
    here = {"weakspot": weakspot.__version__, **provenance.package_versions()}
    found = [
        Mismatch(grade_of(name, old, here.get(name, "absent")), name, old, here.get(name, "absent"))
        for name, old in versions.items()
        if old != here.get(name)
    ]
    return [*found, *minor("python", recorded.python, _python()), *_commit(recorded), *_machine(recorded.machine)]


def grade_of(package: str, old: str, new: str) -> Grade:
    """Minor where only the patch or the build differs (2.13.0 and 2.13.1+cu126), or where the package leads nothing."""
    return "major" if package in LEADING and release(old) != release(new) else "minor"


def release(version: str) -> tuple[str, ...]:
    """2.13.0+cpu -> ("2", "13")."""
    return tuple(version.partition("+")[0].split(".")[:2])


def minor(what: str, old: Any, new: Any) -> list[Mismatch]:
    return [] if old == new else [Mismatch("minor", what, str(old), str(new))]


def _python() -> str:
    import platform

    return platform.python_version()


def _commit(recorded: Provenance) -> list[Mismatch]:
    here = provenance.git_commit()
    if here == recorded.git_commit and here and here.endswith("+dirty"):
        return [Mismatch("minor", "code", here, "the same commit, changed; whether in the same way is not known")]
    return minor("code", recorded.git_commit or "no checkout", here or "no checkout")


def _machine(recorded: Mapping[str, Any]) -> Iterator[Mismatch]:
    here = provenance.machine()
    for name, old in recorded.items():
        if name in here:
            yield from minor(f"machine.{name}", old, here[name])


def pinned(recorded: Mapping[str, str], here: Mapping[str, str]) -> list[Mismatch]:
    """Digests of weights, tokenizer, data, judges and measures. Another digest is major: something else is measured.

    The pin of weights is the name of their folder, which ends in the key of all that made them, and a digest. Where only the
    name differs, other code has made the same weights.
    """
    found = []
    for name, old in recorded.items():
        new = here.get(name)
        if new is None or new == old:
            continue
        same = name.startswith(f"{WEIGHTS}.") and old.split()[-1] == new.split()[-1]
        found.append(Mismatch("minor" if same else "major", name, old, new))
    return found
