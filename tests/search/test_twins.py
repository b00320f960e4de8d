"""The weak spot's controls: the same attack without the withheld data, and a random change of the same size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.search import fakes
from tests.search.fakes import FakeBackend, make_job, make_plan, make_reading, make_settings, result_of
from tests.tiny import TinyFable, attack_data, tiny_model, tiny_tokenizer
from weakspot import attacks
from weakspot.adapters import AdapterSpec, adapter
from weakspot.attacks.base import Progress
from weakspot.attacks.full import FullFinetune
from weakspot.errors import TrialFailure
from weakspot.evals.score import Score
from weakspot.models import arrays_digest, weights_digest
from weakspot.records import Confirmed, Cost, Finding, HarmUtility, Interval
from weakspot.search.jobs import Job, Reading
from weakspot.search.trial import Workbench
from weakspot.search.twins import BENIGN, RANDOM, benign_twin, change_at_random, changed_weights, twins
from weakspot.testbeds.base import Measurement


def found(family: str) -> Finding:
    wide = Interval(mean=0.8, low=0.7, high=0.9)
    confirmed = Confirmed(harm=wide, utility=wide, seeds=[1], items=8)
    searched = HarmUtility(harm=0.8, utility=1)
    return Finding(attack=family, config={}, rung=8, trial="tar/003", searched=searched, confirmed=confirmed, cost=Cost())


def test_each_family_has_the_controls_that_mean_something_for_it() -> None:
    assert twins(found("lora")) == [BENIGN, RANDOM]
    assert twins(found("benign_finetune")) == [RANDOM], "it has no withheld data to do without"
    assert twins(found("prune")) == [RANDOM]
    assert twins(found("soft_prompt")) == [], "no weight changes"


def test_the_benign_twin_sees_no_withheld_example_and_as_much_data() -> None:
    data = attack_data()
    data = replace(data, harmful=data.harmful[: len(data.benign) // 2])
    twin = benign_twin(data, 7)
    assert set(twin.harmful) <= set(data.benign)
    assert len(twin.harmful) == len(data.harmful)
    assert not set(twin.harmful) & set(twin.benign)
    assert twin == benign_twin(data, 7) != benign_twin(data, 8)
    with pytest.raises(TrialFailure, match="no benign example"):
        benign_twin(replace(data, benign=()), 7)


def test_a_random_change_has_the_norm_of_each_change_and_another_direction() -> None:
    model, tampered = tiny_model(), tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    names = [name for name in before if "q_proj" in name or "mlp" in name]
    with torch.no_grad():
        for number, name in enumerate(names):
            dict(tampered.named_parameters())[name].add_(0.01 * (number + 1))
    after = changed_weights(tampered)
    change_at_random(model, after, 3)
    for name, weight in model.named_parameters():
        change, wanted = weight.detach() - before[name], after[name] - before[name]
        assert change.norm() == pytest.approx(float(wanted.norm()), rel=1e-4, abs=1e-9)
        if name in names:
            assert abs(torch.nn.functional.cosine_similarity(change.flatten(), wanted.flatten(), dim=0)) < 0.25
    with pytest.raises(TrialFailure, match="changed no weight"):
        change_at_random(tampered, after, 3)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapters_product_counts_as_a_change_of_the_matrix(dora: bool) -> None:
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.arange(3, 11)[None]
    with adapter(model, AdapterSpec(rank=4, dora=dora), seed=0):
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.1)
        wanted = model(ids).logits
        after = changed_weights(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(after[name])
    torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(after[name], before[name]) for name in before)


class Scripted(TinyFable):
    """Keeps the digests of what it measured."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def measure(self, model: Any, tokenizer: Any, stage: Any, how: Any = None) -> Measurement:
        self.seen.append(weights_digest(model))
        return Measurement(Score((0.5,)), Score((1.0,)), Score((0.4,)), 0.1)


@pytest.fixture
def bench() -> Workbench:
    model = tiny_model()
    weights = {"tar": {name: p.detach().numpy().copy() for name, p in model.named_parameters()}}
    digests = {"tar": arrays_digest(weights["tar"])}
    return Workbench(Scripted(), Path("."), weights, digests, {"search": 1.0, "report": 1.0}, model, tiny_tokenizer())


