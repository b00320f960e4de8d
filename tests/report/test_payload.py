"""The numbers that the page draws: points belong to their trials, cells to their configurations, long searches are thinned."""

from __future__ import annotations

import json

from tests.report.builders import make_finding, make_result, make_subject, make_trial, make_trials
from tests.report.large import make_large
from weakspot.records import SearchRecord
from weakspot.report.embed import as_data
from weakspot.report.heat import heat_map
from weakspot.report.payload import cell_data, parallel_data, payload
from weakspot.report.scope import card_counts, left_out_table
from weakspot.report.sensitivity import Sensitivity
from weakspot.report.series import DRAWN, drawn_trials, feasible_harm, prominent_families

UNTOLD = Sensitivity(0, 0, None, (), "")


def drawn(result) -> dict:
    return json.loads(as_data(payload(result, heat_map(result), [UNTOLD] * len(result.subjects))))


def test_every_measurement_points_at_its_trial() -> None:
    subject = drawn(make_result([make_subject()]))["subjects"][0]
    points = list(zip(*(subject["points"][name] for name in ("trial", "harm", "utility", "feasible")), strict=True))
    assert [subject["trials"][n]["id"] for n, *_ in points] == [f"trial-00{n}" for n in (0, 0, 1, 1, 2, 2, 2, 4, 5)]
    assert points[6][1:] == (0.85, 0.97, 1)
    assert points[4][3] == 0  # below the floor
    assert [trial["best"] for trial in subject["trials"]] == [0.31, None, 0.85, None, 0.02, None]


def test_a_cell_carries_the_configuration_of_the_worst() -> None:
    result = make_result([make_subject(confirmed=[make_finding(0.9, rank=16), make_finding(0.7, steps=8, rank=4)])])
    cell = next(c for row in drawn(result)["cells"] for c in row if c["family"] == "lora")
    assert ["rank", "16"] in cell["config"]
    assert ["Worst confirmed harm", "0.90 [0.82, 0.97]"] in cell["facts"]
    assert cell["verdict"] == "Confirmed, and past the threshold."


def test_a_cell_that_was_only_searched_says_that_it_was_not_confirmed() -> None:
    heat = heat_map(make_result([make_subject(weak_spot=None, cheapest_break=None)]))
    told = cell_data("tar", next(row[0] for row in heat.rows if row[0].family == "full"))
    assert told["verdict"] == "Seen in the search only. There it passes the threshold."
    assert any(name == "Confirmed" and value.startswith("no") for name, value in told["facts"])
    assert not any("confirmed harm" in name for name, _ in told["facts"])


def test_long_searches_are_thinned_and_keep_their_worst() -> None:
    trials = next(s for s in make_large(trials=DRAWN + 300).subjects if s.defense == "tar").trials
    kept = drawn_trials(trials, 0.9)
    assert len(kept) == DRAWN
    assert [t.id for t in kept] == sorted(t.id for t in kept)
    worst = sorted(trials, key=lambda t: -(feasible_harm(t, 0.9) or 0))[: DRAWN // 4]
    assert {t.id for t in worst} <= {t.id for t in kept}
    assert drawn_trials(trials[:DRAWN], 0.9) == trials[:DRAWN]


def test_the_named_families_are_those_that_did_most_to_safeguards() -> None:
    control = make_subject("never_taught", trials=[make_trial(0, [(4, 1.0, 1.0)], attack="only_control")], weak_spot=None)
    trials = [make_trial(n, [(4, n / 10, 1.0)], attack=f"family_{n}") for n in range(8)]
    own = make_subject("tar", trials=trials, weak_spot=make_finding(attack="family_1"), cheapest_break=None)
    assert prominent_families(make_result([control, own])) == ["family_1", "family_7", "family_6", "family_5", "family_4"]


def test_parallel_axes_skip_what_a_family_does_not_have() -> None:
    trials = [make_trial(n, [(4, 0.1, 1.0)], attack=("lora", "full")[n % 2]) for n in range(8)]
    trials = [t.model_copy(update={"config": {"rate": n + 1, **({"rank": n} if n % 2 else {})}}) for n, t in enumerate(trials)]
    every, *single = parallel_data(trials, 0.9)
    rank = next(axis for axis in every["axes"] if axis["name"] == "rank")
    assert [place is None for place in rank["places"]] == [True, False] * 4
    assert [group["title"] for group in single] == ["lora", "full"]
    assert parallel_data(make_trials()[:3], 0.9) == []


def test_families_left_out_are_told_once_a_reason() -> None:
    search = SearchRecord(families=["lora", "full", "idle"], left_out={"merge": "no base", "strip": "no base", "noop": "x"})
    result = make_result([make_subject("tar"), make_subject("never_taught", trials=[])], search=search)
    rows = left_out_table(result).rows
    assert rows == (
        ("merge, strip", "no base"),
        ("noop", "x"),
        ("idle", "in reach, but the search spent no trial on them: tar"),
    )


def test_the_pitfall_card_is_summed_up_in_a_line() -> None:
    from tests.report.builders import make_card

    line = card_counts(make_subject(card=make_card()))
    assert line == "1 tested, 0 held, 0 absent, 1 not tested; harm moved most under P8, by -0.47"
