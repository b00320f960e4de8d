"""What the driver of an audit costs on a large cluster: Ray Tune's own loop and all of ours, on 64 nodes that are not there.

    python -m bench.cluster_sim              # 64 nodes x 8 GPUs, 20,000 trials: half an hour; writes into docs/cluster.md
    python -m bench.cluster_sim --nodes 4 --gpus 2 --trials 60
    python -m bench.cluster_sim --scale 0.1  # a trial takes a minute instead of ten

512 worker processes fit no small machine. So the real driver (search/ray_backend.py with Tune's controller and actor manager,
the default searcher and scheduler, a stored study, the log) runs on a cluster with a virtual clock (bench/fake_cluster.py).
What trials measure, how long their rungs take and how many fail is drawn from recorded trials (bench/trials), stretched so that
a whole trial takes MEAN seconds on average: that of a fine-tuning of some billion parameters. Nodes are lost now and then.

The clock passes while workers compute and while the driver does. What Ray itself takes for waiting on so many futures, taking
an answer and calling a worker is measured on a real Ray first and charged at every event, as is a disk's time for every fsync.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.cluster_page import figures, render
from bench.driver_cost import EVERY, Ledger, transport, watched
from bench.fake_cluster import Cluster
from bench.machine import print_header
from weakspot.files import write_text

TRIALS_FOLDER = Path(__file__).parent / "trials"
RESULTS = Path(__file__).parent / "results" / "cluster_sim.json"
MEAN = 600.0  # seconds of a whole trial at --scale 1
LOST_EVERY = 32 * 3600.0  # seconds until a node is lost, on average: of 64 nodes one every half hour
WHOLE = (64, 8, 20_000, 1.0)  # whose figures are kept: nodes, GPUs, trials, scale
DISK = 0.001  # seconds that a local disk takes for an fsync; charged, because a shared machine's own would say little
LONGEST = 0.999  # quantile of recorded durations above which the machine had been busy with something else
ITEMS = 96  # scores of single items in a report, as fable has them


class World:
    """What a worker measures, and how long it takes: recorded trials of a job's family, drawn by the job's name."""

    def __init__(self, mean: float) -> None:
        lines = []
        for path in sorted(TRIALS_FOLDER.glob("*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as file:
                lines += [json.loads(line) for line in list(file)[1:]]
        lines = [line for line in lines if line["kind"] != "confirm"]
        self.failing = sum(line["status"] == "failed" for line in lines) / len(lines)
        lines = [line for line in lines if line["curve"]]
        lasted = np.array([line["curve"][-1][5] for line in lines])
        lines = [line for line, s in zip(lines, lasted, strict=True) if s <= np.quantile(lasted, LONGEST)]
        self.stretch = mean / float(np.mean([line["curve"][-1][5] for line in lines]))
        self.by_family: dict[str, list[Any]] = defaultdict(list)
        for line in lines:
            self.by_family[line["family"]].append(line["curve"])
        self.all = [curve for curves in self.by_family.values() for curve in curves]
        self.runs: dict[str, int] = defaultdict(int)

    def begin(self, config: Mapping[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
        """A worker's reports about a job, each with the seconds it takes."""
        from weakspot.search.jobs import Job, Reading
        from weakspot.search.trainable import report

        job = Job.from_dict(json.loads(config["job"]))
        self.runs[job.id] += 1
        rng = random.Random(f"{job.id} {job.seed}")
        curve = rng.choice(self.by_family.get(job.attack) or self.all)
        if job.phase == "search" and rng.random() < self.failing:
            yield curve[0][5] * self.stretch, filled(report(failure="out of memory, as it were"), config)
            return
        if job.phase != "search":
            curve = [[job.rungs[-1], *curve[-1][1:]]]
        before = 0.0
        for row in curve:
            rung, harm, utility, degenerate, flops, seconds = row[:6]
            reading = Reading(
                rung, harm, utility, 0.0, degenerate, 32, 1000, flops, seconds, row is curve[-1],
                harm_items=(harm,) * ITEMS, benign_items=(utility,) * ITEMS,
            )  # fmt: skip
            yield max(0.0, seconds - before) * self.stretch, filled(report(reading), config)
            before = seconds


