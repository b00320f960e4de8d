"""The leaderboard: cards as one self-contained page and as CSV. Two threat models, or two testbeds, are never in one ranking.

Ranked is what the evidence excludes: the upper end of the interval of confirmed harm, the lowest first. So a thin audit does
not win. What is unreliable is shown, marked, below, without a rank.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weakspot.cards import Card, threat_digest
from weakspot.records import ThreatModelRecord
from weakspot.report import embed
from weakspot.report.numbers import ABSENT, human_flops, interval, plain, settings
from weakspot.report.words import attacker, counted
from weakspot.text import one_line

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
NOT_DATA = ("weights", "tokenizer", "model", "code")  # pins of what is attacked; the others are of what measures it
CENSORED = ">"


@dataclass(frozen=True)
class Cell:
    """A line of text, a smaller line below it, where it leads, and what the column is sorted by."""

    text: str
    note: str = ""
    url: str = ""
    key: float | str = ""


@dataclass(frozen=True)
class Row:
    """A card in its table. `rank` is null for an unreliable one, whose reasons are listed."""

    card: Card
    rank: int | None
    reasons: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Board:
    """One ranking: one testbed, one threat model."""

    testbed: str
    digest: str
    attacker: str
    fields: tuple[tuple[str, str], ...]
    yardstick: str
    rows: tuple[Row, ...]
    measured_on: int


COLUMNS = ("Safeguard", "Verdict", "Worst confirmed harm", "Utility kept", "Cost to break", "Searched", "Reported", "Elsewhere")


def make_boards(cards: Iterable[Card]) -> list[Board]:
    """One board for each testbed and threat model, in alphabetical order.

    The same cards in any order give the same boards, and a copy of a card is that card.
    """
    groups: dict[tuple[str, str], list[Card]] = {}
    known = {card.to_json(): card for card in cards}
    for _, card in sorted(known.items(), key=lambda pair: (pair[1].name, pair[0])):
        groups.setdefault((one_line(card.testbed), threat_digest(card.threat_model)), []).append(card)
    return [board(testbed, digest, group) for (testbed, digest), group in sorted(groups.items())]


def board(testbed: str, digest: str, cards: Sequence[Card]) -> Board:
    reliable = sorted((card for card in cards if card.reliable), key=ceiling)
    others = sorted((card for card in cards if not card.reliable), key=ceiling)
    ceilings = [ceiling(card) for card in reliable]
    rows = [row(card, ceilings.index(ceiling(card)) + 1) for card in reliable] + [row(card, None) for card in others]
    threat = cards[0].threat_model
    fields = tuple((name, one_line(str(value))) for name, value in facts(threat).items())
    items = {measured_on(card) for card in cards}
    return Board(testbed or "(no name)", digest, one_line(attacker(threat)), fields, yardstick(cards), tuple(rows), len(items))


def yardstick(cards: Sequence[Card]) -> str:
    """What the base does without a safeguard, in a sentence; empty where no card says."""
    harms = sorted({card.undefended.harm for card in cards if card.undefended})
    if not harms:
        return ""
    ends = dict.fromkeys(plain(harm) for harm in (harms[0], harms[-1]))
    return f"The undefended base has harm {' to '.join(ends)}."


def ceiling(card: Card) -> float:
    """The harm that the evidence does not exclude; everything where nothing was confirmed."""
    return card.found.harm.high if card.found else 1.0


def measured_on(card: Card) -> str:
    """A digest of the data and the measures behind a card."""
    pins = sorted((name, pin) for name, pin in card.provenance.pins.items() if name.partition(".")[0] not in NOT_DATA)
    return hashlib.sha256(repr(pins).encode("utf-8", "replace")).hexdigest()[:12]


def facts(threat: ThreatModelRecord) -> dict[str, object]:
    """The threat model without what is no part of it: its digest, and what could be spent on choosing an attack."""
    return threat.model_dump(exclude={"digest", "tuning_trials", "tuning_flops"})


def row(card: Card, rank: int | None) -> Row:
    cells = (safeguard(card), Cell(card.verdict, key=card.verdict), harm(card), utility(card))
    cells += (cost_to_break(card), searched(card), reported(card), elsewhere(card))
    return Row(card, rank, tuple(one_line(reason, 400) for reason in card.unreliable), cells)


def safeguard(card: Card) -> Cell:
    paper = one_line(card.paper, 120)
    known = ARXIV.search(paper)
    url = f"https://arxiv.org/abs/{known[1]}" if known else ""
    name = one_line(card.name, 120) or "(no name)"
    return Cell(name, paper or one_line(card.defense.summary, 120), url, name.lower())


def harm(card: Card) -> Cell:
    if card.found is None:
        return Cell(ABSENT, "nothing confirmed", key=2.0)
    mean, _, ends = interval(card.found.harm).partition(" ")
    return Cell(f"{mean} {ends}", f"by {one_line(card.found.attack, 60)}", key=card.found.harm.high)


def utility(card: Card) -> Cell:
    return Cell(plain(card.found and card.found.utility.mean), key=card.found.utility.mean if card.found else -1.0)


def cost_to_break(card: Card) -> Cell:
    """What the cheapest confirmed break cost; for HELD only that it is more than the dearest attack that was tried."""
    if card.broken_at is not None:
        if not card.broken_at.flops and not card.broken_at.steps:
            return Cell("nothing at all", key=0.0)
        return Cell(human_flops(card.broken_at.flops), counted(card.broken_at.steps, "step"), key=card.broken_at.flops)
    if card.verdict == "HELD":
        longest = card.searched.longest
        return Cell(f"{CENSORED} {human_flops(longest)}", "not broken up to there", key=longest)
    return Cell(ABSENT, "not known", key=-1.0)


def searched(card: Card) -> Cell:
    looked = card.searched
    return Cell(human_flops(looked.flops), f"{counted(looked.trials, 'trial')}, {looked.families} families", key=looked.flops)


def reported(card: Card) -> Cell:
    if (said := card.reported) is None:
        return Cell(ABSENT, key=-1.0)
    measure = "" if said.measure == "harm" else f" {one_line(said.measure, 40)}"
    return Cell(f"{said.value:.4g}{measure}", one_line(said.source, 80), said.url, said.value)


def elsewhere(card: Card) -> Cell:
    if not card.external:
        return Cell(ABSENT, key=-1.0)
    top = max(card.external, key=lambda found: found.harm)
    more = f" and {len(card.external) - 1} more" if len(card.external) > 1 else ""
    return Cell(plain(top.harm), f"{one_line(top.attack, 40)}, {one_line(top.source, 60)}{more}", top.url, top.harm)


# The page ----------------------------------------------------------------------------------------------------------------


def to_html(boards: Sequence[Board]) -> str:
    """The whole page. Everything that cards say is escaped by the template engine; the one script is named by its hash."""
    from markupsafe import Markup

    script = embed.packaged("leaderboard.js")
    return embed.template("leaderboard.html").render(
        title="Leaderboard",
        policy=embed.policy(script),
        boards=boards,
        columns=COLUMNS,
        css=Markup(look() + embed.packaged("leaderboard.css")),
        script=Markup(script),
    )


def look() -> str:
    """The colours and fonts of the report, light and dark: the rule of report/page.css that sets its variables."""
    rule = re.search(r":root \{[^}]*\}", embed.packaged("page.css"))
    assert rule is not None, "report/page.css begins with its variables"
    return rule[0] + "\n"


# The table as CSV --------------------------------------------------------------------------------------------------------

FIELDS = (
    "testbed", "threat_model", "rank", "name", "method", "paper", "verdict", "reliable", "unreliable", "harm", "harm_low",
    "harm_high", "utility", "attack", "config_digest", "config", "seeds", "items", "break_flops", "break_steps",
    "censored_at_flops", "trials", "families", "search_flops", "undefended_harm", "reported", "reported_measure",
    "reported_source", "external", "measured_on", "weakspot", "finished", "result_sha256",
)  # fmt: skip


def to_csv(boards: Sequence[Board]) -> str:
    """One line a card. Numbers are plain; text cannot begin a formula (OWASP, "CSV injection")."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(FIELDS)
    for ranking in boards:
        for entry in ranking.rows:
            writer.writerow([inert(value) for value in record(ranking, entry)])
    return out.getvalue()


def inert(value: object) -> object:
    """A cell that no spreadsheet runs."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = one_line(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def record(ranking: Board, entry: Row) -> tuple[object, ...]:
    """The values of FIELDS, in their order."""
    card = entry.card
    found, said, looked, broken = card.found, card.reported, card.searched, card.broken_at
    others = "; ".join(f"{e.source}: {e.attack}: {e.harm:g}" for e in card.external)
    return (
        ranking.testbed, ranking.digest, entry.rank, card.name, card.defense.method, card.paper, card.verdict,
        "yes" if card.reliable else "no", "; ".join(entry.reasons),
        *((found.harm.mean, found.harm.low, found.harm.high, found.utility.mean) if found else (None,) * 4),
        *((found.attack, found.config_digest, settings(found.config), found.seeds, found.items) if found else (None,) * 5),
        broken and broken.flops, broken and broken.steps, looked.longest if card.verdict == "HELD" else None,
        looked.trials, looked.families, looked.flops, card.undefended and card.undefended.harm,
        *((said.value, said.measure, said.source) if said else (None,) * 3), others,
        measured_on(card), card.provenance.weakspot, card.provenance.finished, card.provenance.result_sha256,
    )  # fmt: skip
