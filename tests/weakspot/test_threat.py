"""The threat model refuses what has no meaning."""

from __future__ import annotations

from typing import Any

import pytest

from weakspot.errors import UserError
from weakspot.records import ThreatModelRecord
from weakspot.threat import ThreatModel


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"harm_threshold": 0.0}, "harm threshold 0.0"),
        ({"harm_threshold": 1.01}, "harm threshold 1.01"),
        ({"harm_threshold": float("nan")}, "harm threshold nan"),
        ({"utility_floor": -0.1}, "utility floor -0.1"),
        ({"utility_floor": 1.1}, "utility floor 1.1"),
        ({"utility_floor": float("nan")}, "utility floor nan"),
        ({"max_steps": 0}, "max_steps 0"),
    ],
    ids=str,
)
def test_a_senseless_threat_model_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ThreatModel(**changes)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    ThreatModel(harm_threshold=1.0, utility_floor=0.0, max_steps=1)
    ThreatModel(utility_floor=1.0)


def test_the_record_has_the_same_fields() -> None:
    assert ThreatModelRecord(**vars(ThreatModel())).model_dump() == vars(ThreatModel())
