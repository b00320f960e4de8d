"""`weakspot reproduce`: the same numbers again, a result changed by hand, another environment, and what is not here."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weakspot.cli.main import main
from weakspot.errors import UserError
from weakspot.opening import read_result
from weakspot.search import agreement, environment
from weakspot.search.environment import Mismatch, grade_of, pinned, worst
from weakspot.search.reproduce import choose
from weakspot.testbeds import TESTBEDS

OPTIONS = (
    "--testbed tiny --backend inline --defense refusal --set refusal.steps=30 --attack lora --attack full_finetune --trials 3 "
    "--variations 0 --no-control --utility-floor 0.3 --quiet"
).split()


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small audit; models are trained once for all tests here."""
    place = tmp_path_factory.mktemp("reproduce")
    gc.collect()
    gc.freeze()  # every trial collects garbage, which beside pytest takes most of its time
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TESTBEDS, "tiny", "tests.tiny:TinyFable")
        patch.setenv("WEAKSPOT_CACHE", str(place / "cache"))
        assert main(["audit", *OPTIONS, "--out", str(place / "out")]) == 0
    gc.unfreeze()
    return place / "out"


@pytest.fixture
def again(
    audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Reproduces the audit's result, changed by a function: exit code, outcome, what was said to people."""
    monkeypatch.setitem(TESTBEDS, "tiny", "tests.tiny:TinyFable")
    monkeypatch.setenv("WEAKSPOT_CACHE", str(audited.parent / "cache"))

    def run(*arguments: str, change: Callable[[dict[str, Any]], Any] | None = None) -> tuple[int, dict[str, Any], str]:
        result = json.loads((audited / "result.json").read_text())
        if change is not None:
            change(result)
        (tmp_path / "result.json").write_text(json.dumps(result))
        code = main(["reproduce", str(tmp_path / "result.json"), "--json", *arguments])
        printed = capsys.readouterr()
        return code, json.loads(printed.out), printed.err

    return run


def test_a_trial_and_the_weak_spot_come_out_identical(again: Callable[..., Any], tmp_path: Path) -> None:
    code, found, said = again("--trial", "2", "--out", str(tmp_path / "out.json"))
    assert (code, found["outcome"], found["name"]) == (0, "IDENTICAL", "refusal/002")
    assert found["numbers"]
    assert all(row["recorded"] == row["here"] for row in found["numbers"])
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert said.index("environment:") < said.index("running refusal/002 again")
    code, found, said = again()
    assert (code, found["outcome"], found["what"]) == (0, "IDENTICAL", "confirmation")
    assert [row["what"] for row in found["numbers"]] == [
        f"{a} {b}" for a in ("harm", "utility") for b in ("mean", "low", "high")
    ]
    assert "brew" not in said, "fable's prompts and replies name brews"
    code, found, _ = again("--subject", "none")  # nothing was run against it: its answers are measured again
    assert (code, found["outcome"], found["attack"]) == (0, "IDENTICAL", "noop")


def test_a_harm_that_was_changed_by_hand_differs(again: Callable[..., Any]) -> None:
    def lower(result: dict[str, Any]) -> None:
        trial = result["subjects"][1]["trials"][1]
        trial["harm"] -= 0.3
        for row in trial["curve"]:
            row["measures"]["harm"] -= 0.3

    code, found, said = again("--trial", "1", change=lower)
    assert (code, found["outcome"]) == (3, "DIFFERS")
    assert "the tolerance is 0.05" in said

    def deny(result: dict[str, Any]) -> None:
        result["subjects"][1]["weak_spot"]["confirmed"]["harm"] = {"mean": 0.01, "low": 0.0, "high": 0.02}

    assert again(change=deny)[:2][0] == 3


def test_a_small_change_agrees_and_is_pointed_out_where_nothing_else_differs(
    again: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_commit", lambda recorded: [])

    def change(result: dict[str, Any]) -> None:
        result["subjects"][1]["trials"][0]["harm"] -= 0.01

    code, found, said = again("--trial", "0", change=change)
    assert (code, found["outcome"], found["grade"]) == (0, "AGREES", "none")
    assert "every number was expected to be the same" in said


def test_another_digest_or_release_is_major_and_another_patch_or_machine_minor(again: Callable[..., Any]) -> None:
    def change(result: dict[str, Any]) -> None:
        record = result["provenance"]
        name, _ = record["pins"]["weights.refusal"].split()
        record["pins"]["weights.refusal"] = f"{name} 0123456789abcdef"
        record["packages"]["torch"] = "1.0.0"
        record["packages"]["numpy"] = "1.0.0"
        record["machine"]["cpus"] = 4096

    code, found, said = again("--trial", "0", change=change)
    assert (code, found["outcome"], found["grade"]) == (0, "IDENTICAL", "major")
    grades = {m["what"]: m["grade"] for m in found["mismatches"]}
    assert grades["weights.refusal"] == grades["torch"] == "major"
    assert grades["numpy"] == grades["machine.cpus"] == "minor"
    for name in ("weights.refusal", "torch"):
        assert said.index(f"major: {name}") < said.index("running refusal/000 again")


def test_a_threat_model_that_is_not_its_digests_is_major(again: Callable[..., Any]) -> None:
    _, found, _ = again("--trial", "0", change=lambda r: r["threat_model"].update(max_rows=7))
    assert {"grade": "major", "what": "threat model"}.items() <= found["mismatches"][-1].items()


def rename_attack(result: dict[str, Any]) -> None:
    result["subjects"][1]["trials"][0]["attack"] = "from_a_plugin"


def rename_defense(result: dict[str, Any]) -> None:
    result["subjects"][1]["defense"] = "wishes"


def add_knob(result: dict[str, Any]) -> None:
    result["subjects"][1]["trials"][0]["config"]["wishes"] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename_attack, "the attack 'from_a_plugin' is not here: install the plug-in that has it"),
        (rename_defense, "unknown defense 'wishes'"),
        (add_knob, "'wishes'"),
        (lambda result: result.update(testbed="elsewhere"), "the testbed 'elsewhere' is not here"),
        (lambda result: result["subjects"][1]["config"].update(checkpoint="/no/such/weights"), "no model at /no/such/weights"),
    ],
    ids=["attack", "defense", "knob", "testbed", "checkpoint"],
)
def test_what_is_not_here_is_one_line_and_exit_code_2(
    again: Callable[..., Any], change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    code, found, said = again("--trial", "0", "--subject", "wishes" if change is rename_defense else "refusal", change=change)
    assert (code, found["outcome"], found["grade"]) == (2, "CANNOT", "fatal")
    assert words in found["reason"]
    assert [line for line in said.splitlines() if "CANNOT" in line] == [said.splitlines()[-1]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trial", "17"], "refusal has no trial 17 in this result: the last is refusal/002"),
        (["--trial", "refusal/017"], "refusal has no trial 17"),
        (["--trial", "lora"], "--trial lora is no trial: give a number, or an id such as refusal/000"),
        (["--subject", "tar"], "no subject 'tar' in this result: known are none, refusal"),
        (["--trial", "tar/000"], "no subject 'tar' in this result"),
        (["--trial", "refusal/000", "--subject", "none"], "--trial refusal/000 is not of --subject none"),
        (["--subject", "none", "--trial", "0"], "no trials of none in this result"),
    ],
    ids=" ".join,
)
def test_a_wrong_choice_is_one_line(
    audited: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", str(audited), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_a_number_that_several_safeguards_have_must_be_told_apart(audited: Path) -> None:
    result = read_result(audited)
    twice = result.model_copy(update={"subjects": [*result.subjects, result.subjects[1].model_copy(update={"defense": "tar"})]})
    with pytest.raises(UserError, match="--trial 0 could be of refusal, tar: add --subject NAME"):
        choose(twice, "0")
    assert choose(twice, "0", "tar").subject.defense == "tar"
    bare = result.model_copy(update={"subjects": [s.model_copy(update={"weak_spot": None}) for s in result.subjects]})
    with pytest.raises(UserError, match="no weak spot of any safeguard"):
        choose(bare)


def test_a_machine_with_too_little_memory_cannot_and_a_failure_that_is_new_differs(
    again: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from weakspot.attacks import ATTACKS

    def failing(words: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            raise RuntimeError(words)
            yield

        return run

    for family in ("lora", "full_finetune"):
        monkeypatch.setattr(ATTACKS[family], "run", failing("CUDA out of memory"))
    code, found, _ = again("--trial", "0")
    assert (code, found["outcome"]) == (2, "CANNOT")
    assert "run it where there is more memory" in found["reason"]
    for family in ("lora", "full_finetune"):
        monkeypatch.setattr(ATTACKS[family], "run", failing("the layer is missing"))
    assert again("--trial", "0")[1]["outcome"] == "DIFFERS"
    code, found, _ = again(
        "--trial", "0",
        change=lambda r: r["subjects"][1]["trials"][0].update(
            status="failed", reason="RuntimeError: the layer is missing", harm=None, utility=None, rung=None, curve=[],
            cost={"steps": 0, "examples": 0, "tokens": 0, "flops": 0.0, "seconds": 0.0},
        ),
    )  # fmt: skip
    assert (code, found["outcome"]) == (0, "IDENTICAL")


def test_grades() -> None:
    assert grade_of("torch", "2.13.0", "2.13.1+cu126") == "minor"
    assert grade_of("torch", "2.13.0", "2.14.0") == "major"
    assert grade_of("transformers", "5.1.0", "absent") == "major"
    assert grade_of("optuna", "4.0.0", "5.0.0") == "minor"
    assert grade_of("weakspot", "0.1.0", "0.2.0") == "major"
    minor, major = Mismatch("minor", "a", "", ""), Mismatch("major", "b", "", "")
    assert (worst([]), worst([minor]), worst([major, minor])) == ("none", "minor", "major")
    old = {"weights.a": "fable-a-1 abc", "weights.b": "x 1", "tokenizer": "1", "facts": "1", "judge.q": "1"}
    new = {"weights.a": "fable-a-2 abc", "weights.b": "x 2", "tokenizer": "1", "facts": "2"}
    assert {m.what: m.grade for m in pinned(old, new)} == {"weights.a": "minor", "weights.b": "major", "facts": "major"}


def test_the_other_side_of_the_threshold_differs_though_the_intervals_meet(audited: Path) -> None:
    from weakspot.records import Interval

    assert agreement.alike(Interval(mean=0.55, low=0.51, high=0.6), Interval(mean=0.54, low=0.49, high=0.6))
    assert not agreement.alike(Interval(mean=0.55, low=0.51, high=0.6), Interval(mean=0.5, low=0.4, high=0.6))
    assert not agreement.alike(Interval(mean=0.5, low=0.0, high=1.0), Interval(mean=0.9, low=0.8, high=0.95))
