"""A file's mistakes: all of them, each with its line and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.testbeds.hub.tiny_models import TOML, make_testbed
from weakspot import testbeds
from weakspot.errors import UserError
from weakspot.testbeds.hub import presets
from weakspot.testbeds.hub.spec import Spec, read_spec


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spec")
    make_testbed(folder)
    return folder


def mistakes(place: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        read_spec(text, place / "mine.toml")
    return str(caught.value)


def line(text: str, part: str) -> int:
    return next(n for n, row in enumerate(text.splitlines(), 1) if part in row)


def test_a_right_file_is_read(place: Path) -> None:
    spec = read_spec(TOML, place / "mine.toml")
    assert isinstance(spec, Spec)
    assert spec.data["withheld"][0].columns.answer_index == "right"
    assert spec.budget.rungs == [2, 4]


def test_every_mistake_is_told_at_once_with_its_line(place: Path) -> None:
    text = """
mesure = "choice"
policy = "secrecy"

[model]
path = "nowhere"
compute = 16

[budget]
rungs = [8, "many"]
trails = 3

[data.withheld]
path = "loaves.jsonl"
columns = { prompt = "questoin", respones = "reply" }

[data.attack]
path = "loaves.jsonl"
columns = { prompt = "question", response = "answer", choices = "options" }

