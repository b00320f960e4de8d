"""`weakspot estimate audit ...`: jobs, time, memory and price of an audit, before anything is started."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weakspot.errors import UserError

HELP = "say what an audit would cost, and start nothing"
EPILOG = """\
example:
  weakspot estimate --gpu-memory 80 --tflops 200 --usd-per-gpu-hour 2.5 audit --testbed my.toml --defense tar

Takes an audit's own options. docs/cluster.md says what is counted and how far it was off where it was measured.
"""
GIB = 1024**3
ORDER = ("baseline", "served", "paper", "control", "search", "confirm", "injection", "twin", "variation")
TRAINED = {
    "full": "every parameter",
    "adapter": "an adapter",
    "four_bit": "an adapter on 4 bits",
    "inputs": "the input",
    "nothing": "nothing",
}


@dataclass(frozen=True)
class Machine:
    """What trials run on.

    Attributes:
        device: cpu or gpu.
        memory: bytes of one GPU, or of this machine less what all trials share; None where unknown.
        speed: of one trial (cluster/estimate.py); None where unknown.
        at_a_time: trials at a time on the CPU, of so many threads each.
    """

    device: str
    memory: float | None
    speed: Any
    at_a_time: int = 1
    threads: int = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--gpu-memory", type=float, metavar="GIB", help="memory of one GPU (default: that of the GPU here, else this machine's)"
    )
    add("--tflops", type=float, metavar="X", help="10^12 operations a second that one trial reaches (default: measured here)")
    add("--usd-per-gpu-hour", type=float, metavar="P", help="price of a GPU for an hour")
    add("--model", metavar="PATH", help="a folder with config.json, or that file, for a base model that is not here yet")
    add("--json", action="store_true", help="an object instead of a table")
    add("audit", nargs=argparse.PARSER, metavar="audit ...", help="the audit (see `weakspot audit --help`)")


def run(options: argparse.Namespace) -> int:
    from weakspot.cli.audit_command import quieten
    from weakspot.search.audit import BACKENDS

    quieten()
    audit = parse(options.audit)
    check(options, audit, BACKENDS)
    testbed, shape, expected, subjects, why = foresee(audit, options.model)
    machine = machine_of(options, audit, testbed, shape, expected, subjects) if shape else None
    report = summary(expected, shape, machine, options.usd_per_gpu_hour, why)
    if options.json:
        print(json.dumps({"testbed": testbed.name, **report}, indent=2, allow_nan=False))
    else:
        tell(testbed.name, report)
    return 0


def foresee(audit: argparse.Namespace, model: str | None = None) -> tuple[Any, Any, Any, int, str]:
    """Of an audit's options: testbed, shape of its model (None where unknown), jobs, number of subjects, why unknown."""
    from weakspot.cli.audit_command import configured
    from weakspot.search.forecast import forecast, lengths_of, specs_of
    from weakspot.search.settings import make_settings
    from weakspot.search.stopping import Limits
    from weakspot.testbeds import get as get_testbed
    from weakspot.threat import parse_threat

    testbed = get_testbed(audit.testbed)(0)
    settings = make_settings(
        testbed, audit.attack, audit.trials, audit.time, audit.seed, audit.harm, audit.utility_floor,
        parse_threat(audit.threat or ()), objective=audit.objective, searcher=audit.searcher, scheduler=audit.scheduler,
        limits=Limits(audit.flops, audit.least_chance, audit.until_broken), suite=audit.suite, variations=audit.variations,
        twins=not audit.no_control,
    )  # fmt: skip
    specs = specs_of(testbed, configured(audit), not audit.no_control, audit.seed)
    shape, tokenizer, why = model_of(testbed, model)
    return testbed, shape, forecast(testbed, settings, specs, lengths_of(testbed, tokenizer)), len(specs), why


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The audit's own options. Raises UserError for a mistake in them."""
    from weakspot.cli import audit_command
    from weakspot.cli.main import Parser

    if words[0] != "audit":
        raise UserError(f"only an audit can be estimated, not {words[0]!r}: weakspot estimate [OPTIONS] audit [ITS OPTIONS]")
    parser = Parser(prog="weakspot audit")
    audit_command.add_arguments(parser)
    return parser.parse_args(words[1:])


def check(options: argparse.Namespace, audit: argparse.Namespace, backends: Sequence[str]) -> None:
    """Raises UserError for a number that means nothing."""
    for name in ("gpu_memory", "tflops", "usd_per_gpu_hour"):
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"{option} {value:g} is not positive: give a number above 0")
    if audit.workers is not None and audit.workers < 1:
        raise UserError(f"--workers {audit.workers} is below 1: give at least one worker")
    if isinstance(audit.gpus, float) and audit.gpus < 0:
        raise UserError(f"--gpus {audit.gpus:g} is below 0: give how many GPUs one attack takes, 0 for none")
    if audit.backend not in backends:
        raise UserError(f"unknown backend {audit.backend!r}: known are {', '.join(backends)}")
    if options.usd_per_gpu_hour and not options.gpu_memory and not gpu_bytes(audit):
        raise UserError("--usd-per-gpu-hour has no GPU to price: give --gpu-memory and --tflops of the one to be rented")


