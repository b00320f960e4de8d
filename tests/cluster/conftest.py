"""What the tests of the cluster share: a wheel, a cluster with a head, and what an audit finds without any cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.machines import AUDIT, Cluster, cluster, trials
from weakspot.cli.main import main
from weakspot.cluster.wheel import build

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """The trials of an audit of six, in one process, without Ray."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert main(["audit", *AUDIT, "--trials", "6", "--backend", "inline", "--out", str(out)]) == 3
    return trials(out)


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    """A cluster with a head of one processor."""
    with cluster() as made:
        made.head(cpus=1)
        yield made
