"""Whether a proposal stays cheap: ten thousand trials through the default searcher and its stored study.

    python -m bench.searcher_scaling              # 10,000 trials, a few minutes
    python -m bench.searcher_scaling --trials 500 --searcher tpe

Prints the time of ask + tell and the memory of the process along the way, as ratios to those of the first 500 trials.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.machine import print_header
from weakspot.search.jobs import Job, Outcome, Reading
from weakspot.search.objectives import Worst
from weakspot.search.searchers import get
from weakspot.search.space import build_space
from weakspot.search.study import StudyFile
from weakspot.threat import ThreatModel

BLOCK = 500
FAMILIES = [
    "full_finetune",
    "lora",
    "poisoned_finetune",
    "jailbreak_tuning",
    "refusal_ablation",
    "prune",
    "soft_prompt",
    "prefill",
]


def outcome(number: int, family: str, config: dict[str, Any]) -> Outcome:
    """A made-up trial: better near one learning rate, four rungs, a hundred item scores each."""
    rate = float(config.get("learning_rate", 1e-4))
    harm = 0.8 * math.exp(-((math.log10(rate) + 3) ** 2)) * (0.5 + 0.5 * ((number * 7919) % 100) / 100)
    job = Job(f"made-up/{number:05d}", "made-up", "search", family, config, number, (4, 16, 64, 256), "search")
    items = (harm,) * 96
    readings = tuple(
        Reading(rung, harm * rung / 256, 0.95, 0.0, 0.0, 0, 0, 1e8 * rung, 0.1, rung == 256, None, None, items, items)
        for rung in job.rungs
    )
    return Outcome(job, readings).without_items()  # as a plan does before it tells


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.searcher_scaling", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000, metavar="N", help="trials (default: 10000)")
    parser.add_argument("--searcher", default="adaptive", metavar="NAME", help="which searcher (default: adaptive)")
    options = parser.parse_args(arguments)
    print_header()
    space = build_space(FAMILIES, ThreatModel())
    searcher = get(options.searcher)(space, 0, Worst(0.9, 0.5))
    process, first = psutil.Process(), None
    with tempfile.TemporaryDirectory(prefix="weakspot-bench-") as folder:
        study = StudyFile(Path(folder) / "study.journal", {}).subject("made-up", searcher)
        for block in range(0, options.trials, BLOCK):
            seconds = 0.0
            count = min(BLOCK, options.trials - block)
            for number in range(block, block + count):
                started = time.perf_counter()
                proposal = study.ask(number)
                seconds += time.perf_counter() - started
                told = outcome(number, proposal.family, dict(proposal.config))
                started = time.perf_counter()
                study.tell(number, told)
                seconds += time.perf_counter() - started
            gc.collect()
            now = (1000 * seconds / count, process.memory_info().rss / 1024**2)
            first = first or now
            print(
                f"{block + count:>6} trials  ask + tell {now[0]:6.1f} ms ({now[0] / first[0]:.1f} x)"
                f"  memory {now[1]:5.0f} MiB ({now[1] / first[1]:.2f} x)", flush=True,
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
