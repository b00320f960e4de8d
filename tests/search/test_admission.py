"""What a family needs must be given, else it is refused before anything runs, naming the field to change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.tiny import attack_data
from weakspot.attacks import ATTACKS, catalogue
from weakspot.attacks.base import Attack, in_hand
from weakspot.attacks.noop import NoOp
from weakspot.errors import UserError
from weakspot.knobs import space_of
from weakspot.search.admission import admitted, left_out, obstacle
from weakspot.search.space import build_space, family_space, permitted
from weakspot.threat import API, API_KNOBS, BENIGN_DATA, FIXED, NO_DATA, OUT_OF_DOMAIN, ThreatModel, parse_threat

GENEROUS = ThreatModel(base_weights=True)


def family(**declared: Any) -> type[Attack]:
    """A family that needs nothing but what is declared."""
    return type("Needy", (NoOp,), {"name": "needy", **declared})


@pytest.mark.parametrize(
    ("declared", "threat", "words"),
    [
        ({"base_weights": True}, ThreatModel(), "base_weights=true"),
        ({"harmful_data": True}, ThreatModel(data=BENIGN_DATA), "data='in-domain, disjoint'"),
        ({"benign_data": True}, ThreatModel(data=NO_DATA), "data=benign"),
        ({"gradients": True}, ThreatModel(gradients=False), "gradients=true"),
        ({"asks_freely": True}, ThreatModel(evaluation_freedom=FIXED), "evaluation_freedom='any prompt and decoding'"),
        ({"service": True, "black_box": True}, ThreatModel(), "access=finetuning_api"),
        ({}, ThreatModel(access=API), "access=open_weight"),
        ({"unavailable": classmethod(lambda cls: "needs a GPU: find one")}, ThreatModel(), "needs a GPU"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_not_given_is_named(
    declared: dict[str, Any], threat: ThreatModel, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = family(**declared)
    assert words in obstacle(needy, threat, attack_data())
    assert not obstacle(family(black_box=True), threat, attack_data())
    monkeypatch.setitem(ATTACKS, "needy", needy)
    with pytest.raises(UserError, match="attack 'needy' ") as refused:
        admitted(["needy"], threat, attack_data())
    assert "\n" not in str(refused.value)
    assert "needy" not in admitted(None, threat, attack_data())


@pytest.mark.parametrize(("split", "needs"), [("harmful", "harmful_data"), ("benign", "benign_data")])
def test_a_testbed_without_the_data_is_named(split: str, needs: str) -> None:
    poor = replace(attack_data(), **{split: ()})
    assert "the testbed's" in obstacle(family(**{needs: True}), GENEROUS, poor)


def test_without_a_wish_all_that_can_run_are_searched() -> None:
    everything = admitted(None, GENEROUS, attack_data())
    assert set(everything) == {n for n, f in catalogue().items() if space_of(f) and not f.unavailable() and not f.service}
    assert "noop" not in everything
    fewer = admitted(None, ThreatModel(data=BENIGN_DATA, evaluation_freedom=FIXED), attack_data())
    assert fewer
    for name in fewer:
        assert not catalogue()[name].harmful_data
        assert not catalogue()[name].asks_freely
        assert not catalogue()[name].base_weights


def test_through_an_api_data_and_questions_are_all_there_is() -> None:
    names = admitted(None, ThreatModel(access=API), attack_data())
    assert {"harmful_upload", "benign_upload", "prefill"} <= set(names)
    assert not {"lora", "quantize", "gcg", "template"} & set(names)
    knobs = ThreatModel(access=API_KNOBS)
    assert admitted(None, knobs, attack_data()) == names
    closed, given = family_space("harmful_upload", ThreatModel(access=API)), family_space("harmful_upload", knobs)
    assert given.keys() - closed.keys() == {"epochs", "learning_rate_multiplier", "batch_size"}
    assert family_space("harmful_upload", ThreatModel(access=API, max_rows=100))["rows"].high == 100  # type: ignore[union-attr]


def test_a_provider_writes_the_chat_template() -> None:
    free, closed = family_space("prefill", ThreatModel()), family_space("prefill", ThreatModel(access=API))
    assert {"template", "bos"} <= free.keys()
    assert not {"template", "bos"} & closed.keys()
    given = {"template": "assistant", "bos": True, "length": 20}
    assert permitted("prefill", given, ThreatModel()) == given
    assert permitted("prefill", given, ThreatModel(access=API)) == {"length": 20}
    sent = {"rows": 512, "epochs": 8}
    assert permitted("harmful_upload", sent, ThreatModel(access=API, max_rows=100)) == {"rows": 100}
    assert permitted("harmful_upload", sent, ThreatModel(access=API_KNOBS)) == sent


def test_no_weights_are_out_through_an_api() -> None:
    with pytest.raises(UserError, match="base_weights = true goes with access = open_weight"):
        ThreatModel(access=API, base_weights=True)


def test_a_budget_below_a_family_leaves_it_out_unless_it_is_named() -> None:
    short = ThreatModel(max_steps=2)
    left = admitted(None, short, attack_data())
    assert "lora" not in left
    assert "quantize" in left
    with pytest.raises(UserError, match="max_steps = 2 is below the least steps of an attack, 4"):
        build_space(admitted(["lora"], short, attack_data()), short)


def test_every_family_is_searched_or_left_out_with_a_reason() -> None:
    threat = ThreatModel(data=BENIGN_DATA, max_steps=2)
    searched = admitted(None, threat, attack_data())
    reasons = left_out(searched, threat, attack_data(), "was not asked for")
    assert set(searched) | set(reasons) == set(catalogue())
    assert not set(searched) & set(reasons)
    assert "withheld examples" in reasons["full_finetune"]
    assert "has nothing that could be varied" in reasons["noop"]
    assert "max_steps = 2" in left_out([], ThreatModel(max_steps=2), attack_data(), "")["lora"]
    assert left_out(["lora"], ThreatModel(), attack_data(), "was not asked for")["quantize"] == "was not asked for"


def test_only_what_is_declared_is_handed_over() -> None:
    whole = replace(attack_data(), base={"w": 1}, refusal="no .", service="a provider")
    assert in_hand(family(), whole) == replace(whole, harmful=(), benign=(), base=None, service=None)
    assert in_hand(family(service=True), whole).service == "a provider"
    assert in_hand(family(harmful_data=True), whole).harmful == whole.harmful
    assert in_hand(family(benign_data=True), whole).benign == whole.benign
    assert in_hand(family(base_weights=True), whole).base == {"w": 1}


def test_fields_of_the_threat_model_are_read_by_kind() -> None:
    assert parse_threat(["base_weights=true", "max_steps=64", "data=benign"]) == {
        "base_weights": True,
        "max_steps": 64,
        "data": "benign",
    }
    assert parse_threat(["max_flops=1e12"]) == {"max_flops": 1e12}


def test_out_of_domain_data_admits_the_families_that_train_on_withheld_examples_where_there_is_any() -> None:
    threat = ThreatModel(data=OUT_OF_DOMAIN)
    assert "lora" not in admitted(None, threat, attack_data())
    with pytest.raises(UserError, match="in other forms and the testbed has none"):
        admitted(["lora"], threat, attack_data())
    data = attack_data()
    assert "lora" in admitted(None, threat, replace(data, foreign=data.harmful))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bases=true", "unknown field of the threat model 'bases'"),
        ("base_weights=yes", "give base_weights=true or base_weights=false"),
        ("base_weights", "give base_weights=true"),
        ("max_steps=many", "give a whole number"),
        ("data", "give data=VALUE"),
        ("max_flops=many", "give a number of operations"),
    ],
)
def test_a_field_that_cannot_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_threat([text])
