"""`weakspot card`: what is known of each safeguard of an audit, as a file that can be shared."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from weakspot.errors import UserError, unknown

HELP = "write a card for each safeguard of a finished audit: reported, found here, reliable or not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("result", metavar="RESULT", help="the folder of an audit, or its result.json")
    add("--subject", metavar="NAME", help="the card of this safeguard only")
    add("--facts", metavar="FILE", help="TOML: paper, what its authors report, what others found (docs/cards.md)")
    add("--out", metavar="FILE", help="one card's file, or the folder of several (default: beside result.json)")


def run(options: argparse.Namespace) -> int:
    from weakspot.files import write_text
    from weakspot.opening import read_result, result_path
    from weakspot.report.cards import file_names, make_cards

    path = result_path(options.result)
    result = read_result(path)
    every = make_cards(result, supplied(options.facts, result), papers(), hashlib.sha256(path.read_bytes()).hexdigest())
    if not every:
        raise UserError(f"{path} holds no safeguard: the undefended base and the control get no card")
    asked = options.subject
    cards = {label: card for label, card in every.items() if asked in (None, label, card.defense.method)}
    if not cards:
        raise unknown("subject", asked, [card.name for card in every.values()])
    out = Path(options.out).expanduser() if options.out else path.parent
    single = options.out is not None and len(cards) == 1 and out.suffix == ".json"
    if out.suffix == ".json" and not single:
        raise UserError(f"--out {out} is one file and there are {len(cards)} cards: name one with --subject, or give a folder")
    names = file_names(list(cards))
    for label, card in cards.items():
        place = out if single else out / names[label]
        write_text(place, card.to_json())
        print(place)
    return 0


def supplied(file: str | None, result: Any) -> dict[str, Any]:
    """What the user wrote down of each safeguard, by the defense's name or by label."""
    from weakspot.cards import parse_supplied
    from weakspot.report.evidence import audited

    if file is None:
        return {}
    path = Path(file).expanduser()
    try:
        facts = parse_supplied(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--facts {path} cannot be read ({error}): give a TOML file") from error
    known = [name for label, subject in audited(result).items() for name in (label, subject.defense)]
    if extra := sorted(set(facts) - set(known)):
        raise unknown(f"safeguard in --facts {path}", extra[0], set(known))
    return facts


def papers() -> dict[str, str]:
    """Papers of the methods and the published checkpoints, by name; none where torch is not installed."""
    try:
        from weakspot.defenses import DEFENSES
        from weakspot.defenses.released import RELEASED
    except ModuleNotFoundError:
        return {}
    return {name: known.paper for name, known in [*DEFENSES.items(), *RELEASED.items()]}
