"""A submitted audit that is watched: events for a program, the dashboard's address for a person, and W&B's files at home."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster.machines import AUDIT, Cluster, trials
from tests.cluster.watched import runs_of
from weakspot.events import parse_event

SPOKEN = tuple(word for word in AUDIT if word != "--quiet")


@pytest.mark.slow  # an audit of two trials on a cluster, a minute
def test_a_program_can_follow_a_submission_and_wandb_has_every_trial(here: Cluster, wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    home = tmp_path / "home"
    run = here.submit(wheel, "watched", *SPOKEN, "--trials", "2", "--json", "--wandb", "audits", "--out", str(home))
    assert run.returncode == 3, run.stdout + run.stderr
    events = [parse_event(line) for line in run.stdout.splitlines()]  # nothing else is on standard output
    assert (events[0].event, events[-1].event) == ("prepare", "done")
    assert "submitted watched" in run.stderr
    found, runs = trials(home), runs_of(home)
    assert len(found) == 2
    assert {*found, "summary"} <= set(runs)
    for name, (config, seed, status, _, harm, _) in found.items():
        assert {knob: runs[name].config[knob] for knob in config} == config
        assert runs[name].config["seed"] == seed
        assert runs[name].summary["status"] == status
        assert runs[name].summary["feasible_harm"] == pytest.approx(harm)


@pytest.mark.slow
def test_a_person_is_told_where_rays_dashboard_is(here: Cluster, wheel: Path) -> None:
    run = here.submit(wheel, "spoken", *SPOKEN, "--trials", "2")
    assert run.returncode == 3, run.stdout + run.stderr
    assert re.search(rf"Ray dashboard: http://\S+:{here.dashboard}\b", run.stdout)
    assert json.loads(here.weakspot("jobs", "--json").stdout)[0]["job"] == "spoken"
