"""What a simulated cluster came to, in figures; the table of docs/cluster.md, between its markers."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.driver_cost import PARTS, Ledger, Look
from bench.fake_cluster import RESET, Cluster
from weakspot.files import write_text

PAGE = Path(__file__).parent.parent / "docs" / "cluster.md"
BEGIN, END = "<!-- bench.cluster_sim -->\n", "<!-- end -->\n"
ENOUGH = 0.95  # utilisation
MARKS = (1_000, 5_000, 20_000)
REPLAYED = 60_000  # events


def figures(cluster: Cluster, ledger: Ledger, runs: Mapping[str, int]) -> dict[str, Any]:
    """What a run came to.

    Utilisation counts finished rungs, and is of the time from when 95 % of the most workers that ever computed at once did so
    until the last search trial was handed out.
    """
    began, lasted = (np.frombuffer(cluster.steps)[i::2] for i in (0, 1))
    turns, slots = np.frombuffer(cluster.turns), sum(node.slots for node in cluster.machines)
    start, end = ramp(began, lasted), ledger.proposed
    inside = np.clip(np.minimum(began + lasted, end) - np.maximum(began, start), 0, None).sum()
    looks = [look for look in ledger.looks if look.now <= end] or ledger.looks[-1:]  # while trials are still handed out
    marks = {max((k.trials for k in looks if k.trials <= mark), default=looks[0].trials) for mark in MARKS}
    return {
        "slots": slots,
        "trials": ledger.searched,
        "jobs": len(ledger.ended),
        "most_endings_of_a_job": max(ledger.ended.values()),
        "events": len(turns),
        "nodes_lost": cluster.losses,
        "runs_again": sum(runs.values()) - len(runs),
        "seconds_a_trial": round(float(lasted.sum()) / len(ledger.ended), 1),
        "ramp_up_seconds": round(start),
        "search_seconds": round(end),
        "all_seconds": round(float((began + lasted).max())),
        "utilisation": round(float(inside / (slots * (end - start))), 4),
        "utilisation_of_all": round(float(lasted.sum() / (slots * (began + lasted).max())), 4),
        "driver_busy": round(float(turns.sum() / (began + lasted).max()), 4),
        "ms_an_event": round(1000 * float(turns.mean()), 2),
        "marks": [
            at_mark(a, b, turns, cluster.latency) for a, b in pairwise([Look.none(), *ledger.looks]) if b.trials in marks
        ],
        "least_seconds_a_trial": least(lasted[lasted > 0], len(ledger.ended), turns, slots),
    }


def ramp(began: np.ndarray, lasted: np.ndarray) -> float:
    """When 95 % of the most workers that ever computed at once did so for the first time."""
    times = np.concatenate([began, began + lasted])
    order = np.argsort(times, kind="stable")
    busy = np.cumsum(np.repeat([1, -1], len(began))[order])
    return float(times[order][np.argmax(busy >= ENOUGH * busy.max())])


def at_mark(before: Look, look: Look, turns: np.ndarray, latency: float) -> dict[str, Any]:
    """Milliseconds of an event between two looks, in all and by part, and the memory at the second."""
    window = 1000 * turns[before.events : look.events]
    parts = {name: 1000 * (look.parts.get(name, 0.0) - before.parts.get(name, 0.0)) / len(window) for name in PARTS}
    parts["Ray"] = 1000 * latency
    parts["Tune"] = float(window.mean()) - sum(parts.values())
    return {
        "trials": look.trials, "ms_an_event": round(float(window.mean()), 2), "p95": round(float(np.quantile(window, 0.95)), 2),
        "parts": {name: round(ms, 2) for name, ms in parts.items()}, "rss_mib": round(look.rss),
    }  # fmt: skip


def least(lasted: np.ndarray, trials: int, turns: np.ndarray, slots: int) -> float:
    """Mean seconds of a trial at which the driver still keeps so many workers busy; by replaying what its events cost."""
    mean, low, high = float(lasted.sum()) / trials, 1e-4, 10.0
    for _ in range(14):
        middle = (low * high) ** 0.5
        enough = replayed(middle, lasted, trials, turns, slots) >= ENOUGH
        low, high = (low, middle) if enough else (middle, high)
    return round(high * mean, 1)


def replayed(scale: float, lasted: np.ndarray, trials: int, turns: np.ndarray, slots: int) -> float:
    """Utilisation of workers that wait for one driver: rungs, their events and resets drawn from those that were measured."""
    rng = random.Random("weakspot replay")
    works, costs = [(float(s) * scale, True) for s in lasted] + [(RESET, False)] * trials, list(map(float, turns))
    ready = [rng.random() * scale * float(lasted.mean()) for _ in range(slots)]
    heapq.heapify(ready)
    now = busy = since = 0.0
    for number in range(REPLAYED):
        if number == REPLAYED // 5:
            busy, since = 0.0, now
        now = max(now, heapq.heappop(ready)) + rng.choice(costs)
        seconds, counts = rng.choice(works)
        busy += seconds * counts
        heapq.heappush(ready, now + seconds)
    return busy / (slots * (now - since))


def render(found: Mapping[str, Any]) -> None:
    """Write the table."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    write_text(PAGE, before + BEGIN + table(found["marks"]) + END + rest.split(END, 1)[1])


def table(marks: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds of an event by part, and memory, a column a number of trials."""
    rows = [
        "| after so many trials | " + " | ".join(f"{m['trials']:,}" for m in marks) + " |",
        "| --- |" + " ---: |" * len(marks),
        "| **driver, ms an event: mean** | " + " | ".join(f"**{m['ms_an_event']:.1f}**" for m in marks) + " |",
        "| 95 % of events below | " + " | ".join(f"{m['p95']:.1f}" for m in marks) + " |",
    ]
    rows += [f"| of the mean: {name} | " + " | ".join(f"{m['parts'][name]:.2f}" for m in marks) + " |" for name in PARTS]
    rows.append("| memory of the driver, MiB | " + " | ".join(f"{m['rss_mib']:,}" for m in marks) + " |")
    return "\n".join(rows) + "\n"
