"""Knobs: what is inside a domain, and how a wrong configuration is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakspot.errors import UserError
from weakspot.knobs import Choice, IntRange, LogIntRange, LogRange, Range, as_config, configure, knob, space_of

BOUND = st.floats(-1e9, 1e9)


@dataclass(frozen=True)
class Sample:
    """A family with one knob of each kind."""

    rate: float = knob(1e-3, LogRange(1e-5, 1e-1))
    count: int = knob(4, IntRange(1, 8))
    kind: str = knob("a", Choice(("a", "b")))
    width: int = knob(2, Choice((1, 2, 4)))
    fixed: float = knob(1.0)
    label: str = knob("x")
    rates: tuple[float, ...] = knob((0.1, 0.2))


@st.composite
def real_ranges(draw: st.DrawFn) -> Range:
    low, high = sorted((draw(BOUND), draw(BOUND)))
    return Range(low, high)


@st.composite
def whole_ranges(draw: st.DrawFn) -> Range:
    low, high = sorted((draw(st.integers(1, 10**6)), draw(st.integers(1, 10**6))))
    return draw(st.sampled_from((IntRange, LogIntRange)))(low, high)


@given(real_ranges(), st.data())
def test_real_ranges_hold_what_lies_between_their_ends(domain: Range, data: st.DataObject) -> None:
    assert data.draw(st.floats(domain.low, domain.high)) in domain
    assert domain.low in domain
    assert domain.high in domain
    assert math.nextafter(domain.low, -math.inf) not in domain
    assert math.nextafter(domain.high, math.inf) not in domain


@given(whole_ranges(), st.data())
def test_whole_ranges_hold_whole_numbers_only(domain: Range, data: st.DataObject) -> None:
    value = data.draw(st.integers(int(domain.low), int(domain.high)))
    assert value in domain
    assert float(value) not in domain
    assert int(domain.low) - 1 not in domain
    assert int(domain.high) + 1 not in domain


@given(real_ranges())
def test_what_is_no_number_is_in_no_range(domain: Range) -> None:
    for stranger in (math.nan, math.inf, -math.inf, True, False, "1", None, (1.0,)):
        assert stranger not in domain


@given(st.lists(st.one_of(st.integers(), st.booleans(), st.text()), min_size=1, unique_by=lambda v: (type(v), v)), st.data())
def test_choices_hold_their_values_by_type(values: list[bool | int | str], data: st.DataObject) -> None:
    domain = Choice(tuple(values))
    value = data.draw(st.sampled_from(values))
    assert value in domain
    kept = [v for v in values if (type(v), v) != (type(value), value)]
    assert value not in Choice(tuple(kept))


def test_choices_tell_a_number_from_a_truth() -> None:
    assert 1 in Choice((1, 2))
    assert True not in Choice((1, 2))
    assert 1.0 not in Choice((1, 2))
    assert 1 not in Choice((1.0, 2.0))
    assert 1 not in Choice((True, False))


def test_a_default_outside_its_range_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="lies outside"):
        knob(9, IntRange(1, 8))
    with pytest.raises(AssertionError, match="above 0"):
        LogRange(0.0, 1.0)
    with pytest.raises(AssertionError, match="must not exceed"):
        Range(2.0, 1.0)


def test_the_space_is_the_searchable_fields_in_order() -> None:
    assert list(space_of(Sample)) == ["rate", "count", "kind", "width"]
    assert space_of(Sample)["count"] == IntRange(1, 8)


def test_configure_builds_and_as_config_takes_apart() -> None:
    given_config = {"rate": 0.1, "count": 8, "kind": "b", "fixed": 3, "rates": (0.5,)}
    sample = configure(Sample, given_config)
    assert as_config(sample) == {**as_config(Sample()), **given_config}
    assert configure(Sample, as_config(sample)) == sample


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"speed": 1}, ["unknown option of Sample 'speed'", "count", "fixed", "kind", "label", "rate", "rates", "width"]),
        ({"rate": 1.0}, ["Sample.rate = 1.0", "1e-05..0.1 log"]),
        ({"rate": math.nan}, ["Sample.rate = nan"]),
        ({"rate": "fast"}, ["Sample.rate = 'fast'"]),
        ({"count": 0}, ["Sample.count = 0", "1..8 int"]),
        ({"count": 2.0}, ["Sample.count = 2.0"]),
        ({"count": True}, ["Sample.count = True"]),
        ({"kind": "c"}, ["Sample.kind = 'c'", "{a, b}"]),
        ({"width": 3}, ["Sample.width = 3", "{1, 2, 4}"]),
        ({"fixed": "much"}, ["Sample.fixed = 'much'", "give a float"]),
        ({"fixed": True}, ["Sample.fixed = True", "give a float"]),
        ({"label": 3}, ["Sample.label = 3", "give a str"]),
        ({"rates": 0.1}, ["Sample.rates = 0.1", "give a tuple"]),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused_in_one_line(config: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        configure(Sample, config)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
