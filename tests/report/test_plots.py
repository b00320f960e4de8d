"""The drawings: well-formed, alike for alike input, readable without seeing them, and without text that is not ours."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from xml.etree import ElementTree

import pytest

from tests.report.builders import HOSTILE, make_result, make_subject, make_trial
from weakspot.report.drawing import MARKERS, look
from weakspot.report.plots import Plot, describe, make_plots, plot_cost, plot_search, plot_utility

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plots() -> list[Plot]:
    return make_plots(make_result())


def drawings(plots: list[Plot]) -> list[str]:
    return [panel.svg for plot in plots for panel in plot.panels] + [entry.svg for plot in plots for entry in plot.legend]


def drawn_dots(svg: str) -> int:
    return len(ElementTree.fromstring(svg).findall(f".//{SVG}use"))


def test_there_is_a_panel_for_each_subject_and_one_for_the_search(plots: list[Plot]) -> None:
    names = ["undefended", "tar", "refusal", "random_answer"]
    assert [plot.name for plot in plots] == ["cost", "utility", "search"]
    assert [panel.title for panel in plots[0].panels] == names
    assert [panel.title for panel in plots[1].panels] == names
    assert len(plots[2].panels) == 1
    assert [entry.label for entry in plots[2].legend] == names


def test_drawings_are_well_formed_and_share_no_id(plots: list[Plot]) -> None:
    ids: Counter[str] = Counter()
    for svg in drawings(plots):
        elements = list(ElementTree.fromstring(svg).iter())
        own = [element.attrib["id"] for element in elements if "id" in element.attrib]
        used = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
        assert set(used) <= set(own)
        ids.update(own)
    assert [name for name, count in ids.items() if count > 1] == []


def test_every_panel_has_a_title_and_a_description_for_those_who_do_not_see_it(plots: list[Plot]) -> None:
    for plot in plots:
        for panel in plot.panels:
            root = ElementTree.fromstring(panel.svg)
            texts = {element.attrib["id"]: element.text for element in root if "id" in element.attrib and element.text}
            assert root.attrib["role"] == "img"
            assert all(texts[name].strip() for name in root.attrib["aria-labelledby"].split())


def test_the_description_tells_what_the_panel_shows() -> None:
    text = describe("tar", make_subject(), 0.9)
    assert "tar, BROKEN: 9 measurements, 5 feasible." in text
    assert "weak spot, in search: harm 0.85" in text
    assert "weak spot, confirmed (95 % interval): harm 0.78, utility 0.96, cost 128 GFLOP." in text


def test_every_measurement_is_a_dot() -> None:
    def dots(trials) -> int:
        subject = make_subject(verdict="INCONCLUSIVE", trials=trials, baseline=None, paper_attack=None)
        return drawn_dots(plot_utility(make_result([subject])).panels[0].svg)

    ticks = dots([make_trial(0, [(4, 0.1, 1.0)])]) - 1
    many = [make_trial(0, [(4, 0.1, 0.2), (8, 0.3, 1.0)]), make_trial(1, [(4, 0.5, 0.9)], attack="full")]
    assert dots(many) - ticks == 3


def test_the_same_result_gives_the_same_bytes_whatever_the_user_has_configured() -> None:
    import matplotlib

    expected = make_plots(make_result())
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9, "axes.grid": True}):
        assert make_plots(make_result()) == expected
        assert matplotlib.rcParams["font.size"] == 30  # and the user's settings are left as they were


def test_colours_follow_the_page_and_text_stays_text(plots: list[Plot]) -> None:
    for svg in drawings(plots):
        bare = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)", "", svg)
        assert re.findall(r"(?:fill|stroke): (#\w+)", bare) == []
    assert "attacker's cost in FLOP</text>" in plots[0].panels[0].svg


def test_untrusted_names_enter_a_drawing_escaped_only() -> None:
    subject = make_subject(HOSTILE + "\x00", trials=[make_trial(0, [(4, 0.1, 1.0)], attack="$\\frac{$ 攻撃\x00")])
    for svg in drawings(make_plots(make_result([subject]))):
        assert "<script" not in svg
        ElementTree.fromstring(svg)


def test_families_differ_in_marker_and_colour() -> None:
    looks = [look(index) for index in range(66)]
    assert len({(style.colour, style.marker) for style in looks}) == 66
    assert len({look(index).marker for index in range(len(MARKERS))}) == len(MARKERS)
    assert not {"*", "D"} & set(MARKERS)  # kept for the weak spot and the cheapest break


@pytest.mark.parametrize("plot", [plot_cost, plot_utility, plot_search])
def test_nothing_to_draw_is_no_error(plot) -> None:
    bare = make_subject(verdict="INCONCLUSIVE", trials=[], baseline=None, paper_attack=None)
    assert plot(make_result([bare])).panels
    plot(make_result([]))


def test_a_subject_without_trials_says_so(plots: list[Plot]) -> None:
    assert "no trials were measured" in plots[0].panels[3].svg
    assert "no trials were measured" not in plots[0].panels[1].svg


def test_a_free_attack_has_a_place_on_the_cost_axis() -> None:
    free = make_trial(0, [(0, 0.4, 1.0)], attack="noop")
    subject = make_subject(verdict="INCONCLUSIVE", trials=[free], baseline=None, paper_attack=None)
    svg = plot_cost(make_result([subject])).panels[0].svg
    assert "nan" not in svg.lower()
    assert drawn_dots(svg) > drawn_dots(plot_cost(make_result([subject.model_copy(update={"trials": []})])).panels[0].svg)


def test_matplotlib_waits_until_something_is_drawn() -> None:
    code = "import sys, weakspot.report.write; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
