"""`weakspot leaderboard`: one page and one CSV from the cards of a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from weakspot.errors import UserError

HELP = "write a leaderboard, as a page and as CSV, from the cards in a folder"
PATTERN = "card*.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cards", metavar="DIR", help=f"a folder with cards: every {PATTERN} in it and below")
    parser.add_argument("--out", metavar="FILE", help="the page; the CSV goes beside it (default: leaderboard.html in DIR)")


def run(options: argparse.Namespace) -> int:
    from weakspot.files import write_text
    from weakspot.report.leaderboard import make_boards, to_csv, to_html

    folder = Path(options.cards).expanduser()
    boards = make_boards(read_cards(folder))
    page = Path(options.out).expanduser() if options.out else folder / "leaderboard.html"
    if page.suffix not in (".html", ".htm"):
        raise UserError(f"--out {page} is no page: give a name that ends in .html")
    for path, text in ((page, to_html(boards)), (page.with_suffix(".csv"), to_csv(boards))):
        write_text(path, text)
        print(path)
    return 0


def read_cards(folder: Path) -> list[Any]:
    """Every card in a folder.

    Raises:
        UserError: no folder, no card, or one that cannot be read: none is left out without a word.
    """
    from weakspot.cards import parse_card

    if not folder.is_dir():
        raise UserError(f"no folder at {folder}: give one with cards of `weakspot card`")
    paths = sorted(path for path in folder.rglob(PATTERN) if path.is_file())
    if not paths:
        raise UserError(f"no {PATTERN} in {folder}: write cards with `weakspot card RESULT`")
    cards = []
    for path in paths:
        try:
            cards.append(parse_card(path.read_text(encoding="utf-8"), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): take it away, or write it again") from error
    return cards
