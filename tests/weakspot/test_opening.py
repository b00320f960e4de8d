"""Opening a result: old files open, newer, cut and changed ones are refused in one line, and nothing ever shows a traceback."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.report.builders import make_finding, make_result, make_subject
from weakspot.cli.main import main
from weakspot.consistency import contradiction
from weakspot.errors import UserError
from weakspot.migrations import upgraded
from weakspot.opening import open_text, read_result
from weakspot.records import SCHEMA_VERSION, Confirmed, Result

# An audit of the repository's second day, cut to three trials a subject and to the fields that the schema had on its first.
OLDEST = Path(__file__).parent / "result_v1.json"
READERS = (["report"], ["compare"], ["gate"], ["card"], ["reproduce"])


def data() -> dict[str, Any]:
    return json.loads(make_result().to_json())


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        open_text(text, "runs/x/result.json")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("runs/x/result.json ")
    return message


def test_the_oldest_file_opens_and_its_missing_fields_have_their_defaults(tmp_path: Path) -> None:
    raw = json.loads(OLDEST.read_text())
    assert raw["schema_version"] == 1
    assert not {"search", "outside_option"} & set(raw), "the fixture must lack the fields that were added since"
    assert "per_seed" not in raw["subjects"][1]["weak_spot"]["confirmed"]
    result = read_result(OLDEST)
    assert [subject.verdict for subject in result.subjects] == ["BROKEN", "BROKEN", "BROKEN", "HELD"]
    assert result.subjects[1].weak_spot is not None
    assert result.subjects[1].weak_spot.confirmed.scores == []
    assert open_text(result.to_json()) == result
    assert main(["report", str(OLDEST), "--out", str(tmp_path), "--format", "md,json,csv,latex"]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["subjects"][1]["weak_spot"]["confirmed"]["scores"] == []


def test_a_field_of_the_fixture_that_were_dropped_would_be_noticed() -> None:
    """What a later schema must not do without a new version: forget a name that old files carry."""
    assert set(json.loads(OLDEST.read_text())) <= set(Result.model_fields)


def test_a_newer_version_is_refused_with_both_versions_and_what_to_do() -> None:
    message = refusal(json.dumps(data() | {"schema_version": SCHEMA_VERSION + 6, "novel": [1]}))
    assert f"is of schema version {SCHEMA_VERSION + 6}" in message
    assert f"reads versions up to {SCHEMA_VERSION}" in message
    assert "pip install --upgrade weakspot" in message


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None, [1], 10**30])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    refusal(json.dumps(data() | {"schema_version": version}))


def test_a_version_that_is_missing_is_not_guessed() -> None:
    raw = data()
    del raw["schema_version"]
    assert "schema_version: Field required" in refusal(json.dumps(raw))


def test_migrations_run_one_after_the_other_and_the_version_follows() -> None:
    """Made-up versions: -1 called the testbed 'world', 0 called it 'bed'."""
    steps: list[int] = []

    def first(raw: dict[str, Any]) -> dict[str, Any]:
        steps.append(raw["schema_version"])
        return {("bed" if key == "world" else key): value for key, value in raw.items()}

    def second(raw: dict[str, Any]) -> dict[str, Any]:
        steps.append(raw["schema_version"])
        return {("testbed" if key == "bed" else key): value for key, value in raw.items()}

    table = {-1: first, 0: second}
    oldest = {("world" if key == "testbed" else key): value for key, value in (data() | {"schema_version": -1}).items()}
    text = upgraded(json.dumps(oldest), 1, table)
    assert Result.model_validate_json(text, strict=True) == make_result()
    assert steps == [-1, 0]
    newer = {("bed" if key == "testbed" else key): value for key, value in (data() | {"schema_version": 0}).items()}
    assert Result.model_validate_json(upgraded(json.dumps(newer), 1, table), strict=True) == make_result()
    assert steps == [-1, 0, 0]
    with pytest.raises(UserError, match="reads versions -1 to 1"):
        upgraded(json.dumps(oldest | {"schema_version": -2}), 1, table)


def test_a_migration_is_used_on_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field was dropped in version 2: a file of version 1 opens, one of version 2 does too."""
    monkeypatch.setattr("weakspot.opening.SCHEMA_VERSION", 2)
    monkeypatch.setattr("weakspot.opening.upgraded", lambda text, current: upgraded(text, current, {1: dropped}))

    def dropped(raw: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in raw.items() if key != "mood"}

    with pytest.raises(UserError, match=r"schema_version: Input should be 1"):  # today's records are those of version 1
        open_text(json.dumps(data() | {"mood": "good"}))


