"""Does the report of 5,000 trials stay under ten seconds and ten megabytes? And where does the time go?

    python -m bench.report_scale

The result is made up (tests/report/large.py): 34 families, three searched subjects, up to seven rungs a trial. A first report
of a small result pays for imports before anything is timed; each size is then written three times, and the fastest is told.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from bench.machine import print_header
from tests.report.large import make_large
from weakspot.report.heat import heat_map
from weakspot.report.markdown import to_markdown
from weakspot.report.page import to_html
from weakspot.report.plots import make_plots
from weakspot.report.sensitivity import sensitivity

TRIALS = {"default audit": 64, "5,000 trials": 2000}  # a safeguard; the control has half
REPEATS = 3


def fastest(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Least wall and processor seconds of a few runs, and what the last returned. On a busy machine the two differ."""
    walls, busy, value = [], [], None
    for _ in range(REPEATS):
        gc.collect()
        wall, processor = time.perf_counter(), time.process_time()
        value = work()
        walls.append(time.perf_counter() - wall)
        busy.append(time.process_time() - processor)
    return min(walls), min(busy), value


def main() -> None:
    print_header()
    to_html(make_large(trials=8))
    print(f"{'result':<16}{'part':<28}{'wall s':>8}{'processor s':>13}{'MB':>8}")
    for name, trials in TRIALS.items():
        result = make_large(trials=trials)
        parts: dict[str, Callable[[], Any]] = {
            "report.html": lambda result=result: to_html(result),
            "report.md": lambda result=result: to_markdown(result),
            "  drawings for print": lambda result=result: make_plots(result),
            "  heat map": lambda result=result: heat_map(result),
            "  which knob matters": lambda result=result: [sensitivity(subject.trials, 0.9) for subject in result.subjects],
            "  result.json": lambda result=result: result.to_json(),
        }
        for part, work in parts.items():
            wall, busy, value = fastest(work)
            size = f"{len(value.encode()) / 1e6:8.2f}" if isinstance(value, str) else ""
            print(f"{name:<16}{part:<28}{wall:8.2f}{busy:13.2f}{size}", flush=True)


if __name__ == "__main__":
    main()
