"""The tree-shaped space: cut to the threat model, and always configurable."""

from __future__ import annotations

import pickle
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakspot import attacks
from weakspot.attacks import ATTACKS
from weakspot.errors import UserError
from weakspot.knobs import Choice, IntRange, LogIntRange, LogRange, Range, configure, space_of
from weakspot.search.admission import fits
from weakspot.search.space import build_space, defaults, narrow, pull_in
from weakspot.threat import ThreatModel

SEARCHED = sorted(name for name, family in ATTACKS.items() if space_of(family) and not family.service)


def sampled(seed: int, names: list[str], threat: ThreatModel) -> tuple[str, dict[str, Any], optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    family, config = build_space(names, threat).suggest(trial)
    return family, config, trial


@given(st.integers(0, 10**6), st.integers(4, 5000), st.integers(4, 5000))
def test_what_is_suggested_configures_within_the_threat_model(seed: int, steps: int, examples: int) -> None:
    threat = ThreatModel(max_steps=steps, max_examples=examples)
    names = [name for name in SEARCHED if fits(name, threat)]
    family, config, trial = sampled(seed, names, threat)
    space = build_space(names, threat).families[family]
    assert set(config) == set(space)
    assert all(config[knob] in domain for knob, domain in space.items())
    assert config.get("steps", 0) <= steps
    assert config.get("harmful_examples", 0) <= examples
    assert set(trial.params) == {"attack", *(f"{family}.{knob}" for knob in config)}
    configure(attacks.get(family), config)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_fixed_trial_gives_its_own_values_back(name: str) -> None:
    space = build_space(SEARCHED, ThreatModel())
    config = {knob: pull_in(value, space.families[name][knob]) for knob, value in defaults(name).items()}
    trial = optuna.trial.FixedTrial(space.as_parameters(name, config))
    assert space.suggest(trial) == (name, config)


def test_one_family_needs_no_choice() -> None:
    family, _, trial = sampled(0, ["lora"], ThreatModel())
    assert family == "lora"
    assert "attack" not in trial.params
    assert "attack" not in build_space(["lora"], ThreatModel()).as_parameters("lora", {"rank": 4})


@pytest.mark.parametrize(
    ("knob", "domain", "cut"),
    [
        ("steps", LogIntRange(4, 4096), LogIntRange(4, 100)),
        ("steps", LogIntRange(4, 50), LogIntRange(4, 50)),
        ("steps", IntRange(100, 300), IntRange(100, 100)),
        ("harmful_examples", LogIntRange(4, 4096), LogIntRange(4, 7)),
        ("batch_size", LogIntRange(4, 4096), LogIntRange(4, 4096)),
        ("steps", Choice((1, 2)), Choice((1, 2))),
    ],
    ids=str,
)
def test_narrowing(knob: str, domain: Any, cut: Any) -> None:
    assert narrow(knob, domain, ThreatModel(max_steps=100, max_examples=7)) == cut


@given(st.integers(-100, 100), st.integers(-50, 0), st.integers(0, 50))
def test_pulled_in_is_the_nearest_inside(value: int, low: int, high: int) -> None:
    inside = pull_in(value, IntRange(low, high))
    assert inside in IntRange(low, high)
    assert abs(inside - value) == min(abs(x - value) for x in range(low, high + 1))


def test_pulling_in_keeps_the_type_and_leaves_choices() -> None:
    assert pull_in(5.0, Range(0.0, 1.0)) == 1.0
    assert type(pull_in(192, LogIntRange(4, 48))) is int
    assert pull_in(1e-9, LogRange(1e-6, 1.0)) == 1e-6
    assert pull_in("x", Choice(("x", "y"))) == "x"


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(UserError, match="noop has no knobs"):
        build_space(["noop"], ThreatModel())
    with pytest.raises(UserError, match="no attack has no knobs"):
        build_space([], ThreatModel())
    with pytest.raises(UserError, match=r"max_steps = 3 is below the least steps of an attack, 4"):
        build_space(["lora"], ThreatModel(max_steps=3))
    with pytest.raises(UserError, match="unknown attack"):
        build_space(["lora", "sorcery"], ThreatModel())


def test_a_space_pickles_and_describes_itself() -> None:
    space = build_space(SEARCHED, ThreatModel(max_steps=64))
    assert pickle.loads(pickle.dumps(space)) == space
    text = space.describe()
    assert list(text) == SEARCHED
    assert text["lora"]["steps"] == "4..64 log int"
    assert build_space(SEARCHED, ThreatModel(max_steps=65)).describe() != text
    assert defaults("lora")["rank"] == 16
