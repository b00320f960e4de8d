"""What the knobs did: axes, lines and correlations of a search whose answer is known."""

from __future__ import annotations

import pytest

from tests.report.builders import make_result, make_subject, make_trial
from weakspot.records import Result, TrialRecord
from weakspot.report.parallel import axes_of, axis, correlation, dependences, plot_parallel, ranks, ratio


def trial(number: int, harm: float, **config: object) -> TrialRecord:
    return make_trial(number, [(8, harm, 1.0)]).model_copy(update={"config": config})


def result_of(trials: list[TrialRecord]) -> Result:
    return make_result([make_subject("tar", trials=trials)])


def test_an_axis_is_logarithmic_where_values_span_a_hundredfold() -> None:
    found = axis("rate", [1e-5, 1e-4, 1e-3])
    assert found is not None
    assert found.places == pytest.approx((0.0, 0.5, 1.0))
    found = axis("steps", [10, 20, 40])
    assert found is not None
    assert found.places == pytest.approx((0.0, 1 / 3, 1.0))
    assert found.ends == ("10", "40")
    words = axis("schedule", ["cosine", "constant", "cosine"])
    assert words is not None
    assert words.places == (1.0, 0.0, 1.0)
    assert axis("rank", [4, 4, 4]) is None


def test_a_knob_that_some_trials_lack_has_no_axis() -> None:
    found = axes_of([trial(0, 0.1, rank=4, extra=1), trial(1, 0.2, rank=8), trial(2, 0.3, rank=16)])
    assert [one.name for one in found] == ["rank"]


def test_harm_that_follows_a_knob_is_found_and_noise_is_not() -> None:
    noise = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    trials = [trial(n, 0.05 * n, rate=10.0**-n, batch=noise[n], schedule="cosine" if n > 4 else "constant") for n in range(10)]
    found = {one.knob: one for one in dependences(result_of(trials))}
    assert found["rate"].strength == pytest.approx(1.0)
    assert found["rate"].direction == -1
    assert found["schedule"].direction == 0
    assert 0.8 < found["schedule"].strength < 0.9  # two halves: root of 3/4 and a little more
    assert found["batch"].strength < 0.6
    assert dependences(result_of(trials))[0].knob == "rate"
    assert dependences(result_of(trials[:7])) == []


def test_ranks_correlation_and_ratio() -> None:
    assert ranks([30.0, 10.0, 10.0]) == [2.0, 0.5, 0.5]
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0.0
    assert ratio(["a", "a", "b", "b"], [0.0, 0.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert ratio(["a", "b", "a", "b"], [0.0, 0.0, 1.0, 1.0]) == pytest.approx(0.0)
    assert ratio(["a", "b"], [1.0, 1.0]) == 0.0


def test_a_panel_a_family_with_a_line_a_trial() -> None:
    trials = [trial(n, 0.1 * n, rank=4 + n, rate=1e-4 * (n + 1)) for n in range(4)]
    others = [make_trial(9, [(8, 0.3, 1.0)], attack="prune"), make_trial(10, [], "failed")]
    plot = plot_parallel(result_of([*trials, *others]))
    assert [panel.title for panel in plot.panels] == ["tar, lora: 4 trials"]  # one trial alone is no comparison
    for word in ("rank", "rate", "feasible harm"):
        assert word in plot.panels[0].svg
    assert plot == plot_parallel(result_of([*trials, *others]))
