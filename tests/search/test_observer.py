"""Those who watch: what they leave out costs nothing, and where Ray's dashboard is they are told."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from weakspot.cli.live import make_display
from weakspot.search.observer import tell
from weakspot.search.ray_backend import dashboard_url


class Deaf:
    """An observer that leaves methods out."""


def test_an_observer_may_leave_methods_out(capsys: pytest.CaptureFixture[str]) -> None:
    watchers: Any = [Deaf()]
    tell(watchers, "on_dashboard", "http://127.0.0.1:8265")
    assert len(watchers) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("place", "url"),
    [("127.0.0.1:8265", "http://127.0.0.1:8265"), ("https://ray.example.org", "https://ray.example.org"), ("", ""), (None, "")],
)
def test_the_dashboard_is_linked_where_there_is_one(place: str | None, url: str) -> None:
    assert dashboard_url(SimpleNamespace(dashboard_url=place)) == url
    assert dashboard_url(SimpleNamespace()) == ""


def test_the_live_display_prints_the_dashboard() -> None:
    stream = io.StringIO()
    tell([make_display(stream)], "on_dashboard", "http://10.0.0.7:8265")  # type: ignore[list-item]
    assert stream.getvalue() == "Ray dashboard: http://10.0.0.7:8265\n"
