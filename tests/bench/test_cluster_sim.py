"""The simulated cluster: the real driver carries every trial to its end, whatever the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import cluster_page
from bench.cluster_page import ramp, render, replayed
from bench.cluster_sim import simulate
from bench.fake_cluster import Cluster, Future


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return simulate(4, 2, 60, 1.0)


def test_every_trial_ends_once(found: dict[str, Any]) -> None:
    assert found["trials"] == 60
    assert found["jobs"] > 60, "baselines, controls and confirmations run beside the search"
    assert found["most_endings_of_a_job"] == 1
    assert found["runs_again"] == 0 or found["nodes_lost"] > 0


def test_workers_are_never_busier_than_there_are_workers(found: dict[str, Any]) -> None:
    assert found["slots"] == 8
    assert 0 < found["utilisation"] <= 1
    assert 0 < found["utilisation_of_all"] <= 1
    assert 0 < found["marks"][-1]["trials"] <= 60


def test_the_page_holds_the_table(found: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{cluster_page.BEGIN}old\n{cluster_page.END}after\n{cluster_page.END}")
    monkeypatch.setattr(cluster_page, "PAGE", page)
    render(found)
    text = page.read_text()
    assert text.startswith("before\n<!-- bench.cluster_sim -->\n| after so many trials | ")
    assert text.endswith("<!-- end -->\nafter\n<!-- end -->\n"), "what stands behind is left as it is"
    assert "old" not in text


def test_ramp_up_ends_when_nearly_all_workers_compute() -> None:
    began = np.array([float(i) for i in range(20)])
    assert ramp(began, np.full(20, 100.0)) == 18.0


@pytest.mark.parametrize(("cost", "low", "high"), [(1e-6, 0.99, 1.0), (1.0, 0.9, 1.0), (10.0, 0.09, 0.11)])
def test_a_slow_driver_leaves_workers_idle(cost: float, low: float, high: float) -> None:
    """Ten workers with rungs of ten seconds: a driver that needs ten for each keeps one of them busy."""
    seconds = replayed(1.0, np.full(10, 10.0), 0, np.full(10, cost), 10)
    assert low <= seconds <= high


def test_a_lost_node_takes_what_its_workers_were_at() -> None:
    class World:
        def begin(self, config: Any) -> Any:
            yield from [(10.0, "first"), (10.0, "second")]

    cluster = Cluster(1, 1, World(), every=1e9)
    cluster.request_resources(None)
    worker = cluster.acquire_resources(None).remote({})
    answer: Future = worker.train.remote()
    [ready], _ = cluster.wait([answer])
    assert cluster.get(ready) == "first"
    lost = worker.train.remote()
    cluster.lose()
    [ready], _ = cluster.wait([lost])
    with pytest.raises(Exception, match="node has died"):
        cluster.get(ready)
    assert list(cluster.steps)[1::2] == [10.0, 0.0], "a rung that was lost does not count as work"
    assert not cluster.nodes()