def model_of(testbed: Any, given: str | None) -> tuple[Any, Any, str]:
    """Shape and tokenizer of the base model, or None and why the shape is not known."""
    from weakspot.cluster.memory_model import read_shape, shape_of
    from weakspot.search.forecast import configuration, tokenizer_of

    if given:
        from pathlib import Path

        folder = Path(given).expanduser()
        return read_shape(folder), tokenizer_of(folder if folder.is_dir() else folder.parent), ""
    try:
        found, tokenizer = configuration(testbed)
        return shape_of(found, testbed.name), tokenizer, ""
    except UserError as error:
        return None, None, str(error)


def gpu_bytes(audit: argparse.Namespace) -> float | None:
    """Memory of the GPU here; None without one, or where the audit is to use none."""
    import torch

    if audit.gpus == 0 or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory)  # unmeasured: no GPU was at hand


def machine_of(
    options: argparse.Namespace, audit: argparse.Namespace, testbed: Any, shape: Any, expected: Any, subjects: int
) -> Machine:
    """The GPU that was described or is here, else this machine; its speed as given, or as measured in some seconds."""
    import torch

    from weakspot.cluster.calibrate import calibrate
    from weakspot.cluster.estimate import Speed

    here = gpu_bytes(audit)
    device = "gpu" if options.gpu_memory or here else "cpu"
    threads = testbed.threads_per_worker
    speed = Speed(options.tflops * 1e12, source=f"given, {options.tflops:g} TFLOP/s") if options.tflops else None
    if speed is None and (device == "cpu" or here):
        torch.set_num_threads(threads)
        speed = calibrate(shape, [work.usual for work in expected.families.values()], device)
    if device == "gpu":
        return Machine(device, options.gpu_memory * GIB if options.gpu_memory else here, speed)
    workers = 1 if audit.backend == "inline" else audit.workers or testbed.workers
    shared = subjects * 4 * shape.parameters  # every subject's weights, once, in the object store
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") - shared
    return Machine(device, room / workers, speed, workers, threads)


# The numbers --------------------------------------------------------------------------------------------------------------


def summary(expected: Any, shape: Any, machine: Machine | None, price: float | None, why: str = "") -> dict[str, Any]:
    """Everything that is told, as plain data; what is not known is null, and memory is then UNKNOWN."""
    jobs = {name: dict(counts) for name, counts in expected.jobs.items()}
    phases = {phase: sum(counts.get(phase, 0) for counts in jobs.values()) for phase in ORDER}
    found: dict[str, Any] = {
        "jobs": sum(phases.values()), "phases": {k: v for k, v in phases.items() if v}, "subjects": jobs,
        "confirmation_at_most": expected.confirmed_at_most, "trained_before": list(expected.trained),
        "parameters": shape.parameters if shape else None, "device": machine.device if machine else None,
        "fit": "UNKNOWN", "why_unknown": why, "families": {}, "need_gib": None, "have_gib": None, "trials_on_one": None,
        "gpus_per_trial": None, "hours": None, "wall_hours": None, "speed": None, "usd": None,
    }  # fmt: skip
    if shape is None or machine is None:
        return found
    found |= room(expected, shape, machine)
    if machine.speed is not None:
        found |= hours(expected, found, shape, machine, price)
    return found