def filled(said: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A report with what Tune's Trainable puts beside it."""
    return {
        **said, "trial_id": "0", "date": "2026-11-23_10-00-00", "timestamp": 0, "time_this_iter_s": 1.0, "time_total_s": 1.0,
        "pid": 1, "hostname": "node", "node_ip": "127.0.0.1", "config": dict(config), "time_since_restore": 1.0,
        "iterations_since_restore": 1, "training_iteration": 1,
    }  # fmt: skip


def drive(cluster: Cluster, ledger: Ledger, trials: int, folder: Path) -> Any:
    """An audit's plan, carried out by the Ray backend on that cluster; what the plan came to."""
    import ray

    from weakspot.search import capacity, ray_backend
    from weakspot.search.audit import identity, make_plan
    from weakspot.search.log import LogWriter
    from weakspot.search.settings import make_settings
    from weakspot.search.specs import make_specs
    from weakspot.search.study import StudyFile
    from weakspot.testbeds import get

    place = get("fable")(0)
    settings = make_settings(place, None, trials, None, 0, 0.5, 0.9)
    specs = make_specs(place, ["tar"], False, 0)
    plan = make_plan(
        StudyFile(folder / "study.journal", identity(place, specs, settings)), specs, settings, place,
        [LogWriter(folder / "audit.log"), ledger],
    )  # fmt: skip
    asked = ray.nodes
    with ExitStack() as stack:
        stack.enter_context(patch.object(ray_backend, "on_cluster", lambda: True))
        stack.enter_context(patch.object(ray_backend, "read_weights", lambda folder: {"w": np.zeros(8, np.float32)}))
        stack.enter_context(patch.object(capacity, "nodes", lambda: (asked(), cluster.nodes())[1]))
        stack.enter_context(patch.object(capacity, "time", SimpleNamespace(monotonic=cluster.clock.read)))
        engine = ray_backend.RayBackend("fable", 0, None, 1, gpus=1.0)
        stack.enter_context(beneath(cluster))
        stack.enter_context(watched(ledger))
        engine.run(plan, {spec.name: folder for spec in specs}, {})
    return plan


@contextmanager
def beneath(cluster: Cluster) -> Iterator[None]:
    """Put the cluster under Tune's actor manager, in the place of Ray."""
    import ray
    import ray.actor
    from ray.air.execution._internal import actor_manager, event_manager
    from ray.tune.execution import tune_controller

    under = SimpleNamespace(
        wait=cluster.wait, get=cluster.get, kill=cluster.kill, remote=ray.remote, actor=ray.actor, ObjectRef=Any
    )
    with (
        patch.object(tune_controller, "PlacementGroupResourceManager", lambda: cluster),
        patch.object(actor_manager, "ray", under),
        patch.object(event_manager, "ray", under),
    ):
        yield


def simulate(nodes: int, gpus: int, trials: int, scale: float) -> dict[str, Any]:
    """One audit on such a cluster, in figures."""
    import ray

    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="300")
    own = not ray.is_initialized()
    if own:
        ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, object_store_memory=10**8)
    try:
        world = World(MEAN * scale)
        cluster = Cluster(nodes, gpus, world, LOST_EVERY, latency=transport(nodes * gpus), disk=DISK)
        ledger = Ledger(cluster, min(EVERY, max(1, trials // 4)))
        with tempfile.TemporaryDirectory(prefix="weakspot-bench-") as folder:
            drive(cluster, ledger, trials, Path(folder))
    finally:
        if own:
            ray.shutdown()
    given = {"nodes": nodes, "gpus": gpus, "scale": scale, "stretch": round(world.stretch, 1)}
    return given | figures(cluster, ledger, world.runs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster_sim", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nodes", type=int, default=64, metavar="N", help="machines (default: 64)")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="GPUs of each, one a trial (default: 8)")
    parser.add_argument("--trials", type=int, default=20_000, metavar="N", help="search trials (default: 20000)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help=f"of {MEAN:.0f} s, the mean trial (default: 1)")
    parser.add_argument("--render", action="store_true", help="run nothing; only write the page's table again")
    options = parser.parse_args(arguments)
    print_header()
    if not options.render:
        found = simulate(options.nodes, options.gpus, options.trials, options.scale)
        print(json.dumps(found, indent=1))
        if (options.nodes, options.gpus, options.trials, options.scale) != WHOLE:
            return 0
        write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    render(json.loads(RESULTS.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
