"""A whole audit whose trials take two GPUs each, on a cluster that only counts them: the processes compute on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.machines import AUDIT, Cluster, cluster, trials


@pytest.fixture
def two_gpus() -> Iterator[Cluster]:
    with cluster() as made:
        made.head(cpus=2, gpus=2)
        yield made


@pytest.mark.slow  # two processes a trial, on a cluster of its own
def test_an_audit_on_two_gpus_a_trial_reads_as_on_none(
    two_gpus: Cluster, wheel: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    run = two_gpus.submit(wheel, "spread", *AUDIT, "--trials", "2", "--gpus", "2")
    assert run.returncode == 3, run.stdout + run.stderr
    found = trials(two_gpus.storage / "spread")
    assert len(found) == 2
    for name, (*told, harm, utility) in found.items():
        *alone, harm_alone, utility_alone = undisturbed[name]
        assert told == alone
        assert (harm, utility) == pytest.approx((harm_alone, utility_alone), abs=0.02)  # two sums in another order