def room(expected: Any, shape: Any, machine: Machine) -> dict[str, Any]:
    """Memory by family, and of the largest trial, against what is there."""
    from weakspot.cluster.estimate import MARGIN, fit, pack, peak
    from weakspot.cluster.memory_model import memory

    rows: dict[str, Any] = {}
    for name, work in expected.families.items():
        typical = sorted(memory(shape, each, machine.device).total for each in work.drawn)[len(work.drawn) // 2]
        most = memory(shape, work.largest, machine.device).total
        rows[name] = {"trained": work.largest.trained, "typical_gib": typical / GIB, "largest_gib": most / GIB,
                      "fit": fit(most, machine.memory)}  # fmt: skip
    largest = peak(shape, [*(work.largest for work in expected.families.values()), *expected.fixed], machine.device)
    found = {"families": rows, "need_gib": largest.total / GIB, "fit": fit(largest.total, machine.memory)}
    if machine.memory is None:
        return found
    found["have_gib"] = machine.memory / GIB
    if machine.device == "cpu":
        return {**found, "trials_on_one": math.floor(machine.memory * machine.at_a_time / (MARGIN * largest.total))}
    packing = pack(largest, machine.memory)
    return {**found, "trials_on_one": packing.on_one, "gpus_per_trial": packing.gpus if packing.gpus < math.inf else None}


def hours(expected: Any, found: Mapping[str, Any], shape: Any, machine: Machine, price: float | None) -> dict[str, Any]:
    """Time of all jobs: of a GPU each, or of the threads of a worker; every trial is run to its end."""
    from weakspot.cluster.estimate import measure_seconds, trial_seconds

    each = {
        name: sum(trial_seconds(shape, drawn, machine.speed) for drawn in work.drawn) / len(work.drawn)
        for name, work in expected.families.items()
    }
    asking = measure_seconds(shape, next(iter(expected.families.values())).drawn[0], machine.speed)
    mean = sum(each.values()) / len(each)
    seconds = 0.0
    for phase, count in found["phases"].items():
        seconds += count * (asking if phase == "baseline" else mean)
    seconds += sum(each.get(name, mean) - mean for name in expected.controls)
    on_gpu = machine.device == "gpu"
    share = max(1.0, found["gpus_per_trial"] or 1.0) if on_gpu else machine.threads
    total = seconds / 3600 * share
    families = {name: {**row, "seconds": each[name]} for name, row in found["families"].items()}
    return {
        "families": families, "hours": total, "wall_hours": None if on_gpu else seconds / 3600 / machine.at_a_time,
        "speed": f"{machine.speed.source}: {machine.speed.flops / 1e9:,.0f} GFLOP/s",
        "usd": total * price if price and on_gpu else None,
    }  # fmt: skip


# The words ----------------------------------------------------------------------------------------------------------------


def tell(testbed: str, found: Mapping[str, Any]) -> None:
    """Print an estimate."""
    size = f"{found['parameters']:,} parameters" if found["parameters"] else "size unknown"
    print(f"estimate of an audit of {testbed} ({size}); nothing was started\n")
    table(["jobs", *found["subjects"]], [
        [phase, *(str(counts.get(phase, "-")) for counts in found["subjects"].values())] for phase in found["phases"]
    ])  # fmt: skip
    if found["families"]:
        print()
        table(["trained", "families", "GiB, typical", "GiB, largest", "fit", "seconds a trial"], kinds(found["families"]))
    print()
    for label, text in lines(found):
        print(f"{label:<9}{text}")


def kinds(families: Mapping[str, Any]) -> list[list[str]]:
    """The families in groups by what they train; of each group the highest number."""
    rows = []
    for trained, words in TRAINED.items():
        own = [row for row in families.values() if row["trained"] == trained]
        if own:
            most = max(own, key=lambda row: row["largest_gib"])
            seconds = [row["seconds"] for row in own if "seconds" in row]
            span = f"{min(seconds):.3g} to {max(seconds):.3g}" if seconds else "UNKNOWN"
            rows.append([words, str(len(own)), f"{max(row['typical_gib'] for row in own):.2f}",
                         f"{most['largest_gib']:.2f}", most["fit"], span])  # fmt: skip
    return rows


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Jobs, memory, packing, time, price, and what is not counted."""
    told = [("jobs", f"{found['jobs']}; of re-runs at most {found['confirmation_at_most']} a safeguard")]
    if found["why_unknown"]:
        return [*told, ("memory", f"UNKNOWN: {found['why_unknown']}"), ("time", "UNKNOWN")]
    gpu = found["device"] == "gpu"
    place = "a GPU" if gpu else "this machine, for each trial at a time"
    have = f"{found['have_gib']:.1f} GiB of {place}"
    told.append(("memory", f"{found['fit']}: the largest trial needs {found['need_gib']:.2f} GiB, there are {have}"))
    told.append(("packing", packed(found, gpu)))
    if found["hours"] is None:
        told.append(("time", "UNKNOWN: give --tflops, what a trial reaches on that GPU"))
    else:
        wall = f", {found['wall_hours']:.2g} hours as long as nothing else runs" if found["wall_hours"] is not None else ""
        told.append(("time", f"{found['hours']:.3g} {'GPU' if gpu else 'CPU'}-hours{wall} ({found['speed']})"))
    if found["usd"] is not None:
        told.append(("price", f"{found['usd']:,.2f} USD"))
    trained = ", ".join(found["trained_before"]) or "none"
    told.append(("without", f"training of safeguards that are not cached ({trained}). No trial is taken to be stopped early"))
    return told


def packed(found: Mapping[str, Any], gpu: bool) -> str:
    """How many trials at a time, in words."""
    count = found["trials_on_one"]
    if not gpu:
        return f"{count} trials fit into its memory at a time"
    if count == 0:
        gpus = found["gpus_per_trial"]
        if gpus is None:
            return "no number of such GPUs holds one trial: what is not split is too large"
        return f"one trial needs {gpus:.0f} such GPUs: --gpus {gpus:.0f}, with families that can be spread (docs/cluster.md)"
    return f"{count} on a GPU: weakspot audit --gpus {found['gpus_per_trial']:g}, or auto (unmeasured: no GPU was at hand)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for number, column in enumerate(head):
        drawn.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    Console(file=sys.stdout, highlight=False).print(drawn)
