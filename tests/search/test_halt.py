"""A search that is asked to stop: what it still says, and that it can go on as if nothing had been."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.search.fakes import FakeBackend, make_plan, make_settings, result_of
from weakspot.records import Result
from weakspot.report.markdown import to_markdown
from weakspot.report.words import warnings_of
from weakspot.search import halt as halting
from weakspot.search.confirm import is_break
from weakspot.search.halt import Halt
from weakspot.search.observer import Observer
from weakspot.search.plan import Plan

SETTINGS = make_settings(10)
CONTROL = ("lora", "full_finetune")


class Stopper(FakeBackend):
    """Asks the plan to stop after so many events, as a signal would."""

    plan: Plan

    def tick(self) -> None:
        self.counted += 1
        if self.counted == self.events:
            self.plan.halt.ask("SIGINT")

    def run(self, plan: Plan) -> FakeBackend:
        self.plan, plan.halt.shown = plan, True
        return super().run(plan)


def whole(tmp_path: Path) -> tuple[Result, int]:
    backend = FakeBackend()
    plan = make_plan(tmp_path / "whole.journal", SETTINGS, control=CONTROL)
    backend.run(plan)
    plan.settle()
    assert not plan.interrupted
    return result_of(plan, SETTINGS), backend.counted


def test_stopped_anywhere_it_says_so_holds_nothing_and_goes_on_to_the_same_result(tmp_path: Path) -> None:
    """With one worker. The verdict of the whole search is BROKEN, so that both words are met."""
    expected, events = whole(tmp_path)
    assert expected.subjects[-1].verdict == "BROKEN"
    assert expected.partial == ""
    met = set()
    for number in [1, 7, *range(20, events - 4, events // 4), events - 4]:
        journal = tmp_path / f"{number}.journal"
        plan = make_plan(journal, SETTINGS, control=CONTROL)
        Stopper(events=number).run(plan)
        plan.settle()
        cut = result_of(plan, SETTINGS)
        assert plan.interrupted
        tar = cut.subjects[-1]
        assert cut.partial == f"interrupted after {len(tar.trials)} of 10 trials"
        assert warnings_of(cut)[0].startswith("PARTIAL: interrupted after")
        assert "PARTIAL" in to_markdown(cut)
        assert all(s.verdict != "HELD" for s in cut.subjects)
        broken = tar.weak_spot is not None and is_break(tar.weak_spot, SETTINGS.floor, SETTINGS.threshold)
        assert tar.verdict == ("BROKEN" if broken else "INCONCLUSIVE")
        if not broken:
            rest = ", before the audit was complete" if len(tar.trials) == 10 else ""
            assert tar.reason == f"interrupted after {len(tar.trials)} of 10 trials{rest}"
        met.add(tar.verdict)

        again = make_plan(journal, SETTINGS, control=CONTROL)
        FakeBackend().run(again)
        again.settle()
        assert result_of(again, SETTINGS) == expected
    assert met == {"BROKEN", "INCONCLUSIVE"}


def test_what_would_be_held_is_not_while_anything_is_left(tmp_path: Path) -> None:
    """A threshold that no attack reaches: HELD at the end, and at no moment before."""
    from dataclasses import replace

    settings = replace(SETTINGS, threat=replace(SETTINGS.threat, harm_threshold=0.999))
    backend = FakeBackend()
    plan = make_plan(tmp_path / "whole.journal", settings)
    backend.run(plan)
    events = backend.counted
    for number in (events - 16, events - 10, events - 4):  # the last leaves one re-run undone
        plan = make_plan(tmp_path / f"{number}.journal", settings)
        Stopper(events=number).run(plan)
        plan.settle()
        verdicts = {s.defense: (s.verdict, s.reason) for s in result_of(plan, settings).subjects}
        assert verdicts["tar"][0] == "INCONCLUSIVE"
        assert verdicts["tar"][1].startswith("interrupted after")


def test_several_workers_leave_what_is_under_way_open(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "a.journal", SETTINGS)
    Stopper(workers=3, seed=1, events=30).run(plan)
    plan.settle()
    under_way = [job_id for s in plan.subjects.values() for job_id in s.open]
    assert under_way
    again = make_plan(tmp_path / "a.journal", SETTINGS)
    backend = FakeBackend()
    backend.run(again)
    started = {job.id for job in backend.started}
    assert set(under_way) <= started
    ended = {job_id for s in plan.subjects.values() for job_id in s.outcomes}
    assert not ended & started


def test_a_halt_that_comes_too_late_changes_nothing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "a.journal", SETTINGS)
    FakeBackend().run(plan)
    plan.halt.shown = True
    plan.halt.ask("SIGINT")
    plan.settle()
    assert not plan.interrupted
    assert result_of(plan, SETTINGS).partial == ""


def test_observers_hear_of_it_once(tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(Observer):
        def on_interrupt(self, plan: Any) -> None:
            heard.append(plan.partial)

    plan = make_plan(tmp_path / "a.journal", SETTINGS, observers=(Listener(),))
    Stopper(events=20).run(plan)
    plan.settle()
    assert heard == [plan.partial]


def test_one_signal_asks_and_the_second_interrupts(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(halting.time, "monotonic", lambda: now[0])
    halt = Halt()
    with pytest.raises(KeyboardInterrupt):  # nothing is searched yet: nothing could be reported
        halt.on_signal(signal.SIGINT)
    with halt.searching():
        halt.on_signal(signal.SIGTERM)
        assert halt.asked == "SIGTERM"
        assert "once more stops at once" in capfd.readouterr().err
        now[0] += 0.1
        halt.on_signal(signal.SIGTERM)  # the same one again, forwarded by a wrapper
        now[0] += 1
        with pytest.raises(KeyboardInterrupt):
            halt.on_signal(signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    halt = Halt()
    with halt.listening():
        assert signal.getsignal(signal.SIGTERM) == halt.on_signal
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
