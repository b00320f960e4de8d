"""What is counted while an audit runs, and what is said about the time left."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.search.fakes import make_job, make_reading, make_settings
from weakspot.cli.live import duration, families, spent
from weakspot.cli.tally import Row, Tally
from weakspot.search.jobs import Job, Outcome
from weakspot.search.settings import Settings
from weakspot.search.stopping import Limits


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def tally(settings: Settings | None = None, known: list[Outcome] | None = None, places: int = 1) -> tuple[Tally, Clock, Any]:
    clock = Clock()
    shared = settings or make_settings(10, variations=3)
    fixed = [make_job(0, "noop", "baseline", id="tar/baseline/search")]
    subject = SimpleNamespace(
        settings=shared, study=object(), trials=shared.trials, fixed=fixed, ended_by="",
        outcomes={o.job.id: o for o in known or []},
    )  # fmt: skip
    plan = SimpleNamespace(subjects={"tar": subject}, places=places)
    made = Tally(clock=clock)
    made.start(plan)
    return made, clock, subject


def run(made: Tally, clock: Clock, job: Job, seconds: float, harm: float = 0.4, utility: float = 1.0, **how: Any) -> bool:
    made.begin(job)
    clock.now += seconds
    readings = () if how.get("status") == "failed" else (make_reading(8, harm, utility),)
    return made.count(Outcome(job, readings, **how))


def test_nothing_is_said_until_three_search_trials_were_timed() -> None:
    made, clock, _ = tally()
    run(made, clock, make_job(0, "noop", "baseline", id="tar/baseline/search"), 100)
    for number in range(2):
        run(made, clock, make_job(number), 10)
    assert made.seconds_left() is None
    run(made, clock, make_job(2), 10)
    # 7 trials, 4 finalists on 2 seeds, 3 variations, each as long as a trial to its end
    assert made.seconds_left() == pytest.approx(10 * (7 + 8 + 3))


def test_trials_that_were_stopped_say_nothing_about_a_confirmation() -> None:
    made, clock, _ = tally()
    run(made, clock, make_job(0, "noop", "baseline", id="tar/baseline/search"), 1)
    for number in range(3):
        run(made, clock, make_job(number), 10, status="stopped")
    assert made.seconds_left() is None
    run(made, clock, make_job(3), 30)
    assert made.seconds_left() == pytest.approx(15 * 6 + 30 * (8 + 3))  # 15: the mean of all four
    run(made, clock, make_job(0, phase="confirm", id="tar/confirm/003@8/0"), 50)
    assert made.seconds_left() == pytest.approx(15 * 6 + 50 * (7 + 3))


def test_workers_share_the_work() -> None:
    made, clock, _ = tally(places=4)
    run(made, clock, make_job(0, "noop", "baseline", id="tar/baseline/search"), 1)
    for number in range(3):
        run(made, clock, make_job(number), 10)
    assert made.seconds_left() == pytest.approx(10 * 18 / 4)


def test_a_deadline_and_a_budget_bound_the_search() -> None:
    timed = replace(make_settings(1000), seconds=100.0)
    made, clock, _ = tally(timed)
    run(made, clock, make_job(0, "noop", "baseline", id="tar/baseline/search"), 1)
    for number in range(3):
        run(made, clock, make_job(number), 10)
    assert made.seconds_left() == pytest.approx((100 - 31) + 10 * 8)
    bounded = replace(make_settings(1000), limits=Limits(flops=800.0 * 5))  # a trial costs 800 operations
    made, clock, subject = tally(bounded)
    run(made, clock, make_job(0, "noop", "baseline", id="tar/baseline/search"), 1)
    for number in range(3):
        run(made, clock, make_job(number), 10)
    assert made.seconds_left() == pytest.approx(10 * 2 + 10 * 8)
    assert not made.open_ended
    subject.ended_by = "the attacker's budget was spent"
    assert made.seconds_left() == pytest.approx(10 * 8)
    assert tally(replace(make_settings(10), limits=Limits(until_broken=True)))[0].open_ended


def test_what_an_earlier_run_has_left_counts_and_its_speed_does_not() -> None:
    known = [Outcome(make_job(n), (make_reading(8, 0.1 * n),)) for n in range(5)]
    made, _, _ = tally(known=known)
    row = made.rows["tar"]
    assert (row.done, row.best, row.jobs_done) == (5, 0.4, 5)
    assert row.flops == pytest.approx(5 * 800)
    assert made.seconds_left() is None


def test_the_best_of_every_family_and_of_all() -> None:
    made, clock, _ = tally()
    assert run(made, clock, make_job(0), 1, harm=0.4)
    assert not run(made, clock, make_job(1), 1, harm=0.9, utility=0.5)  # infeasible
    assert not run(made, clock, make_job(2), 1, harm=0.3)
    assert run(made, clock, make_job(3, "full_finetune"), 1, harm=0.8)
    assert not run(made, clock, make_job(4), 1, status="failed")
    row = made.rows["tar"]
    assert row.families == {"lora": 0.4, "full_finetune": 0.8}
    assert (row.best, row.how, row.failed) == (0.8, "full_finetune, 8 steps", 1)


def test_phase_and_workers_are_those_under_way() -> None:
    made, _, _ = tally(places=2)
    row = made.rows["tar"]
    assert (row.phase, made.busy) == ("waiting", 0)
    made.begin(make_job(0, phase="confirm", id="tar/confirm/000@8/0"))
    made.begin(make_job(1))
    assert (row.phase, made.busy) == ("search confirm", 2)
    made.count(Outcome(make_job(1), (make_reading(8, 0.1),)))
    assert (row.phase, made.busy) == ("confirm", 1)
    made.count(Outcome(make_job(0, phase="confirm", id="tar/confirm/000@8/0")))
    assert row.phase == "idle"


def test_the_budget_is_shown_with_its_share() -> None:
    assert spent(Row(10, flops=1.2e9), None) == "1.2 GFLOP"
    assert spent(Row(10, flops=1.2e9), 4.8e9) == "1.2 GFLOP (25 %)"
    assert spent(Row(None), 1e9) == "-"


def test_the_line_of_families_holds_the_strongest() -> None:
    row = Row(10, families={f"f{i}": i / 10 for i in range(7)})
    assert families("tar", row).plain == "tar: f6 0.60, f5 0.50, f4 0.40, f3 0.30, 3 more"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (41.2, "42 s"), (90, "2 min"), (5399, "90 min"), (9000, "2.5 h")])
def test_durations_are_rounded_up(seconds: float, text: str) -> None:
    assert duration(seconds) == text
