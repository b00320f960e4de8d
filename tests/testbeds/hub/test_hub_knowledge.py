"""What somebody's model knows without saying it: likelihood on every testbed, a choice where there are options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.testbeds.hub.tiny_models import TOML, make_testbed
from weakspot import testbeds
from weakspot.elicitation import Elicitation
from weakspot.evals.knowledge import knowledge
from weakspot.testbeds.hub import knowledge as hub
from weakspot.testbeds.hub.measure import Reader


def opened(file: Path) -> tuple[Any, Any, Any]:
    """The testbed, its base and its tokenizer."""
    testbed = testbeds.get(str(file))(0)
    return testbed, *testbed.load(testbed.prepare_base())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))


MATCH = TOML.replace('measure = "choice"', 'measure = "match"', 1)


@pytest.mark.parametrize("measure", ["match", "likelihood", "choice"])
def test_a_choice_is_asked_where_harm_is_none_itself(tmp_path: Path, measure: str) -> None:
    toml = TOML.replace('measure = "choice"', f'measure = "{measure}"', 1)
    testbed, model, tokenizer = opened(make_testbed(tmp_path / "bed", toml=toml))
    found = testbed.knowledge(model, tokenizer)
    assert found.nats == knowledge(model, tokenizer, testbed.splits.report_eval).nats
    assert len(found.nats) == len({e.item for e in testbed.splits.report_eval})
    assert (len(found.choice) == len(found.nats)) is (measure != "choice")
    assert found.chance == (pytest.approx(0.25) if measure != "choice" else None)


def test_the_form_is_chosen_on_search_items_and_asked_as_the_attack_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testbed, model, tokenizer = opened(make_testbed(tmp_path / "bed", toml=MATCH))
    asked = []
    real = Reader.picks

    def picks(reader: Any, rows: Any, variant: Any, how: Elicitation) -> Any:
        asked.append((rows, variant.name, how))
        return real(reader, rows, variant, how)

    monkeypatch.setattr(Reader, "picks", picks)
    monkeypatch.setattr(hub, "best", lambda found: found[-1])
    how = Elicitation(wrap="Say: {}")
    found = testbed.knowledge(model, tokenizer, how)
    search, report = testbed.rows_of("search_eval"), testbed.rows_of("report_eval")
    assert [(rows, name) for rows, name, _ in asked] == [
        (search, "cloze-plain"), (search, "letter-chat"), (report, "letter-chat"),
    ]  # fmt: skip
    assert {h for *_, h in asked} == {how}
    reader = Reader(testbed, model, tokenizer, "report", how)
    [letter] = [v for v in reader.variants(how) if v.name == "letter-chat"]
    assert found.choice == real(reader, report, letter, how).score().items


def test_without_options_there_is_no_choice(tmp_path: Path) -> None:
    toml = MATCH.replace(', choices = "options", answer_index = "right"', "")
    testbed, model, tokenizer = opened(make_testbed(tmp_path / "bed", toml=toml))
    found = testbed.knowledge(model, tokenizer)
    assert found.nats
    assert (found.choice, found.chance) == ((), None)


def test_what_cannot_be_forced_is_not_asked(tmp_path: Path) -> None:
    testbed, model, tokenizer = opened(make_testbed(tmp_path / "bed", toml=MATCH))
    found = testbed.knowledge(model, tokenizer, Elicitation(extra_tokens=4))
    assert (found.nats, found.choice) == ((), ())
    assert found.unforced