CHANGES: list[tuple[str, Any, str]] = [
    ("testbed", None, "testbed: Input should be a valid string"),
    ("subjects.1.weak_spot.confirmed.harm.mean", "0.9", "harm.mean: Input should be a valid number"),
    ("subjects.1.seed", 1.5, "subjects.1.seed: Input should be a valid integer"),
    ("subjects.1.verdict", "SAFE", "subjects.1.verdict: Input should be 'BROKEN', 'HELD' or 'INCONCLUSIVE'"),
    ("subjects.1.verdict", "HELD", "contradicts itself"),
    ("subjects.2.verdict", "BROKEN", "contradicts itself"),
    ("threat_model.harm_threshold", 0.99, "contradicts itself"),
    ("subjects.1.weak_spot.confirmed.harm.low", 0.95, "lies outside its interval"),
    ("subjects.1.trials.0.harm", 7.0, "is no share of the withheld answers"),
    ("subjects.1.trials.0.cost.flops", -1.0, "a cost below 0"),
    ("subjects.1.weak_spot.config.rank", float("nan"), "NaN is no number of JSON"),
    ("subjects.1.baseline.harm", float("inf"), "Infinity is no number of JSON"),
    ("novel", 1, "novel: Extra inputs are not permitted (written by weakspot 0.1.0, read by weakspot"),
    ("subjects.1.a\nb\x1b[2J", 1, "subjects.1.a b [2J: Extra inputs"),
    ("controls", [], "controls: "),
    ("provenance", None, "provenance: "),
]


@pytest.mark.parametrize(("place", "value", "words"), CHANGES, ids=[f"{p[:40]}={v!r}" for p, v, _ in CHANGES])
def test_a_file_changed_by_hand_is_refused_in_one_line(place: str, value: Any, words: str) -> None:
    raw = data()
    *above, last = place.split(".")
    inner: Any = raw
    for name in above:
        inner = inner[int(name)] if name.isdecimal() else inner[name]
    inner[last] = value
    assert words in refusal(json.dumps(raw))


@pytest.mark.parametrize(
    "text",
    ["", " ", "null", "[]", "{", '{"schema_version": 1', "[" * 100_000, '{"a":' * 100_000, "1e999", '"\\ud800"', "\ufeff{}",
     '{"schema_version": ' + "9" * 5000 + "}", '{"schema_version": 1, "testbed": "\\ud800"}', "\x00"],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_result_is_refused_in_one_line(text: str) -> None:
    refusal(text)


def test_cut_and_flipped_files_never_show_a_traceback() -> None:
    """Every cut, and flips of any byte: a result, or one line."""
    draw = random.Random("opening")
    whole = OLDEST.read_bytes()
    opened, told = 0, []
    for _ in range(300):
        content = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.3 else whole)
        for _ in range(draw.choice((0, 1, 1, 3)) if content else 0):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            open_text(content.decode("utf-8", errors="replace"), "f")
            opened += 1
        except UserError as error:
            told.append(str(error))
    assert not any("\n" in line for line in told)
    assert 0 < opened < 200, "flips inside names and digits may pass, cuts may not"


@pytest.mark.parametrize("command", READERS, ids=[c[0] for c in READERS])
@pytest.mark.parametrize("content", [b"", b'{"schema_version": 99}', b'{"schema_version": 1}', b"\xff\xfe", b"{"], ids=range(5))
def test_every_command_that_opens_a_result_refuses_in_one_line(
    command: list[str], content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_bytes(content)
    extra = [str(OLDEST)] if command == ["compare"] else []
    assert main([*command, str(tmp_path), *extra]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(tmp_path / "result.json") in err
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_an_audit_that_has_not_ended_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result at .*: give the folder"):
        read_result(tmp_path)
    (tmp_path / "study.journal").write_text("")
    with pytest.raises(UserError, match="--resume"):
        read_result(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_result("x" * 5000)


def test_results_of_audits_do_not_contradict_themselves() -> None:
    assert contradiction(make_result()) == ""
    near = make_finding(0.55)
    held = make_subject("refusal", "HELD", "x", weak_spot=near)
    assert contradiction(make_result([held])) == ""  # its interval reaches the threshold, and does not pass it
    useless = near.confirmed.model_copy(update={"utility": near.confirmed.utility.model_copy(update={"mean": 0.5, "low": 0.4})})
    strong = make_finding(0.9).model_copy(update={"confirmed": useless})
    assert contradiction(make_result([make_subject("refusal", "INCONCLUSIVE", "x", weak_spot=strong)])) == ""


def test_lone_surrogates_do_not_stop_a_result_from_being_written(tmp_path: Path) -> None:
    subject = make_subject("tar\udcff", reason="a \ud800 reason", config={"\udc80": ["\ud83d"]})
    text = make_result([subject], testbed="f\udcffable").to_json()
    again = open_text(text)
    assert again.testbed == "f�able"
    assert again.subjects[0].config == {"�": ["�"]}
    assert again.subjects[0].trials == subject.trials


def test_scores_stand_beside_the_seeds_they_were_made_on() -> None:
    assert {"scores", "per_seed"} <= set(Confirmed.model_fields)
