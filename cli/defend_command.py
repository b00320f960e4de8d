"""`weakspot defend`: apply one method to a testbed's base model and keep the checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from weakspot.errors import UserError

HELP = "apply a defense to a testbed's base model and write the safeguarded checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("defense", metavar="DEFENSE", help="a name from `weakspot list defenses`")
    parser.add_argument("--testbed", default="fable", metavar="NAME", help="a name from `weakspot list testbeds`")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the checkpoint goes; must be empty or absent")
    parser.add_argument("--seed", type=int, default=0, help="root seed, as of an audit that applies it (default: 0)")
    parser.add_argument("--set", action="append", metavar="KNOB=VALUE", help="a hyperparameter; repeat for more")


def run(options: argparse.Namespace) -> int:
    from weakspot.cli.audit_command import quieten

    quieten()
    from weakspot import defenses
    from weakspot.search.defend import defend

    try:
        out = Path(options.out).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"{options.out} is no folder ({error}): give another --out") from error
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: give an empty or a new folder with --out")
    if odd := next((text for text in options.set or () if "=" not in text), None):
        raise UserError(f"--set {odd}: give KNOB=VALUE, as in --set steps=100")
    changes = defenses.parse_set([f"{options.defense}.{text}" for text in options.set or ()])
    method = defenses.preset(options.defense, options.testbed, changes.get(options.defense))
    measured = defend(options.testbed, method, options.seed, out)
    print(f"{options.defense} on {options.testbed}: harm {measured.harm:.2f}, utility {measured.utility:.2f} before any attack")
    print(f"checkpoint: {out}")
    print(f"audit it: weakspot audit --testbed {options.testbed} --defense {out}")
    return 0
