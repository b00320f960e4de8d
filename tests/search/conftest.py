"""What the tests of the search share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def frozen_heap() -> Iterator[None]:
    """Every trial collects garbage; beside pytest, ray and hypothesis that would take most of a test's time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
