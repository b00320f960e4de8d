"""The two kinds of failure: the user's mistake, told in one line, and everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class WeakspotError(Exception):
    """Base of all errors raised by weakspot. Subclasses take one string, so that they pickle across Ray workers."""


class UserError(WeakspotError, ValueError):
    """A mistake of the caller: what was given, what was expected, what to do. Printed without a traceback, exit code 2."""


class TrialFailure(WeakspotError, RuntimeError):
    """An attack that could not be carried through (divergence, no memory). The trial is infeasible, with this reason."""


class RankLost(WeakspotError):
    """A process that a trial was spread over is gone. Not the attack's fault as far as is known: it may be run again."""


def unknown(noun: str, given: object, known: object) -> UserError:
    """The error for a name that is not in a catalogue: it lists the names that are."""
    return UserError(f"unknown {noun} {given!r}: known are {', '.join(sorted(map(str, known)))}")  # type: ignore[call-overload]


def named(noun: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of a catalogue.

    Raises:
        UserError: an unknown name; the known ones are listed.
    """
    if name not in known:
        raise unknown(noun, name, known)
    return known[name]
