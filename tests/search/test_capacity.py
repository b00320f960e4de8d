"""How many trials fit, node by node."""

from __future__ import annotations

from typing import Any

import pytest

from weakspot.errors import UserError
from weakspot.search import capacity
from weakspot.search.capacity import Capacity, fitting
from weakspot.search.ray_backend import RayBackend


@pytest.mark.parametrize(
    ("have", "bundle", "fits"),
    [
        ({"CPU": 4}, {"CPU": 1}, 4),
        ({"CPU": 5}, {"CPU": 2}, 2),
        ({"CPU": 1}, {"CPU": 2}, 0),
        ({"CPU": 8, "GPU": 2}, {"CPU": 1, "GPU": 0.5}, 4),
        ({"CPU": 8, "GPU": 2}, {"CPU": 1, "GPU": 0.6}, 2),  # a fraction lies within one GPU
        ({"CPU": 8, "GPU": 8}, {"CPU": 1, "GPU": 4}, 2),
        ({"CPU": 8}, {"CPU": 1, "GPU": 1}, 0),
        ({"CPU": 10, "GPU": 1}, {"CPU": 1, "GPU": 0.1}, 10),
    ],
)
def test_what_fits_on_a_node(have: dict[str, float], bundle: dict[str, float], fits: int) -> None:
    assert fitting(have, bundle) == fits


def test_halves_on_two_nodes_are_no_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "nodes", lambda: {"a": {"CPU": 1.0}, "b": {"CPU": 1.0}})
    assert Capacity({"CPU": 2.0}).places() == 0
    assert Capacity({"CPU": 1.0}).places() == 2
    assert Capacity({"CPU": 1.0}, most=1).places() == 1
    assert Capacity({"CPU": 1.0}, ranks=2).places() == 1, "ranks of one trial may lie on two nodes"
    assert Capacity({"CPU": 1.0}, ranks=3).places() == 0


def test_dead_nodes_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}},
        {"NodeID": "b", "Alive": False, "Resources": {"CPU": 64.0}},
    ]
    monkeypatch.setattr(capacity.ray, "nodes", lambda: nodes)
    assert Capacity({"CPU": 1.0}).places() == 2
    assert Capacity({"CPU": 1.0}).largest() == {"CPU": 2.0}
    assert Capacity({"CPU": 1.0}).alive() == {"a"}


def backend(bundle: dict[str, float], wait: float = 0.0, ranks: int = 1) -> Any:
    made = object.__new__(RayBackend)  # without a Ray
    made.bundle, made.wait, made.ranks, made.capacity = bundle, wait, ranks, Capacity(bundle, ranks=ranks)
    return made


def test_a_gpu_that_no_node_has_is_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "nodes", lambda: {"a": {"CPU": 4.0}, "b": {"CPU": 2.0}})
    with pytest.raises(UserError, match="a trial asks for 1 GPU and no node of the cluster has more than 0: ask for less, or"):
        backend({"CPU": 1.0, "GPU": 1.0}).check_resources()
    with pytest.raises(UserError, match="a trial asks for 6 CPU and no node of the cluster has more than 4"):
        backend({"CPU": 6.0}).check_resources()


def test_more_gpus_than_the_cluster_has_are_missed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "nodes", lambda: {"a": {"CPU": 4.0, "GPU": 1.0}, "b": {"CPU": 2.0, "GPU": 2.0}})
    backend({"CPU": 1.0, "GPU": 1.0}, ranks=3).check_resources()
    with pytest.raises(UserError, match="a trial asks for 4 times 1 CPU and 1 GPU and the cluster has less: lower --gpus"):
        backend({"CPU": 1.0, "GPU": 1.0}, ranks=4).check_resources()


def test_a_node_that_is_still_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    coming: list[dict[str, Any]] = [{}, {}, {"a": {"CPU": 1.0}}]
    monkeypatch.setattr(capacity, "nodes", lambda: coming.pop(0) if len(coming) > 1 else coming[0])
    monkeypatch.setattr(capacity, "FRESH", -1.0)
    monkeypatch.setattr("weakspot.search.ray_backend.time.sleep", lambda seconds: None)
    backend({"CPU": 1.0}, wait=60.0).check_resources()
    assert len(coming) == 1


def test_ray_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception where its processes take longer than thirty seconds, as on a machine that is busy."""
    import ray

    def late(**named: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because of much.\nMore.")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(UserError, match=r"^Ray did not start \(The current node timed out during startup\): .*inline") as told:
        RayBackend("fable", 0, 1, 1)
    assert "\n" not in str(told.value)
