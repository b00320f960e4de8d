"""Nodes that die, freeze, are cut off or join, and a driver that is killed, in mid-search: the same trials are found.

Each test compares with an audit of the same seed that ran in one process: nothing lost, nothing doubled, no trial that failed
because its machine did. Worker nodes have a cache of their own, empty at first, so that what they need must travel.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.machines import AUDIT, Cluster, Node, cluster, ended, lines, trials, until
from weakspot.records import parse_result

pytestmark = pytest.mark.slow  # a minute or more each, on machines of their own
WORKER = "ray::ResourceTrainable"  # Tune's wrapper of ours
AT_WORK = f"{WORKER}.train"  # what Ray calls a process while it is in a rung
DRIVER = "weakspot.cli.main audit"
SIX = [*AUDIT, "--trials", "6"]
Trials = dict[str, tuple[Any, ...]]


def detach(place: Cluster, wheel: Path, name: str, *audit: str) -> Path:
    """Submit, without following. Returns the folder of the results."""
    run = place.submit(wheel, name, *audit, options=["--detach"])
    assert run.returncode == 0, run.stdout + run.stderr
    return place.storage / name


def searched(folder: Path) -> list[str]:
    return [job for job in ended(folder) if job.split("/")[1].isdigit()]


def freeze_in_mid_trial(node: Node, folder: Path) -> None:
    """Stop the node's worker within a rung of a search trial."""

    def caught() -> bool:
        if not searched(folder) or not node.named(AT_WORK):
            return False
        node.send(signal.SIGSTOP, WORKER)
        if node.named(AT_WORK):
            return True
        node.send(signal.SIGCONT, WORKER)  # it had just finished
        return False

    until(caught, 400, "a trial at work on the worker node")


def check_end(place: Cluster, name: str, folder: Path, expected: Trials) -> None:
    """It ends as the gate says, with the trials of the undisturbed audit, each once."""
    run = place.weakspot("logs", "--follow", name)
    assert run.returncode == 3, run.stdout + run.stderr
    assert trials(folder) == expected
    jobs = ended(folder)
    assert len(jobs) == len(set(jobs)), "a job has ended twice"
    assert parse_result((folder / "result.json").read_text()).subjects[1].verdict == "BROKEN"


def lost(folder: Path) -> list[str]:
    return [" ".join(words[1:]) for words in lines(folder) if words[0] == "lost:"]


@pytest.mark.parametrize("end", ["killed", "frozen"])
def test_a_worker_node_that_is_lost_costs_no_trial(end: str, here: Cluster, wheel: Path, undisturbed: Trials) -> None:
    node = here.worker(cpus=1)
    folder = detach(here, wheel, end, *SIX)
    freeze_in_mid_trial(node, folder)
    node.send(signal.SIGKILL if end == "killed" else signal.SIGSTOP)
    check_end(here, end, folder, undisturbed)
    assert lost(folder), "no trial was under way on the node"
    node.end()


def test_a_node_that_joins_is_used(here: Cluster, wheel: Path, undisturbed: Trials) -> None:
    folder = detach(here, wheel, "joined", *SIX)
    until(lambda: searched(folder), 300, "the first trial")
    node = here.worker(cpus=1)
    until(lambda: node.named(AT_WORK), 300, "a trial on the node that joined")
    check_end(here, "joined", folder, undisturbed)
    assert not lost(folder)
    node.end()


def test_a_killed_driver_is_resumed_on_an_empty_disk(here: Cluster, wheel: Path, undisturbed: Trials) -> None:
    folder = detach(here, wheel, "resumed", *SIX)
    until(lambda: len(searched(folder)) >= 3, 300, "three trials in storage")
    here.nodes[0].send(signal.SIGKILL, DRIVER)
    run = here.weakspot("logs", "--follow", "resumed")
    assert run.returncode == 128 + 9, run.stdout + run.stderr
    assert "was killed (signal 9): go on with `weakspot submit --job resumed audit ... --resume`" in run.stdout
    assert not (folder / "result.json").exists()
    before = searched(folder)
    (scratch,) = here.folder.glob(f"t0/weakspot-{os.getuid()}/resumed")
    shutil.rmtree(scratch)

    run = here.submit(wheel, "resumed", *SIX, "--resume")
    assert run.returncode == 3, run.stdout + run.stderr
    assert "submitted resumed-2" in run.stderr
    assert searched(folder)[: len(before)] == before
    assert trials(folder) == undisturbed
    assert len(ended(folder)) == len(set(ended(folder)))


def test_two_submissions_at_once_do_not_mix(here: Cluster, wheel: Path, undisturbed: Trials) -> None:
    node = here.worker(cpus=1)
    first = detach(here, wheel, "first", *SIX, "--workers", "1")
    second = detach(here, wheel, "second", *SIX, "--workers", "1", "--seed", "5")
    until(lambda: ended(first) and ended(second), 400, "both to be under way")
    assert not (first / "result.json").exists(), "the first ended before the second began"
    check_end(here, "first", first, undisturbed)
    assert here.weakspot("logs", "--follow", "second").returncode == 3
    found = trials(second)
    assert len(found) == 6
    assert not {trial[1] for trial in found.values()} & {trial[1] for trial in undisturbed.values()}, "seeds of the other"
    result = parse_result((second / "result.json").read_text())
    assert result.provenance.seeds.root == 5
    node.end()


@pytest.fixture
def cable() -> Iterator[tuple[str, ...]]:
    """A network namespace with one virtual cable to this one, at 10.77.3.1 and 10.77.3.2."""
    name, setup = f"ws{os.getpid()}", [
        "ip netns add {0}", "ip link add {0}a type veth peer name {0}b", "ip link set {0}b netns {0}",
        "ip addr add 10.77.3.1/24 dev {0}a", "ip link set {0}a up", "ip netns exec {0} ip addr add 10.77.3.2/24 dev {0}b",
        "ip netns exec {0} ip link set {0}b up", "ip netns exec {0} ip link set lo up",
    ]  # fmt: skip
    if shutil.which("ip") is None or os.getuid() != 0:
        pytest.skip("no right to make a network namespace")
    try:
        for line in setup:
            run = subprocess.run(line.format(name).split(), capture_output=True, text=True)
            if run.returncode:
                pytest.skip(f"no network namespace: {run.stderr}")
        yield name, f"{name}a"
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_a_node_behind_a_cut_cable_costs_no_trial(cable: tuple[str, str], wheel: Path, undisturbed: Trials) -> None:
    """Both sides live on and hear nothing of each other, which no signal to a process can show."""
    namespace, end = cable
    with cluster(ip="10.77.3.1") as place:
        place.head(cpus=1)
        node = place.worker(cpus=1, prefix=("ip", "netns", "exec", namespace), ip="10.77.3.2")
        folder = detach(place, wheel, "cut", *SIX)
        freeze_in_mid_trial(node, folder)
        subprocess.run(["ip", "link", "set", end, "down"], check=True)
        node.send(signal.SIGCONT, WORKER)  # it goes on with its trial, and nobody hears what it finds
        assert all(p.status() != psutil.STATUS_STOPPED for p in node.family())
        check_end(place, "cut", folder, undisturbed)
        assert lost(folder)