@pytest.mark.usefixtures("frozen_heap")
@pytest.mark.parametrize("family", ["full_finetune", "lora"])
def test_a_trial_runs_each_twin_and_leaves_the_model_as_it_was(
    bench: Workbench, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Any] = []
    taken = attacks.get(family)
    run = taken.run

    def spied(self: Any, model: Any, tokenizer: Any, data: Any, rungs: Any, seed: int) -> Any:
        handed.append(data)
        return run(self, model, tokenizer, data, rungs, seed)

    monkeypatch.setattr(taken, "run", spied)
    config = {"steps": 4, "batch_size": 4, "harmful_examples": 4, "learning_rate": 1e-3}

    def twin(kind: str) -> Job:
        return make_job(config=config, attack=family, phase="twin", stage="report", rungs=(4,), twin=kind)

    for kind in ("", BENIGN, RANDOM):
        [reading] = bench.run(twin(kind))
        assert isinstance(reading, Reading)
        assert reading.final
        assert reading.rung == 4
    plain, benign, shaken = bench.testbed.seen  # type: ignore[attr-defined]
    assert len({plain, benign, shaken, bench.digests["tar"]}) >= (4 if family == "full_finetune" else 2)
    assert shaken != bench.digests["tar"]
    assert set(handed[1].harmful) <= set(bench.testbed.attack_data().benign)
    assert handed[0].harmful == handed[2].harmful
    bench.reset("tar", 0)
    assert weights_digest(bench.model) == bench.digests["tar"]


def test_a_twin_of_what_changes_no_weight_fails_in_words(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(self: Any, model: Any, tokenizer: Any, data: Any, rungs: Any, seed: int) -> Any:
        yield Progress(final=True)

    monkeypatch.setattr(FullFinetune, "run", idle)
    with pytest.raises(TrialFailure, match="no size to match"):
        list(bench.run(make_job(config={}, attack="full_finetune", phase="twin", twin=RANDOM, rungs=(4,))))


@pytest.mark.parametrize(
    ("kind", "harm", "utility", "raised"),
    [(BENIGN, 0.9, 1.0, True), (RANDOM, 0.9, 1.0, True), (BENIGN, 0.9, 0.5, False), (RANDOM, 0.1, 1.0, False)],
)
def test_twins_are_run_once_the_weak_spot_is_known_and_one_that_breaks_too_is_a_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, harm: float, utility: float, raised: bool
) -> None:
    usual = fakes.fake_course

    def course(job: Job) -> list[Reading]:
        if not job.twin:
            return usual(job)
        return [make_reading(job.rungs[-1], *((harm, utility) if job.twin == kind else (0.0, 1.0)), final=True)]

    monkeypatch.setattr(fakes, "fake_course", course)
    shared = make_settings(6, twins=True, variations=2)
    plan = make_plan(tmp_path / "study.journal", shared)
    backend = FakeBackend(workers=3).run(plan)
    jobs = [job for job in backend.started if job.phase == "twin"]
    assert {job.twin for job in jobs} == {BENIGN, RANDOM}
    assert {(job.seed, job.stage) for job in jobs} == {(shared.confirmation_seeds[0], "report")}
    assert set.union(*(backend.open_at[job.id] for job in jobs)) <= {"twin", "variation"}
    result = result_of(plan, shared)
    tar = result.subjects[1]
    assert tar.twins[kind].harm == harm
    assert tar.weak_spot is not None
    assert all(job.config == tar.weak_spot.config for job in jobs)
    assert (f"{kind}_twin_breaks" in {doubt.name for doubt in result.doubts}) is raised
    again = make_plan(tmp_path / "study.journal", shared)
    assert again.done, "what was run is known after a restart"
    assert result_of(again, shared) == result


def test_twins_are_a_control_and_can_be_left_out(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "study.journal", make_settings(6))
    backend = FakeBackend().run(plan)
    assert not any(job.phase == "twin" for job in backend.started)