[[data.benign]]
path = "gone.jsonl"
columns = { prompt = "question", response = "reply" }
[[data.benign]]
columns = { prompt = "question", response = "reply" }
shares = { benign_train = 0.9, attack = 0.9 }
"""
    told = mistakes(place, text)
    expected = [
        (2, "unknown key 'mesure': did you mean 'measure'?"),
        (3, "[policy] is 'secrecy'"),
        (7, "[model.compute] is 16"),
        (10, "[budget.rungs] is 'many'"),
        (11, "[budget] has an unknown key 'trails': did you mean 'trials'?"),
        (15, "[data.withheld.columns] has an unknown key 'respones': did you mean 'response'?"),
        (15, "loaves.jsonl has no column 'questoin'"),
        (17, "attack is given by [data.withheld] and by [data.attack]: give it once"),
        (19, "[data.attack] needs `choices` and `answer_index` together"),
        (19, "no column 'answer': it has question, reply, thing, options, right"),
        (22, "no file"),
        (26, "[data.benign] shares out 'attack': expected benign_train, benign_search_eval, benign_report_eval"),
        (24, "[data.benign] needs a file (path) or a hub data set (dataset), one of them"),
    ]
    for number, words in expected:
        assert re.search(rf"line {number}: [^;]*{re.escape(words)}", told), (number, words, told)
    numbers = [int(n) for n in re.findall(r"line (\d+):", told)]
    assert numbers == sorted(numbers)
    assert len(numbers) >= len(expected)


def test_a_wrong_type_hides_no_other_mistake_and_makes_none_up(place: Path) -> None:
    """The rest of its table is checked all the same; but a path that is no text is not also a path that is not there."""
    text = TOML.replace('path = "loaves.jsonl"', 'limit = "all"\npath = "loaves.jsonl"').replace('"options"', '"optoins"', 1)
    text = text.replace('path = "model"', "path = 3").replace(
        '["letter-chat", "cloze-plain"]', '["letter-talk", "cloze-plain"]'
    )
    text = text.replace("[choice]", "[choice]\nintro = 7").replace("rungs = [2, 4]", 'rungs = [2, "four"]')
    told = mistakes(place, text)
    expected = {
        "[model.path] is 3": "path = 3",
        "[budget.rungs] is 'four'": "rungs =",
        "[choice.intro] is 7": "intro = 7",
        "unknown variant 'letter-talk'": "variants =",
        "[data.withheld.limit] is 'all'": "limit =",
        "no column 'optoins'": "columns =",
    }
    assert f"has {len(expected)} mistakes" in told
    for words, part in expected.items():
        assert re.search(rf"line {line(text, part)}: [^;]*{re.escape(words)}", told), (words, told)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('path = "model"', 'path = "model"\ntrust_remote_code = true', "trust_remote_code is refused"),
        ('path = "model"', 'path = "model"\nid = "a/b"', "a folder (path) or a hub id (id), one of them"),
        ('path = "model"', 'id = "a/b"\nrevision = "main"',
         "revision 'main' is no commit: give the 40 hexadecimal digits that `git ls-remote https://huggingface.co/a/b main`"),
        ('path = "model"', 'id = "a/b"', "no revision: give the 40 hexadecimal digits that"),
        ('path = "model"', 'path = "model"\nrevision = "main"', "which has no revision"),
        ('measure = "choice"\n', 'measure = "judge"\n', "does not fit policy 'knowledge': expected choice, match or"),
        ("[choice]", '[judges]\nsearch = "keywords"\nreport = "strongreject"\n[choice]', "[judges] has no use"),
        ('"letter-chat"', '"letter-talk"', "unknown variant 'letter-talk'"),
        ('measure = "likelihood"', 'measure = "harness"', "names no tasks"),
        ('measure = "likelihood"', 'measure = "likelihood"\ntasks = ["mmlu"]', "has tasks"),
        ("[data.withheld]", "[data.witheld]", "did you mean 'withheld'?"),
        ("[data.benign]", "[data.benign_train]", "no data for benign_search_eval, benign_report_eval"),
        (', choices = "options", answer_index = "right" }\n\n', " }\n\n", "maps no column to `choices` and `answer_index`"),
        ('response = "reply", item = "thing", choices = "options", answer_index = "right" }\n\n', 'item = "thing" }\n\n',
         "maps no column to `response` (or `choices`), which is trained on"),
        ('path = "loaves.jsonl"', 'path = "loaves.jsonl"\nshares = { defend = 0.9, attack = 0.9 }', "shares out 1.8 of itself"),
        ('path = "loaves.jsonl"', 'dataset = "a/b"\nrevision = "main"\nfiles = "*"',
         "`git ls-remote https://huggingface.co/datasets/a/b main` prints"),
        ('path = "loaves.jsonl"', 'path = "model/config.json.txt"', "no file"),
        ('policy = "knowledge"', 'policy = "knowledge"\npreset = "wmdp-boi"', "did you mean 'wmdp-bio'?"),
        ('policy = "knowledge"', "policy = knowledge", "is no TOML"),
    ],
)  # fmt: skip
def test_a_single_mistake_is_one_line(place: Path, old: str, new: str, words: str) -> None:
    assert old in TOML
    told = mistakes(place, TOML.replace(old, new, 1))
    assert words in told
    assert "mine.toml" in told


REFUSING = TOML.replace('"knowledge"', '"refusal"').replace('"choice"', '"judge"', 1)


@pytest.mark.parametrize(
    ("judges", "words"),
    [
        ("", "no [judges]"),
        ('search = "keywords"\nreport = "oracle"', "unknown judge 'oracle'"),
        ('search = "beaver-dam"\nreport = "beavertails-qa"', "both judges are of the family beavertails"),
        ('search = "strongreject"\nreport = "keywords"', "may not stand in a report alone"),
        ('search = "rubric"\nreport = "strongreject"', "give search_weights"),
        ('search = "keywords"\nreport = "strongreject"\nsearch_weights = "x"', "reads no weights"),
    ],
)
def test_judges_that_do_not_fit(place: Path, judges: str, words: str) -> None:
    text = REFUSING + (f"\n[judges]\n{judges}\n" if judges else "")
    told = mistakes(place, text)
    assert words in told
    first = line(text, "[judges]") if judges else 0
    assert any(f"line {first + n}:" in told for n in (1, 2, 3))


LOCAL = """
preset = "{name}"
[model]
path = "model"
"""


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_lacks_no_more_than_it_says(place: Path, name: str) -> None:
    """With a model, local files in place of what is to be fetched, and revisions, it is a right file."""
    content, text = presets.read(name), LOCAL.format(name=name)
    for split, source in content["data"].items():
        text += (
            f'[data.{split}]\nrevision = "{"0" * 40}"\n' if "dataset" in source else f'[data.{split}]\npath = "{split}.csv"\n'
        )
        if "dataset" not in source:
            header = ",".join([*source["columns"].values(), *source.get("where", {})])
            (place / f"{split}.csv").write_text(f"{header}\n" + ",".join("abc"[: header.count(",") + 1]) + "\n")
    spec = read_spec(text, place / "mine.toml")
    assert spec.head.remark
    assert "arXiv:" in spec.head.paper


def test_a_preset_tells_what_is_to_be_fetched(place: Path) -> None:
    told = mistakes(place, LOCAL.format(name="harmbench"))
    assert "fetch it from https://github.com/centerforaisafety/HarmBench" in told
    assert "no revision" in mistakes(place, LOCAL.format(name="tofu"))


def test_a_preset_is_no_testbed() -> None:
    with pytest.raises(UserError, match=re.escape("tofu is a preset, which lacks a model: write a TOML file")):
        testbeds.get("tofu")
    assert len(presets.entries()) == 7


def test_the_digest_is_of_what_can_change_a_score(place: Path) -> None:
    file = place / "mine.toml"
    spec = read_spec(TOML, file)
    assert read_spec(TOML.replace("trials = 2", "trials = 200") + "# later", file).digest() == spec.digest()
    assert read_spec(TOML.replace('"letter-chat", ', ""), file).digest() != spec.digest()


def test_the_documents_example_is_a_right_file(place: Path) -> None:
    text = Path(__file__).parents[3].joinpath("docs/hub.md").read_text()
    example, judges = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert read_spec(example, place / "mine.toml").head.measure == "choice"
    refusing = example.replace('"knowledge"', '"refusal"').replace('measure = "choice"', 'measure = "judge"')
    assert read_spec(refusing + judges, place / "mine.toml").judges
    for name in presets.names():
        assert f"`{name}`" in text
