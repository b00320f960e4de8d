"""`weakspot reproduce`: run one trial of a result again, or the confirmation of its weak spot, and say whether it agrees."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

HELP = "re-run one trial of a result, or its weak spot, and say whether it agrees"
EPILOG = """\
examples:
  weakspot reproduce runs/audit
  weakspot reproduce runs/audit/result.json --subject tar --trial 17 --json

exit codes:
  0    IDENTICAL (every number but times) or AGREES (within the tolerance that is printed)
  1    internal error
  2    the user's mistake, or CANNOT: one line says why
  3    DIFFERS
  130  interrupted
"""
CODES = {"IDENTICAL": 0, "AGREES": 0, "DIFFERS": 3, "CANNOT": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("result", metavar="RESULT", help="a result.json, or the folder of an audit")
    add("--trial", metavar="ID", help="a search trial, by number or id such as tar/017 (default: the weak spot's confirmation)")
    add("--subject", metavar="NAME", help="the safeguard (default: the one with the strongest weak spot)")
    add("--testbed", metavar="FILE", help="where the TOML file of the testbed lies here, if it is one")
    add("--out", metavar="FILE", help="also write the outcome there, as JSON")
    add("--json", action="store_true", help="print the outcome as JSON; what is for people goes to standard error")


def run(options: argparse.Namespace) -> int:
    from weakspot.cli.audit_command import quieten
    from weakspot.opening import read_result
    from weakspot.search.reproduce import Cannot, choose

    quieten()
    result = read_result(options.result)
    target = choose(result, options.trial, options.subject)
    kind = "trial" if options.trial is not None else "confirmation"
    report: dict[str, Any] = {
        "outcome": "CANNOT", "reason": "", "subject": target.subject.defense, "what": kind, "name": target.name,
        "attack": target.attack, "config": dict(target.recorded.config), "grade": "none", "mismatches": [], "numbers": [],
        "seconds": 0.0,
    }  # fmt: skip
    say = sys.stderr if options.json else sys.stdout
    started = time.monotonic()
    try:
        carry_out(options, result, target, report, say)
    except Cannot as error:
        report |= {"reason": str(error), "grade": "fatal"}
    except KeyboardInterrupt:
        print("weakspot: interrupted; nothing was changed", file=sys.stderr)
        return 130
    report["seconds"] = round(time.monotonic() - started, 3)
    return tell(options, report, say)


def carry_out(options: argparse.Namespace, result: Any, target: Any, report: dict[str, Any], say: Any) -> None:
    """Compare the environment, prepare, run, compare; what is found goes into `report`."""
    from weakspot.search.environment import worst
    from weakspot.search.reproduce import differences, plain, prepare_stand, set_scene

    scene = set_scene(result, target, options.testbed)
    before = differences(result)
    report |= {"mismatches": plain(before), "grade": worst(before)}
    show_mismatches(report["mismatches"], say)
    line(say, f"preparing {target.subject.defense} (trained where it is not cached) ...")
    stand = prepare_stand(result, scene)
    found = [*before, *stand.mismatches]
    report |= {"mismatches": plain(found), "grade": worst(found)}
    show_mismatches(plain(stand.mismatches), say)
    line(say, f"environment: {GRADE_WORDS[worst(found)]}")
    seeds = ", ".join(str(job.seed) for job in scene.jobs)
    line(say, f"running {target.name} again: {target.attack}, seed {seeds} ...")
    outcomes = stand.run()
    from weakspot.search.agreement import compare

    agreed = compare(result, target, outcomes)
    numbers = [{"what": what, "recorded": old, "here": new} for what, old, new in agreed.numbers]
    report |= {"outcome": agreed.word, "reason": agreed.reason, "numbers": numbers}


GRADE_WORDS = {
    "none": "as recorded",
    "minor": "minor mismatches: the last digits may differ",
    "major": "MAJOR mismatches: another outcome may be theirs, and the same one counts for more",
}


def show_mismatches(found: list[dict[str, str]], say: Any) -> None:
    for m in found:
        line(say, f"  {m['grade']}: {m['what']}: recorded {m['recorded']}, here {m['here']}")


def line(say: Any, text: str) -> None:
    """A line for people; names and versions in it are the file's, and inert."""
    from weakspot.text import one_line

    print(text[: len(text) - len(text.lstrip())] + one_line(text), file=say, flush=True)


def tell(options: argparse.Namespace, report: dict[str, Any], say: Any) -> int:
    """Print and write the outcome. Returns the exit code."""
    from weakspot.files import write_text
    from weakspot.text import one_line

    text = json.dumps(report, indent=2, allow_nan=False)
    if options.out:
        write_text(Path(options.out).expanduser().absolute(), text + "\n")
    if options.json:
        print(text, flush=True)
    if report["outcome"] == "CANNOT":
        print(f"weakspot: CANNOT: {one_line(report['reason'])}", file=sys.stderr)
        return CODES["CANNOT"]
    for row in report["numbers"]:
        old, new = ("-" if value is None else f"{value:.4f}" for value in (row["recorded"], row["here"]))
        line(say, f"  {row['what']}: recorded {old}, here {new}")
    line(say, f"{report['outcome']}: {report['reason']}")
    if report["outcome"] == "AGREES" and report["grade"] == "none":
        line(say, "nothing of the environment differs, so that every number was expected to be the same")
    return CODES[report["outcome"]]
