"""How far is `weakspot estimate` off? Peak memory and seconds of five trials beside what was estimated of them.

    python -m bench.estimate

Each trial runs in a process of its own, on the undefended base, with one thread: a few steps, then one measurement of the
search stage. Peak is that of the resident set (getrusage), taken twice: whole, and less what the process held once its
libraries were loaded. Seconds are those of the processor, which on one thread are the time on an idle machine. After the trial
the same process measures the machine's speed as the command does, by steps of the family's default, and estimates.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.machine import print_header

STEPS = {"fable": 32, "smollm2": 4}
# testbed, family, knobs
TRIALS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("fable", "full_finetune", {"batch_size": 16}),
    ("fable", "lora", {"batch_size": 32, "rank": 16}),
    ("smollm2", "full_finetune", {"batch_size": 8}),
    ("smollm2", "lora", {"batch_size": 16, "rank": 16}),
    ("smollm2", "full_finetune", {"batch_size": 16, "optimizer": "sgd", "loss_on": "all"}),
)
GIB = 1024**3


def resident() -> int:
    """The highest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def measure(testbed_name: str, family_name: str, config: dict[str, Any]) -> dict[str, float]:
    """Run one trial in this process, then estimate it."""
    import torch
    from peft import get_peft_model
    from transformers import LlamaForCausalLM

    from weakspot.attacks import get
    from weakspot.attacks.base import in_hand
    from weakspot.cluster.calibrate import calibrate
    from weakspot.cluster.estimate import measure_seconds, trial_seconds
    from weakspot.cluster.memory_model import memory, shape_of
    from weakspot.knobs import configure
    from weakspot.search.forecast import configuration, lengths_of, workload
    from weakspot.search.space import defaults
    from weakspot.testbeds import get as get_testbed

    del get_peft_model, LlamaForCausalLM  # loaded here, so that the baseline holds them
    torch.set_num_threads(1)
    testbed, family, steps = get_testbed(testbed_name)(0), get(family_name), STEPS[testbed_name]
    folder, baseline = testbed.prepare_base(), resident()
    model, tokenizer = testbed.load(folder)
    attack = configure(family, {**config, "steps": steps, "benign_ratio": 0.3})
    course = attack.run(model, tokenizer, in_hand(family, testbed.attack_data()), (steps,), 0)
    started = time.process_time()
    progress = next(course)
    trained = time.process_time()
    testbed.measure(model, tokenizer, "search", progress.elicitation)
    asked, peak = time.process_time(), resident()
    course.close()  # pyright: ignore[reportAttributeAccessIssue]
    shape = shape_of(configuration(testbed)[0], testbed_name)
    lengths = lengths_of(testbed, tokenizer)
    work = workload(family, {"batch_size": 16, **config, "steps": steps}, (steps,), testbed, lengths)
    usual = workload(family, defaults(family_name), (steps,), testbed, lengths)  # not the trial's own: the command has many
    needed, speed = memory(shape, work), calibrate(shape, [usual])
    return {
        "baseline": baseline, "peak": peak, "training": trained - started, "asking": asked - trained,
        "estimated_model": needed.model, "estimated_total": needed.total,
        "estimated_training": trial_seconds(shape, replace(work, measurements=0), speed),
        "estimated_asking": measure_seconds(shape, work, speed),
        "gflops": speed.flops / 1e9, "bandwidth": speed.bandwidth / 1e9, "call": speed.call * 1e6, "counting": speed.counting,
        **{f"factor_{kind}": factor for kind, factor in speed.factors.items()},
    }  # fmt: skip


def in_own_process(number: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.estimate", "--only", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return json.loads(done.stdout.splitlines()[-1])


def row(number: int, found: dict[str, float]) -> str:
    testbed, family, config = TRIALS[number]
    grown = found["peak"] - found["baseline"]
    pairs = (
        (found["estimated_model"] / GIB, grown / GIB, "GiB"),
        (found["estimated_total"] / GIB, found["peak"] / GIB, "GiB in all"),
        (found["estimated_training"], found["training"], "s"),
        (found["estimated_training"] + found["estimated_asking"], found["training"] + found["asking"], "s in all"),
    )
    told = ", ".join(f"{guess:.3g} / {true:.3g} {unit} = {guess / true:.2f}" for guess, true, unit in pairs)
    factors = ", ".join(f"{name[7:]} x {value:.2f}" for name, value in found.items() if name.startswith("factor_"))
    speed = f"{found['gflops']:.0f} GFLOP/s, {found['bandwidth']:.1f} GB/s, {found['call']:.1f} us a call; scaled {factors}"
    knobs = " ".join(f"{knob}={value}" for knob, value in config.items())
    return f"{testbed} {family} {knobs}\n    estimated / measured: {told}\n    speed: {speed}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description="Estimates beside measurements.")
    parser.add_argument("--only", type=int, metavar="N", help=f"run trial N of {len(TRIALS)}, here, and print it as JSON")
    options = parser.parse_args(arguments)
    if options.only is not None:
        if not 0 <= options.only < len(TRIALS):
            parser.error(f"--only {options.only}: give 0 to {len(TRIALS) - 1}")
        print(json.dumps(measure(*TRIALS[options.only])))
        return 0
    print_header()
    for number in range(len(TRIALS)):
        print(row(number, in_own_process(number)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
