"""`--gpus auto`: the share of a GPU, or the number of them, that a trial is given by the estimate of its memory."""

from __future__ import annotations

import argparse
import sys


def chosen_gpus(options: argparse.Namespace) -> float | None:
    """What --gpus says; for `auto` what the estimate says, printed (standard error) before anything starts."""
    if options.gpus != "auto":
        return options.gpus
    from weakspot.attacks import get as get_attack
    from weakspot.cli.estimate_command import foresee
    from weakspot.cluster.estimate import choose, peak
    from weakspot.search.devices import smallest_gpu

    have = smallest_gpu()
    if have == 0:
        say(options, "none: this machine has no GPU, trials run on its processors")
        return 0.0
    _, shape, expected, _, why = foresee(options)
    works = [*(work.largest for work in expected.families.values()), *expected.fixed]
    need = peak(shape, works, "gpu") if shape else None
    spreads = options.backend != "inline" and all(get_attack(name).shards for name in expected.families)
    share = choose(need, have, spreads, why)
    say(options, f"{share.why} (unmeasured: no GPU was at hand)")
    return share.gpus


def say(options: argparse.Namespace, words: str) -> None:
    if not options.quiet:
        print(f"gpus: {words}", file=sys.stderr, flush=True)
