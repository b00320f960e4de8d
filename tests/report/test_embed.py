"""What a page carries: data that cannot end its element, downloads that come back whole, and what others wrote, unchanged."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weakspot.report import embed

ROOT = Path(__file__).resolve().parents[2]
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=40)  # surrogates too


@given(st.dictionaries(ANY_TEXT, ANY_TEXT))
def test_data_comes_back_and_cannot_end_its_element(value: dict[str, str]) -> None:
    text = embed.as_data(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_data_refuses_what_json_does_not_know() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        embed.as_data([float("nan")])


@given(st.text())
def test_downloads_come_back_byte_for_byte(text: str) -> None:
    assert gzip.decompress(base64.b64decode(embed.as_download(text))) == text.encode()
    assert embed.as_download(text) == embed.as_download(text)


def test_the_policy_changes_with_the_script() -> None:
    assert embed.policy("a") != embed.policy("b")
    assert base64.b64encode(hashlib.sha256(b"a").digest()).decode() in embed.policy("a")


@pytest.mark.parametrize("folder", ["report/vendor", "tests/report/vendor"])
def test_vendored_files_have_the_digests_that_are_written_beside_them(folder: str) -> None:
    rows = re.findall(r"^\| `([\w.-]+)` .*`([0-9a-f]{64})` \|$", (ROOT / folder / "README.md").read_text(), re.MULTILINE)
    scripts = sorted(file.name for file in (ROOT / folder).glob("*.js"))
    assert [name for name, _ in rows] == scripts
    for name, digest in rows:
        assert hashlib.sha256((ROOT / folder / name).read_bytes()).hexdigest() == digest
    assert list((ROOT / folder).glob("*LICENSE*"))


def test_vendored_scripts_travel_in_a_page_as_they_are() -> None:
    script = embed.packaged("vendor/plotly-basic.min.js")
    assert "</script" not in script.lower()
    assert "<!--" not in script
    assert "\r" not in script
