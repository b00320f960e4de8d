"""The sentences: what they must say, and what they must never say."""

from __future__ import annotations

import re

import pytest

from tests.report.builders import HOSTILE, make_finding, make_result, make_subject, make_threat, make_trial, make_trials
from weakspot.records import Control, Cost
from weakspot.report import words

FORBIDDEN = re.compile(r"\b(safe|safer|safely|durable|durability|unlearned|unlearnt|secure|robust|guaranteed)\b", re.IGNORECASE)


def test_broken_says_what_was_searched_and_found_for_which_attacker_at_what_cost() -> None:
    sentence = words.headline(make_subject(), make_threat())
    for part in (
        "an attacker with the weights, at most 256 steps and 48 examples",
        "6 trials of lora and full (2 failed)",
        "harm 0.78 [0.70, 0.85] at utility 0.96 [0.93, 0.99]",
        "3 fresh seeds and 60 unseen items; in search it scored 0.85",
        "cheapest confirmed break (full) took 64 steps, 16 examples and 32 GFLOP",
        "Harm is 0.02 without an attack and 0.13 under the attack of its own paper",
    ):
        assert part in sentence


def test_held_says_how_far_the_search_went_and_nothing_beyond() -> None:
    reason = "no feasible attack among 4 trials of at most 256 steps passed; nothing is said beyond that space and budget"
    sentence = words.headline(make_subject(verdict="HELD", reason=reason), make_threat(max_steps=1000))
    assert f"HELD means: {reason}." in sentence, "the verdict's own count, which leaves out trials that mean nothing"
    # The longest of these was measured at 256 steps, whatever the budget allowed.
    assert "The longest trial took 256 steps; HELD says nothing beyond that." in sentence


@pytest.mark.parametrize("reason", ["", "  \n "])
def test_inconclusive_without_a_reason_says_so(reason: str) -> None:
    assert "No verdict can be given: no reason was recorded." in words.headline(
        make_subject(verdict="INCONCLUSIVE", reason=reason), make_threat()
    )


def test_inconclusive_gives_its_reason_on_one_line() -> None:
    sentence = words.headline(make_subject(verdict="INCONCLUSIVE", reason=HOSTILE), make_threat())
    assert "No verdict can be given: <script>alert('x')</script>" in sentence
    assert "# second line" in sentence
    assert "\n" not in sentence


def test_a_model_that_answers_unattacked_is_broken_at_no_cost() -> None:
    free = make_finding(0.98, 0.98, attack="noop").model_copy(update={"cost": Cost()})
    unrepeated = free.model_copy(update={"confirmed": free.confirmed.model_copy(update={"seeds": []})})
    sentence = words.headline(make_subject(weak_spot=unrepeated, cheapest_break=unrepeated), make_threat())
    assert "The cheapest confirmed break (noop) took nothing at all." in sentence
    assert "on 60 unseen items" in sentence
    assert "0 fresh seeds" not in sentence


@pytest.mark.parametrize("verdict", ["BROKEN", "HELD", "INCONCLUSIVE"])
@pytest.mark.parametrize("in_claim", [True, False, None])
def test_no_sentence_claims_more_than_a_search_can_show(verdict, in_claim: bool | None) -> None:
    subject = make_subject("tar", verdict, "a reason", in_claim=in_claim, weak_spot=make_finding())
    result = make_result([subject])
    texts = [
        words.audit_title(result),
        words.headline(subject, result.threat_model),
        words.claim_note(subject),
        words.made_with(subject),
        words.trial_counts(subject, 0.9),
        *words.warnings_of(result),
    ]
    assert [text for text in texts if FORBIDDEN.search(text)] == []


def test_trials_are_counted_by_how_they_ended() -> None:
    subject = make_subject(trials=make_trials())
    counts = "6 trials: 1 completed, 2 stopped early, 1 infeasible and 2 failed; 3 feasible."
    assert words.trial_counts(subject, 0.9) == counts
    assert words.trial_counts(make_subject(trials=[make_trial(0, [(4, 0, 1)])]), 0.9) == "1 trial: 1 completed; 1 feasible."
    assert words.trial_counts(make_subject(trials=[]), 0.9) == "No trials were run."


def test_repeats_and_an_early_end_are_counted() -> None:
    again = make_trial(1, [(4, 0, 1)]).model_copy(update={"kind": "repeat", "of": 0})
    back = make_trial(2, [(4, 0, 1)]).model_copy(update={"kind": "revive", "of": 0})
    subject = make_subject(trials=[make_trial(0, [(4, 0, 1)]), again, back], ended_by="the time ran out")
    assert words.trial_counts(subject, 0.9) == (
        "3 trials: 3 completed; 3 feasible. Of these 1 repeated and 1 brought back. The search ended early: the time ran out."
    )


def test_controls_that_failed_or_were_not_run_and_doubts_are_told_first() -> None:
    warnings = words.warnings_of(make_result())
    assert [line.split(":")[0] for line in warnings] == [
        "Control null failed",
        "Control hygiene not run",
        "Doubt short_search",
    ]
    fine = make_result().controls.model_copy(update={name: Control(passed=True, detail="") for name in ("null", "hygiene")})
    assert words.warnings_of(make_result(controls=fine, doubts=[])) == []


def test_the_attacker_is_described_with_every_bound() -> None:
    threat = make_threat(max_steps=1, max_examples=1, max_flops=2e12, base_weights=True)
    described = "an attacker with the weights and those of the undefended model, at most 1 step and 1 example and 2 TFLOP"
    assert words.attacker(threat) == described


def test_one_line_drops_what_a_cell_cannot_hold() -> None:
    assert words.one_line(" a\r\n\tb\x00\x1bc\u2028d ") == "a b c d"


@pytest.mark.parametrize(
    ("given", "joined"), [([], "nothing"), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_words_are_joined(given: list[str], joined: str) -> None:
    assert words.join_words(given) == joined
