"""Cards: three kinds of evidence side by side, a flag that nobody sets by hand, and no text of a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from tests.report.builders import make_measures, make_threat, make_trial
from tests.report.releases import broken, controls, finding, held, release, some_cards, trials
from weakspot.cards import Card, Supplied, config_digest, parse_card, parse_supplied, threat_digest
from weakspot.errors import UserError
from weakspot.records import Doubt, Result, SearchRecord, Subject, ThreatModelRecord
from weakspot.report.cards import file_names, make_cards
from weakspot.threat import ThreatModel

SECRET = "what the model replied"


def card_of(result: Result, label: str = "tar", **supplied: Supplied) -> Card:
    return make_cards(result, supplied, {}, "0" * 64)[label]


def test_a_card_holds_what_was_found_and_where_the_search_ended() -> None:
    card = card_of(release())
    assert card.verdict == "HELD"
    assert card.reliable
    assert card.found is not None
    assert card.found.harm.mean == 0.06
    assert card.found.seeds == 3
    assert card.broken_at is None
    assert (card.searched.trials, card.searched.families, card.searched.flops) == (12, 2, 12 * 64 * 5e8)
    assert card.searched.longest == 64 * 5e8
    assert card.undefended is not None
    assert card.undefended.harm == 0.98
    assert card.provenance.result_sha256 == "0" * 64
    assert card.provenance.pins["data"] == "3141592653589793"


def test_a_broken_safeguard_shows_its_worst_and_its_cheapest() -> None:
    worse, cheap = finding(0.9), finding(0.7, attack="prefill", cost=finding().cost.model_copy(update={"flops": 7.0}))
    card = card_of(release(broken("tar", weak_spot=cheap, cheapest_break=cheap, confirmed=[worse, cheap])))
    assert card.found is not None
    assert card.found.attack == "lora"
    assert card.found.config_digest == config_digest("lora", worse.config)
    assert card.broken_at is not None
    assert card.broken_at.flops == 7.0


def test_the_base_and_the_control_get_no_card() -> None:
    assert list(make_cards(release(held("tar"), broken("tar")), {}, {})) == ["tar", "tar #2"]


UNRELIABLE: dict[str, tuple[Result, str]] = {
    "a control failed": (release(broken("tar"), controls=controls(positive=False)), "the positive control failed"),
    "a control was not run": (release(controls=controls(negative=None)), "the negative control was not run"),
    "inconclusive": (release(held(verdict="INCONCLUSIVE", reason="spans it")), "the audit is inconclusive: spans it"),
    "seen in search only": (
        release(held(weak_spot=None, confirmed=[], frontier=[], trials=[make_trial(0, [(64, 0.9, 0.97)])])),
        "nothing was confirmed on fresh seeds",
    ),
    "interrupted": (release(broken("tar"), partial="after 3 of 9"), "the audit is partial: after 3 of 9"),
    "little searched": (release(held(trials=trials(3))), "3 trials measured something"),
    "a suite": (release(search=SearchRecord(suite="standard")), "only the fixed configurations of the standard suite"),
    "no effect of the seed": (
        release(broken("tar"), doubts=[Doubt(name="seed_has_no_effect", detail="tar: identical")]),
        "doubt seed_has_no_effect",
    ),
    "a useless model": (release(held(baseline=make_measures(0.0, 0.4))), "below the utility floor"),
    "injected": (release(search=SearchRecord(injecting=["lora"])), "shows recovered knowledge"),
}


@pytest.mark.parametrize("name", UNRELIABLE)
def test_what_cannot_be_relied_on_says_why(name: str) -> None:
    result, reason = UNRELIABLE[name]
    card = card_of(result)
    assert not card.reliable
    assert any(reason in line for line in card.unreliable), card.unreliable


def test_a_break_needs_no_long_search_to_be_relied_on() -> None:
    result = release(broken("tar", trials=trials(2)), search=SearchRecord(suite="standard"), controls=controls(negative=None))
    assert card_of(result).reliable


def test_what_authors_and_others_say_stands_beside_what_was_found() -> None:
    text = """
        [tar]
        paper = "arXiv:2408.00761"
        reported = { value = 0.03, source = "Table 2" }
        external = [{ source = "Qi et al.", attack = "full fine-tune", harm = 0.64, url = "https://arxiv.org/abs/2412.07097" }]
    """
    card = card_of(release(), **dict[str, Any](parse_supplied(text, "facts.toml")))
    assert card.paper == "arXiv:2408.00761"
    assert card.reported is not None
    assert card.reported.value == 0.03
    assert card.external[0].harm == 0.64
    assert card.found is not None
    assert card.found.harm.mean == 0.06, "what others say does not change what was found here"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tar", "is not TOML"),
        ("tar = 3", "[tar]"),
        ("[tar]\nwishes = 1", "[tar] wishes: Extra inputs"),
        ("[tar]\nreported = { value = 'little', source = 'x' }", "reported.value"),
        ("[tar]\nreported = { value = nan, source = 'x' }", "reported.value"),
        ("[tar]\nreported = { value = 0.1, source = 'x', url = 'javascript:alert(1)' }", "reported.url"),
        ("[tar]\nexternal = [{ source = 'x', attack = 'y', harm = 3 }]", "external.0.harm"),
    ],
)
def test_facts_that_are_none_are_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        parse_supplied(text, "facts.toml")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("card", some_cards(), ids=lambda card: card.name)
def test_a_card_comes_back_as_it_was_written(card: Card) -> None:
    assert parse_card(card.to_json()) == card


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(some_cards()[0].to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is not JSON"),
        (changed()[:-30], "it is not JSON"),
        ("[1]", "is no card of version 1"),
        ("[" * 100_000, "it is not JSON"),
        (changed(card_version=2), "a card of version 2 and this weakspot reads version 1: install a newer weakspot"),
        (changed(card_version="1"), "card_version"),
        (changed(wishes=1), "wishes: Extra inputs"),
        (changed(reliable=False), "reliable is true exactly where"),
        (changed(found=None), "reliable needs a verdict and a confirmed configuration"),
        (changed(verdict="SAFE"), "verdict"),
        (changed(name=""), "name"),
        (changed(external=[{"source": "x", "attack": "y", "harm": 0.1, "url": "data:text/html,x"}]), "external.0.url"),
        (changed(undefended={"harm": float("nan"), "utility": 1.0}), "undefended.harm"),
        (changed(undefended={"harm": "0.5", "utility": 1.0}), "undefended.harm"),
    ],
)  # fmt: skip
def test_a_card_that_is_none_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        parse_card(text, "some/card.json")
    assert str(error.value).startswith("some/card.json is ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_interval_that_runs_backwards_is_refused() -> None:
    data = json.loads(some_cards()[0].to_json())
    data["found"]["harm"]["low"] = 0.9
    with pytest.raises(UserError, match="upwards within"):
        parse_card(json.dumps(data))


def with_texts(subject: Subject, text: str) -> Subject:
    noted = [trial.model_copy(update={"note": text, "reason": text}) for trial in subject.trials]
    return subject.model_copy(update={"trials": noted})


def test_no_text_of_a_trial_no_command_and_no_machine_travel_on_a_card() -> None:
    result = release(with_texts(held(), SECRET))
    origin = result.provenance.model_copy(update={"command": SECRET, "machine": {"name": SECRET}})
    assert SECRET not in card_of(result.model_copy(update={"provenance": origin})).to_json()


def test_a_name_that_utf_8_cannot_hold_is_still_written() -> None:
    card = card_of(release(held("a\ud800b")), "a\ud800b")
    assert parse_card(card.to_json()).defense.method == "a\ufffdb"


def test_the_digest_of_a_threat_model_is_that_of_the_audit() -> None:
    threat = ThreatModel(max_flops=1e15, base_weights=True)
    record = ThreatModelRecord(**asdict(threat))
    assert threat_digest(record) == threat.digest
    spent = record.model_copy(update={"digest": "another", "tuning_trials": 9, "tuning_flops": 1e9})
    assert threat_digest(spent) == threat.digest, "a label and what was spent on the search do not make another attacker"
    assert threat_digest(make_threat()) != threat.digest


def test_file_names_are_plain_and_differ() -> None:
    assert file_names(["a/b"]) == {"a/b": "card.json"}
    names = file_names(["tar", "tar #2", "../../etc/passwd", "a b", "a:b", "…", "x" * 300])
    assert names["tar"] == "card-tar.json"
    assert names["../../etc/passwd"] == "card-etc_passwd.json"
    assert names["…"] == "card-unnamed.json"
    assert len(set(names.values())) == len(names)
    assert all("/" not in name and len(name) < 100 for name in names.values())
