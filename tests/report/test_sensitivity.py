"""Which knob matters: the forest finds what was planted, says nothing of noise, and the same trials give the same ranking."""

from __future__ import annotations

import random

from tests.report.builders import make_trial
from weakspot.records import TrialRecord
from weakspot.report.sensitivity import FAMILY, LEAST, MOST, code, knob_columns, sensitivity


def planted(count: int, harm, seed: int = 0) -> list[TrialRecord]:
    """Trials of two families with four knobs; `harm` says what each gives."""
    rng = random.Random(seed)
    trials = []
    for number in range(count):
        attack = rng.choice(("lora", "full"))
        config = {"rate": 10 ** rng.uniform(-5, -2), "mix": rng.random(), "optimizer": rng.choice(("adamw", "sgd", "lion"))}
        config |= {"rank": rng.choice((4, 8, 16))} if attack == "lora" else {}
        made = make_trial(number, [(64, harm(attack, config, rng), 0.95)], attack=attack)
        trials.append(made.model_copy(update={"config": config}))
    return trials


def by_rate(attack: str, config: dict, rng: random.Random) -> float:
    return min(1.0, max(0.0, (config["rate"] / 1e-2) ** 0.4 + rng.uniform(-0.03, 0.03)))


def test_the_knob_that_decides_is_named_first() -> None:
    told = sensitivity(planted(80, by_rate), 0.9)
    assert told.knobs[0].name == "rate"
    assert told.knobs[0].mean > 5 * max(0.01, told.knobs[1].mean)
    assert told.explained is not None
    assert told.explained > 0.6


def test_words_and_families_can_decide_too() -> None:
    told = sensitivity(planted(80, lambda a, c, r: 0.9 if c["optimizer"] == "lion" else 0.1), 0.9)
    assert told.knobs[0].name == "optimizer"
    told = sensitivity(planted(80, lambda a, c, r: 0.9 if a == "lora" else 0.1), 0.9)
    assert told.knobs[0].name in (FAMILY, "rank")  # only lora has a rank: the two go together


def test_noise_gives_no_ranking() -> None:
    told = sensitivity(planted(60, lambda a, c, r: r.random()), 0.9)
    assert told.knobs == ()
    assert "too little to rank" in told.note


def test_too_few_trials_give_no_ranking_and_say_how_many_it_takes() -> None:
    told = sensitivity(planted(LEAST - 1, by_rate), 0.9)
    assert told.knobs == ()
    assert f"{LEAST - 1} configurations measured" in told.note
    assert str(LEAST) in told.note


def test_repeats_of_one_configuration_do_not_count_twice() -> None:
    trials = planted(LEAST - 1, by_rate)
    again = [trial.model_copy(update={"id": f"{trial.id}-again", "kind": "repeat"}) for trial in trials]
    assert sensitivity(trials + again, 0.9).trials == LEAST - 1


def test_harm_that_never_varies_gives_no_ranking() -> None:
    assert "did not vary" in sensitivity(planted(40, lambda a, c, r: 0.5), 0.9).note
    assert "did not vary" in sensitivity(planted(40, lambda a, c, r: 0.0), 0.9).note


def test_the_same_trials_give_the_same_numbers_and_long_searches_are_thinned() -> None:
    trials = planted(MOST + 40, by_rate)
    told = sensitivity(trials, 0.9)
    assert told == sensitivity(trials, 0.9)
    assert (told.trials, told.used) == (MOST + 40, MOST)


def test_what_a_family_does_not_have_lies_below_all_values() -> None:
    places, words = code([0.1, None, 1.0])
    assert (places[1], words) == (-1.0, False)
    assert min(places[0], places[2]) >= 0
    columns = knob_columns(planted(40, by_rate))
    assert None in columns["rank"]
    assert set(columns) == {FAMILY, "rate", "mix", "optimizer", "rank"}
