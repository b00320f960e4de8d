"""The schema of result.json: round trips, refusals, and the names that others rely on."""

from __future__ import annotations

import json
import math
import types
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.report.builders import make_result
from weakspot import records
from weakspot.errors import UserError
from weakspot.records import Cost, Measures, Record, Result, parse_result

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**53), 2**53)
PLAIN = st.one_of(st.none(), st.booleans(), WHOLE, NUMBERS, st.text(max_size=5), st.lists(NUMBERS, max_size=2))
SIMPLE = {float: NUMBERS, int: WHOLE, str: st.text(max_size=8), bool: st.booleans(), type(None): st.none(), Any: PLAIN}


def any_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a record's field type, by the few kinds of types that records use."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(any_of, arguments))
    if origin is list:
        return st.lists(any_of(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), any_of(arguments[1]), max_size=2)
    assert issubclass(annotation, Record), annotation
    return st.builds(annotation, **{name: any_of(field.annotation) for name, field in annotation.model_fields.items()})


@given(any_of(Result))
@settings(max_examples=25)
def test_results_survive_the_file(result: Result) -> None:
    """Any records, also such as contradict themselves, which parse_result would refuse (tests/weakspot/test_opening.py)."""
    text = result.to_json()
    assert Result.model_validate_json(text, strict=True) == result
    assert Result.model_validate_json(text, strict=True).to_json() == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Measures(harm=value, utility=1.0, refusal_rate=0.0)
    with pytest.raises(ValidationError, match="finite"):
        Cost(flops=value)


def test_records_are_frozen_and_strict_about_names() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Cost(step=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="frozen"):
        Cost().steps = 1  # type: ignore[misc]


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(make_result().to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file"),
        ("not json", "the file"),
        ("[]", "the file"),
        ('{"schema_version": 1}', "testbed: Field required"),
        (changed(schema_version="1"), "schema_version"),
        (changed(extra=1), "extra: Extra inputs"),
        (changed(subjects=[{}]), "subjects.0."),
        (changed(doubts=[{"name": "x"}]), "doubts.0.detail"),
        (changed(testbed=None), "testbed"),
        (make_result().to_json().replace('"harm": 0.02', '"harm": NaN', 1), "NaN is no number"),
    ],
    ids=range(10),
)
def test_what_is_no_result_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_result(text, "runs/x/result.json")
    message = str(caught.value)
    assert message.startswith("runs/x/result.json is not a result of schema version 1")
    assert words in message
    assert "weakspot audit --out DIR" in message
    assert "\n" not in message


def test_a_result_is_read_as_it_was_written() -> None:
    assert parse_result(make_result().to_json()) == make_result()


# design.md § 8: others rely on these. A name may be added here, none renamed or dropped.
FROZEN = {
    "Result": "schema_version testbed threat_model subjects controls doubts provenance",
    "ThreatModelRecord": "access data max_steps max_examples max_flops base_weights evaluation_freedom utility_floor "
    "harm_threshold",
    "Subject": "defense config seed in_claim verdict reason baseline paper_attack weak_spot cheapest_break trials",
    "Measures": "harm utility refusal_rate",
    "Finding": "attack config searched confirmed cost",
    "HarmUtility": "harm utility",
    "Confirmed": "harm utility seeds items",
    "Interval": "mean low high",
    "Cost": "steps examples tokens flops seconds",
    "TrialRecord": "id attack config seed rung status reason harm utility cost",
    "Controls": "positive negative null hygiene",
    "Doubt": "name detail",
    "Provenance": "weakspot git_commit python packages machine command started finished seeds",
}


@pytest.mark.parametrize("name", FROZEN)
def test_the_names_of_version_1_stand(name: str) -> None:
    assert set(FROZEN[name].split()) <= set(getattr(records, name).model_fields)


def test_verdicts_statuses_and_version_stand() -> None:
    assert get_args(records.VerdictName) == ("BROKEN", "HELD", "INCONCLUSIVE")
    assert set(get_args(records.Status)) == {"completed", "stopped", "infeasible", "failed"}
    assert json.loads(make_result().to_json())["schema_version"] == 1
