"""What a search spends until it holds nearly the worst case: ours, random search, TPE and the peer's recipe.

    python -m bench.search_efficiency           # the surrogate layer (half an hour); cells that are there are kept
    python -m bench.search_efficiency --render  # only docs/search.md's table and docs/search_curves.svg

The cost is the attacker's: floating-point operations of every trial, stopped or not, until what the search would confirm is
truly worth 95 % of the oracle (bench/simulate.py). The oracle is the best feasible confirmed harm over every recorded trial.
Where a search never gets there its cost is unknown, and whatever is said must not flatter ours: a competitor's counts as what
it had spent, which is too little; ours as the expected running time (Hansen et al. 2010), all operations of all seeds by the
number of seeds that got there. So each ratio is a lower bound.

`ours` begins with the portfolio of the *other* safeguards (bench/portfolio.py), never with what was recorded on the one it is
tried on. Beside it run two that know less: `papers` (published configurations only) and `cold` (none at all).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import SAFEGUARDS, TRIALS, path_of, read
from weakspot.files import write_text

RESULTS = Path(__file__).parent / "results" / "search_efficiency.json"
VERSION = 2  # of contenders, surrogates and portfolios: raise it when a cell would come out differently
SEEDS, SHARE = 30, 0.95
MOST = {"random": 3000, "cold": 3000, "tpe": 300}  # trials of one search; of all others as many as the peer's recipe has
RECIPE = 40  # trials a family
GRID = np.logspace(9, 15, 61)  # operations at which the curves are drawn
RATIOS = ("random", "peer_recipe")
RESAMPLED = 2000


def recorded() -> list[str]:
    """Safeguards with all their trials."""
    return [name for name in SAFEGUARDS if sum(line["kind"] != "confirm" for line in read(name)[1]) >= TRIALS]


def cell(name: str, others: Sequence[str], contender: str, seeds: int) -> dict[str, Any]:
    """One contender on one safeguard."""
    from bench.portfolio import choose, oracle
    from bench.simulate import CONTENDERS, recorded_space, simulate
    from bench.surrogate import load

    world, best = load(name), oracle(read(name)[1])
    entries = choose([load(other) for other in others]) if CONTENDERS[contender].portfolio else ()
    most = MOST.get(contender, RECIPE * len(recorded_space().families))
    runs = [simulate(world, CONTENDERS[contender], entries, most, seed, SHARE * best) for seed in range(seeds)]
    costs, reached = zip(*(run.cost_to(SHARE * best) for run in runs), strict=True)
    curves = np.array([shares_at(run.spent, run.truth / best) for run in runs])
    return {
        "oracle": best,
        "trials": [len(run.spent) for run in runs],
        "costs": [float(f"{cost:.4g}") for cost in costs],
        "reached": [bool(each) for each in reached],
        "quartiles": [[round(float(x), 3) for x in row] for row in np.quantile(curves, (0.25, 0.5, 0.75), axis=0)],
    }


def shares_at(spent: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The best so far at every point of the grid; nothing before the first trial has ended."""
    at = np.searchsorted(spent, GRID, side="right") - 1
    return np.where(at >= 0, np.maximum.accumulate(share)[np.maximum(at, 0)], 0.0)


def running_time(costs: np.ndarray, reached: np.ndarray) -> float:
    """Expected operations to the target with restarts; infinite where no seed got there."""
    return float(costs.sum() / reached.sum()) if reached.any() else math.inf


def ratio(ours: Mapping[str, Any], other: Mapping[str, Any], rows: Any = slice(None)) -> float:
    """How many times as much the other spends, at least."""
    own = running_time(np.asarray(ours["costs"])[rows], np.asarray(ours["reached"])[rows])
    return float(np.mean(np.asarray(other["costs"])[rows])) / own


def pooled(safeguards: Mapping[str, Any], other: str, ours: str = "ours") -> dict[str, float]:
    """The geometric mean over safeguards, with a bootstrap over safeguards and seeds (95 %)."""
    rng, cells = np.random.default_rng(0), [each["searches"] for each in safeguards.values()]

    def once(chosen: Any, rows: Any) -> float:
        return float(np.mean([math.log(max(ratio(cells[i][ours], cells[i][other], rows), 1e-9)) for i in chosen]))

    count = len(cells[0][ours]["costs"])
    drawn = [once(rng.integers(len(cells), size=len(cells)), rng.integers(count, size=count)) for _ in range(RESAMPLED)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        key: round(math.exp(x), 2)
        for key, x in zip(("geomean", "low", "high"), (once(range(len(cells)), slice(None)), low, high), strict=True)
    }


def fingerprint(names: Sequence[str]) -> str:
    """What all cells depend on."""
    digest = hashlib.sha256(str(VERSION).encode())
    for name in names:
        digest.update(path_of(name).read_bytes())
    return digest.hexdigest()[:16]


def run(names: Sequence[str], seeds: int, workers: int) -> dict[str, Any]:
    """Every cell that is not there yet, stored as it ends."""
    from bench.simulate import CONTENDERS
    from bench.surrogate import held_out

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if results.get("key") != fingerprint(names) or results.get("seeds") != seeds:
        results = {
            **results,
            "key": fingerprint(names),
            "seeds": seeds,
            "grid": [float(f"{x:.4g}") for x in GRID],
            "safeguards": {},
        }
    todo = [(name, c) for name in names for c in CONTENDERS if c not in results["safeguards"].get(name, {}).get("searches", {})]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {(n, c): pool.submit(cell, n, [m for m in names if m != n], c, seeds) for n, c in todo}
        for (name, contender), future in futures.items():
            found, head = future.result(), read(name)[0]
            entry = results["safeguards"].setdefault(name, {})
            if "surrogate" not in entry:
                entry["surrogate"] = held_out(name, read(name)[1], head["rungs"])
            entry.setdefault("searches", {})[contender] = found
            print(name, contender, f"{sum(found['reached'])} of {seeds}, {np.mean(found['costs']):.2e} operations", flush=True)
            write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    results["cost_ratio"] = {other: pooled(results["safeguards"], other) for other in RATIOS}
    for less in ("papers", "cold"):
        results[f"cost_ratio_of_{less}"] = {other: pooled(results["safeguards"], other, less) for other in RATIOS}
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search_efficiency", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"searches of a cell (default: {SEEDS})")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="cells at a time (default: 2)")
    parser.add_argument("--render", action="store_true", help="run nothing; only write the page's table and curves again")
    options = parser.parse_args(arguments)
    os.environ.update(OMP_NUM_THREADS="1")
    from bench.machine import print_header
    from bench.search_page import render

    print_header()
    names = recorded()
    if not options.render:
        if len(names) < 2:
            print(f"{len(names)} safeguards are recorded in full and at least 2 are needed: run python -m bench.record first")
            return 2
        results = run(names, options.seeds, options.workers)
        print(json.dumps(results["cost_ratio"]))
    render(json.loads(RESULTS.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
