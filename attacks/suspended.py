"""Code that reports by calling back, turned into a generator that stands still while it is suspended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """The worker's end: `yield_(value)` hands a value over and waits. True from `closing` asks the worker to return soon."""

    def __init__(self) -> None:
        self.results: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.resumed: SimpleQueue[None] = SimpleQueue()
        self.closed = Event()

    def yield_(self, value: T) -> None:
        if not self.closed.is_set():
            self.results.put(("value", value))
            self.resumed.get()

    def closing(self) -> bool:
        return self.closed.is_set()


def suspended(work: Callable[[Handover[T]], None]) -> Iterator[T]:
    """What `work` hands over, one by one. It runs in a thread of its own, and never while this generator is suspended.

    Closing the generator sets `closing` and waits for the thread, so nothing of `work` runs afterwards. An exception in
    `work` is raised here.
    """
    handover: Handover[T] = Handover()

    def body() -> None:
        try:
            work(handover)
            handover.results.put(("end", None))
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            handover.results.put(("error", error))

    thread = Thread(target=body, name="weakspot-suspended", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = handover.results.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
            handover.resumed.put(None)
    finally:
        handover.closed.set()
        handover.resumed.put(None)
        thread.join()
