"""The same comparison on real runs: do the surrogates rank the searches as training does? Part of bench.search_efficiency.

    python -m bench.search_real    # trains (half an hour); runs that are there are kept

A search ends at the first trial whose feasible harm on search items is 95 % of the oracle, or when it has spent `CAP` times
what ours had; that trial is then confirmed on fresh seeds and report items. Random search is not run again: the recorded trials
of bench/record.py that were drawn at random are one, and every seed gets its own third of them.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from bench.record import SEEDS as CONFIRMED
from bench.record import Recorder, feasible, read
from weakspot.files import write_text

SAFEGUARDS = ("refusal", "random_answer")  # where random search gets there at all, so that a ratio can be had
SEEDS = 3
CAP = 10.0
MOST = 120  # trials of one search
RIVALS = ("random", "peer_recipe")


def search(safeguard: str, others: Sequence[str], contender: str, seed: int, target: float, cap: float) -> dict[str, Any]:
    """One search on a model."""
    from bench.portfolio import choose
    from bench.simulate import CONTENDERS, GRACE, OBJECTIVE, make
    from bench.surrogate import load
    from weakspot.errors import TrialFailure, UserError
    from weakspot.search.jobs import Job
    from weakspot.search.rehearsal import rehearse
    from weakspot.search.schedulers import get
    from weakspot.search.searchers import Tried

    way, recorder = CONTENDERS[contender], Recorder(safeguard)
    entries = choose([load(other) for other in others]) if way.portfolio else ()
    rungs = recorder.testbed.rungs[-1:] if way.blind else recorder.testbed.rungs
    spent = [0.0]

    def measured(family: str, config: Mapping[str, Any], chosen: int) -> Iterator[Any]:
        job = Job(f"{safeguard}/real", safeguard, "real", family, dict(config), chosen, tuple(rungs), "search")
        try:
            yield from recorder.bench.run(job)
        except (TrialFailure, UserError):  # as in an audit: a trial that could not be carried through
            return

    def enough(tried: Tried) -> bool:
        assert tried.outcome is not None
        spent[0] += tried.outcome.readings[-1].flops if tried.outcome.readings else 0.0
        return spent[0] >= cap or OBJECTIVE.score(tried.outcome) >= target

    searcher = make(way, safeguard, entries, seed)
    history = rehearse(measured, searcher, get(way.scheduler)(GRACE, recorder.testbed.rungs[-1]), MOST, 1000 + seed, enough)
    last = history[-1]
    assert last.outcome is not None
    reached = OBJECTIVE.score(last.outcome) >= target
    kept = OBJECTIVE.choose(last.outcome) if reached else None
    confirmed = confirm(recorder, last.proposal.family, last.proposal.config, kept.rung) if kept else None
    best = max(0.0, *(OBJECTIVE.score(t.outcome) for t in history if t.outcome))
    return report(seed, spent[0], len(history), reached, best, last.proposal.family if reached else "", confirmed)


def report(
    seed: int, spent: float, trials: int, reached: bool, best: float, family: str, confirmed: float | None
) -> dict[str, Any]:
    return {
        "seed": seed, "flops": float(f"{spent:.4g}"), "trials": trials, "reached": reached, "best": round(best, 4),
        "family": family, "confirmed": confirmed,
    }  # fmt: skip


def confirm(recorder: Recorder, family: str, config: Mapping[str, Any], rung: int) -> float:
    """Mean harm on fresh seeds and report items."""
    from bench.portfolio import mean_harm
    from weakspot.seeds import derive

    seeds = [derive(2, "real", i) for i in range(CONFIRMED)]
    runs = [recorder.run("confirm", 0, family, config, seed, (rung or 1,), "report") for seed in seeds]
    return round(mean_harm(runs), 4)


def drawn(safeguard: str, seed: int, target: float) -> dict[str, Any]:
    """Random search as it was recorded: every third of the random trials is one, up to the target."""
    lines = [line for line in read(safeguard)[1] if line["kind"] == "random"]
    size = len(lines) // SEEDS
    spent, best = 0.0, 0.0
    for i, line in enumerate(lines[seed * size : (seed + 1) * size]):
        spent += line["curve"][-1][4] if line["curve"] else 0.0
        best = max([best, *(r[1] for r in feasible(line))])
        if best >= target:
            return report(seed, spent, i + 1, True, best, line["family"], None)
    return report(seed, spent, size, False, best, "", None)


def run(names: Sequence[str], results: dict[str, Any]) -> None:
    """Add `real` to the results: ours and random first, because the peer's budget is a multiple of ours."""
    from bench.portfolio import oracle
    from bench.search_efficiency import RESULTS, SHARE

    real = results.setdefault("real", {})
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for contender in ("ours", "peer_recipe"):
            todo = {}
            for name in (n for n in SAFEGUARDS if n in names):
                target, entry = SHARE * oracle(read(name)[1]), real.setdefault(name, {"target": None})
                entry.update(target=round(target, 4), random=[drawn(name, seed, target) for seed in range(SEEDS)])
                if len(entry.get(contender, ())) == SEEDS:
                    continue
                cap = float(CAP * np.mean([r["flops"] for r in entry["ours"]])) if contender != "ours" else 1e13
                others = [n for n in names if n != name]
                todo[name] = [pool.submit(search, name, others, contender, s, target, cap) for s in range(SEEDS)]
            for name, futures in todo.items():
                real[name][contender] = [future.result() for future in futures]
                print(name, contender, real[name][contender], flush=True)
                write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    real["cost_ratio"] = {rival: pooled(real, rival) for rival in RIVALS}
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")


def pooled(real: Mapping[str, Any], rival: str) -> float:
    """How many times as much as ours, at least: geometric mean over safeguards of mean operations."""
    entries = [entry for entry in real.values() if "ours" in entry]
    costs = [[np.mean([r["flops"] for r in entry[who]]) for who in (rival, "ours")] for entry in entries]
    return round(math.exp(float(np.mean([math.log(theirs / own) for theirs, own in costs]))), 2)


def main() -> int:
    os.environ.update(OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
    from bench.machine import print_header
    from bench.search_efficiency import RESULTS, recorded

    print_header()
    run(recorded(), json.loads(RESULTS.read_text()) if RESULTS.exists() else {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
