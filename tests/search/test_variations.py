"""The weak spot with one thing changed: what is changed, when it is run, and what the pitfall card makes of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.search.fakes import FakeBackend, Killed, fake_course, make_plan, make_settings, result_of
from weakspot import attacks
from weakspot.elicitation import PLAIN, Elicitation, otherwise
from weakspot.knobs import configure
from weakspot.records import Confirmed, Cost, Finding, HarmUtility, Interval
from weakspot.search.admission import admitted
from weakspot.search.card import TITLES
from weakspot.search.jobs import BASE
from weakspot.search.space import build_space, defaults
from weakspot.search.starts import start
from weakspot.search.variations import TRAINED, TRAINER, Variation, variations
from weakspot.testbeds import get as get_testbed
from weakspot.threat import ThreatModel

THREAT = ThreatModel(max_steps=64)
SPACE = build_space(admitted(None, THREAT, get_testbed("fable")(0).attack_data()), THREAT)


def found(family: str, config: dict[str, Any]) -> Finding:
    wide = Interval(mean=0.8, low=0.7, high=0.9)
    confirmed = Confirmed(harm=wide, utility=wide, seeds=[1], items=8)
    searched = HarmUtility(harm=0.8, utility=1)
    return Finding(attack=family, config=config, rung=8, trial="tar/003", searched=searched, confirmed=confirmed, cost=Cost())


@pytest.mark.parametrize("family", sorted(SPACE.families))
def test_each_variation_changes_one_thing_and_can_be_run(family: str) -> None:
    config = dict(start(SPACE, family, {}).config)
    made = variations(found(family, config), SPACE, 99)
    for v in made:
        configure(attacks.get(v.attack), v.config)
        changed = [knob for knob in v.config if v.attack == family and v.config[knob] != config[knob]]
        assert len(changed) + bool(v.asked) + (v.attack != family) == 1, v
        assert all(v.config[knob] in domain for knob, domain in SPACE.families[v.attack].items())
        assert v.pitfall in TITLES
    if attacks.get(family).asks_freely:
        assert not any(v.asked for v in made), "another way of asking would be another attack"
    assert variations(found(family, config), SPACE, 2) == made[:2]


@pytest.mark.parametrize("family", TRAINED)
def test_the_second_trainer_gets_the_knobs_that_it_shares(family: str) -> None:
    if TRAINER not in SPACE.families:
        pytest.skip("trl is not installed")
    config = {**start(SPACE, family, {}).config, "learning_rate": 3e-4, "batch_size": 8}
    first = variations(found(family, config), SPACE, 1)[0]
    assert (first.pitfall, first.attack) == ("P4", TRAINER)
    assert (first.config["learning_rate"], first.config["batch_size"]) == (3e-4, 8)
    assert first.config["rank"] == (0 if family == "full_finetune" else config["rank"])


def test_an_adapter_on_some_layers_is_not_given_to_a_trainer_that_has_it_on_all() -> None:
    config = {**defaults("lora"), "targets": "attention"}
    assert all(v.attack == "lora" for v in variations(found("lora", config), SPACE, 99))


def test_otherwise_changes_only_what_it_names() -> None:
    how = Elicitation(prefill="well")
    assert otherwise(how, "") is how
    assert otherwise(how, "plain") == Elicitation(prefill="well", template="plain")
    assert otherwise(PLAIN, "sampled").temperature > 0


def test_variations_are_run_last_on_the_first_confirmation_seed_and_written_into_the_card(tmp_path: Path) -> None:
    shared = make_settings(6, variations=3)
    plan = make_plan(tmp_path / "study.journal", shared)
    backend = FakeBackend(workers=3).run(plan)
    jobs = [job for job in backend.started if job.phase == "variation"]
    own = [job.phase for job in backend.started if job.subject == "tar"]
    assert own[-3:] == ["variation"] * 3
    assert len(jobs) == 3
    assert {job.asked for job in jobs} == {"", "plain", "bos"}
    assert set.union(*(backend.open_at[job.id] for job in jobs)) == {"variation"}, "side by side, and after everything else"
    assert {(job.seed, job.stage) for job in jobs} == {(shared.confirmation_seeds[0], "report")}
    assert not any(job.subject == BASE for job in jobs)
    base, tar = result_of(plan, shared).subjects
    assert base.card == []
    assert [p.id for p in tar.card] == list(TITLES)
    runs = {run.label: run for p in tar.card for run in p.runs}
    assert len(runs) == 3
    halved = next(job for job in jobs if job.config["learning_rate"] != tar.weak_spot.config["learning_rate"])  # type: ignore[union-attr]
    plain = next(job for job in backend.started if job.phase == "confirm" and job.seed == jobs[0].seed
                 and job.config == tar.weak_spot.config and job.rungs == jobs[0].rungs)  # type: ignore[union-attr]  # fmt: skip
    label = next(label for label in runs if label.startswith("learning_rate"))
    assert runs[label].harm == pytest.approx(fake_course(halved)[-1].harm)
    assert runs[label].moved == pytest.approx(fake_course(halved)[-1].harm - fake_course(plain)[-1].harm)
    card = {p.id: p for p in tar.card}
    assert card["P8"].moved == runs[label].moved
    assert (card["P4"].status, card["P4"].moved) == ("not tested", None)
    assert card["P1"].detail.startswith("2 fresh seeds gave harm")


def test_a_killed_audit_runs_the_same_variations_once(tmp_path: Path) -> None:
    shared = make_settings(6, variations=3)
    whole = make_plan(tmp_path / "whole", shared)
    FakeBackend().run(whole)
    started: list[str] = []
    for _ in range(60):  # as many lives as it takes
        backend = FakeBackend(events=9)
        with contextlib.suppress(Killed):
            backend.run(make_plan(tmp_path / "killed", shared))
            break
        started += [job_id for job_id in backend.closed if "/variation/" in job_id]
    plan = make_plan(tmp_path / "killed", shared)
    assert plan.done
    assert result_of(plan, shared) == result_of(whole, shared)
    assert len(started) == len(set(started))


def test_without_a_weak_spot_nothing_is_varied_and_the_card_says_so(tmp_path: Path) -> None:
    shared = make_settings(6, variations=3, threat=ThreatModel(max_steps=8, utility_floor=1.0))
    plan = make_plan(tmp_path / "study.journal", shared)
    backend = FakeBackend().run(plan)
    tar = result_of(plan, shared).subjects[1]
    assert tar.weak_spot is None
    assert not any(job.phase == "variation" for job in backend.started)
    assert {p.id: p.status for p in tar.card}["P1"] == "not tested"


def test_a_variation_that_fails_is_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Variation("P8", "learning_rate far too high", "lora", {"learning_rate": 5e-2, "steps": 8})
    monkeypatch.setattr("weakspot.search.afterthoughts.variations", lambda *given: [broken])
    shared = make_settings(6, variations=1)
    plan = make_plan(tmp_path / "study.journal", shared)
    FakeBackend().run(plan)
    card = {p.id: p for p in result_of(plan, shared).subjects[1].card}
    assert card["P8"].runs[0].harm is None
    assert card["P8"].moved is None
    assert "could not be run (too fast)" in card["P8"].detail
