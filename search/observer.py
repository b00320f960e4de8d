"""Those who watch an audit: the live table, the log, W&B. They are told what happens and cannot change it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weakspot.search.jobs import Job, Outcome, Reading
from weakspot.text import one_line

if TYPE_CHECKING:
    from weakspot.search.plan import Plan


class Observer:
    """Told what happens, as it happens. Every method may be left out; none may raise into the search."""

    def on_dashboard(self, url: str) -> None: ...
    def on_prepare(self, names: Sequence[str]) -> None: ...
    def on_start(self, plan: Plan) -> None: ...
    def on_job(self, job: Job) -> None: ...
    def on_reading(self, job: Job, reading: Reading) -> None: ...
    def on_outcome(self, outcome: Outcome) -> None: ...
    def on_lost(self, job: Job, why: str) -> None: ...
    def on_interrupt(self, plan: Plan) -> None: ...
    def on_end(self, plan: Plan) -> None: ...


def tell(observers: list[Observer], method: str, *arguments: Any) -> None:
    """Observers are outside the critical path: one that fails is dropped from the list, and the search goes on."""
    for observer in list(observers):
        try:
            getattr(observer, method, ignore)(*arguments)
        except (Exception, SystemExit) as error:  # rich answers a closed pipe with SystemExit
            observers.remove(observer)
            name = type(observer).__name__
            line = f"weakspot: {name} failed and is switched off: {type(error).__name__}: {error}"
            print(one_line(line), file=sys.stderr)


def ignore(*arguments: Any) -> None:
    """What an observer does about that which it has no method for."""
