"""`weakspot estimate`: what it says of an audit, that it starts nothing, and what a mistake looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weakspot.cli.main import build_parser, main

LLAMA = {"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256,
         "num_attention_heads": 32, "num_key_value_heads": 8}  # fmt: skip
GPU = ["--gpu-memory", "80", "--tflops", "200"]


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty cache and an empty folder, and nothing in either at the end: an estimate prepares nothing."""
    monkeypatch.setenv("WEAKSPOT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert list((tmp_path / "here").iterdir()) == []
    assert not list((tmp_path / "cache").glob("*"))


def estimate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["estimate", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_jobs_are_those_of_an_audit(capsys: pytest.CaptureFixture[str]) -> None:
    audit = ["audit", "--attack", "lora", "--attack", "full_finetune", "--trials", "20", "--variations", "3"]
    found = estimate(capsys, *GPU, *audit)
    assert found["subjects"] == {
        "none": {"baseline": 2},
        "refusal": {"baseline": 2, "paper": 1, "control": 2, "search": 20, "confirm": 15, "twin": 2, "variation": 3},
        "tar": {"baseline": 2, "paper": 1, "search": 20, "confirm": 15, "twin": 2, "variation": 3},
        "never_taught": {"baseline": 2, "search": 16, "confirm": 15, "twin": 2, "variation": 3},
    }
    assert found["jobs"] == sum(sum(counts.values()) for counts in found["subjects"].values())
    alone = estimate(capsys, *GPU, *audit, "--no-control")
    assert set(alone["subjects"]) == {"none", "refusal", "tar"}
    assert "twin" not in alone["phases"]


def test_the_jobs_before_the_search_are_those_that_the_plan_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Against the plan itself, so that a phase that is added there is not forgotten here."""
    from weakspot.cli.audit_command import configured
    from weakspot.search.audit import identity, make_plan
    from weakspot.search.settings import make_settings
    from weakspot.search.specs import make_specs
    from weakspot.search.study import StudyFile
    from weakspot.testbeds import get

    found = estimate(capsys, *GPU, "audit", "--attack", "lora", "--trials", "2")
    place = get("fable")(0)
    settings = make_settings(place, ["lora"], 2, None, 0, 0.5, 0.9, twins=True)
    specs = make_specs(place, configured(build_parser().parse_args(["audit"])), True, 0)
    study = StudyFile(tmp_path / "study.journal", identity(place, specs, settings))
    plan = make_plan(study, specs, settings, place, [])
    for name, course in plan.subjects.items():
        wanted: dict[str, int] = {}
        for job in course.fixed:
            wanted[job.phase] = wanted.get(job.phase, 0) + 1
        if course.study is not None:
            wanted["search"] = course.trials
        told = {p: n for p, n in found["subjects"][name].items() if p not in ("confirm", "injection", "twin", "variation")}
        assert told == wanted


def test_more_trials_cost_more_and_the_price_follows(capsys: pytest.CaptureFixture[str]) -> None:
    price = ["--usd-per-gpu-hour", "2"]
    few = estimate(capsys, *GPU, *price, "audit", "--attack", "lora", "--trials", "10")
    many = estimate(capsys, *GPU, *price, "audit", "--attack", "lora", "--trials", "100")
    assert many["hours"] > few["hours"]
    assert few["usd"] == pytest.approx(2 * few["hours"])
    assert few["fit"] == "FITS"
    assert few["gpus_per_trial"] == pytest.approx(1 / few["trials_on_one"], abs=1e-4)


@pytest.mark.parametrize(
    ("attack", "gib", "fit"), [("lora", "600", "FITS"), ("full_finetune", "48", "NO"), ("prefill", "140", "TIGHT")]
)
def test_a_described_model_is_held_against_a_described_gpu(
    attack: str, gib: str, fit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA))
    found = estimate(capsys, "--model", str(file), "--gpu-memory", gib, "--tflops", "200", "audit", "--attack", attack)
    assert found["parameters"] == 8_030_261_248
    assert found["fit"] == fit
    if fit == "NO":
        assert found["trials_on_one"] == 0
        assert found["gpus_per_trial"] > 8_030_261_248 * 16 / ((48 - 8_030_261_248 * 4 / 1024**3) * 1024**3)
    else:
        assert found["trials_on_one"] >= 1


def test_what_is_not_known_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """No model here yet: jobs are known, and neither memory nor time. No speed: no time."""
    found = estimate(capsys, *GPU, "audit", "--testbed", "smollm2")
    assert (found["fit"], found["hours"], found["usd"]) == ("UNKNOWN", None, None)
    assert "not on this machine yet" in found["why_unknown"]
    assert found["jobs"] > 14
    assert main(["estimate", *GPU, "audit", "--testbed", "smollm2"]) == 0
    assert "memory   UNKNOWN: the base model of smollm2" in capsys.readouterr().out
    slow = estimate(capsys, "--gpu-memory", "80", "audit")
    assert slow["fit"] == "FITS"
    assert slow["hours"] is None


def test_the_page_names_jobs_memory_packing_time_and_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *GPU, "--usd-per-gpu-hour", "2", "audit", "--trials", "4"]) == 0
    out = capsys.readouterr().out
    for words in (
        "nothing was started",
        "jobs     ",
        "memory   FITS",
        "--gpus 0.0625",
        "GPU-hours",
        " USD",
        "without  training",
    ):
        assert words in out


def test_this_machine_is_measured_where_no_gpu_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "audit", "--attack", "lora", "--trials", "4")
    assert found["device"] == "cpu"
    assert found["fit"] == "FITS"
    assert found["speed"].startswith("measured on this machine, scaled to steps of 3 of 3 layers: ")
    assert found["hours"] > 0
    assert found["usd"] is None


BAD = [
    (["submit"], "only an audit can be estimated, not 'submit'"),
    ([], "the following arguments are required: audit ..."),
    (["audit", "--testbed", "nowhere"], "unknown testbed 'nowhere'"),
    (["audit", "--defense", "wishes"], "unknown defense 'wishes'"),
    (["audit", "--trials", "0"], "--trials 0 is below 1"),
    (["audit", "--workers", "0"], "--workers 0 is below 1"),
    (["audit", "--backend", "slurm"], "unknown backend 'slurm'"),
    (["audit", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["--gpu-memory", "0", "audit"], "--gpu-memory 0 is not positive"),
    (["--tflops", "nan", "audit"], "--tflops nan is not positive"),
    (["--usd-per-gpu-hour", "-1", "audit"], "--usd-per-gpu-hour -1 is not positive"),
    (["--usd-per-gpu-hour", "2", "audit"], "--usd-per-gpu-hour has no GPU to price"),
    (["--model", "no/such", "audit"], "no/such cannot be read as a model's configuration"),
    (["audit", "--defense", "tar-refusal"], "tar-refusal is a checkpoint of"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) or "nothing" for a, _ in BAD])
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_options_are_frozen() -> None:
    """A renamed or dropped option breaks somebody's script: this list only grows."""
    command = build_parser()._subparsers._group_actions[0].choices["estimate"]  # type: ignore[union-attr, index]
    options = {name for action in command._actions for name in action.option_strings}
    assert options == {"-h", "--help", "--gpu-memory", "--tflops", "--usd-per-gpu-hour", "--model", "--json"}
