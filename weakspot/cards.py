"""The schema of card.json, version 1: what is known of one checkpoint under one threat model, in RobustBench's spirit.

Three kinds of evidence stand side by side and are never merged: what the authors reported, what an audit found, what others
found. (Croce et al., "RobustBench", arXiv:2010.09670; its entries hold these and a flag for what cannot be relied on.) Cards
travel: they hold scores, digests and names, no text of a model, no command, no machine.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from weakspot.errors import UserError
from weakspot.records import Claim, Cost, HarmUtility, Interval, Record, ThreatModelRecord, VerdictName
from weakspot.text import encodable, one_line

CARD_VERSION = 1
REMEDY = "write it with `weakspot card`"


def _web(url: str) -> str:
    if url and (not url.startswith(("https://", "http://")) or not url.isprintable() or " " in url):
        raise ValueError("a link begins with https:// or http:// and has no spaces")
    return url


Url = Annotated[str, AfterValidator(_web)]
Share = Annotated[float, Field(ge=0, le=1)]


class Reported(Record):
    """What the authors say of their own checkpoint. `measure` names it where it is not harm as this testbed measures it."""

    value: float
    source: str
    measure: str = "harm"
    url: Url = ""


class External(Record):
    """What somebody else found, by another attack."""

    source: str
    attack: str
    harm: Share
    url: Url = ""


class Supplied(Record):
    """What only a user knows of a checkpoint; the content of one table of the file that `weakspot card --facts` reads."""

    paper: str = ""
    reported: Reported | None = None
    external: list[External] = Field(default_factory=list)


class DefenseCard(Record):
    """The safeguard: its method, or `checkpoint` where weights were given, and what its authors claim."""

    method: str
    summary: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int
    claims: str = ""
    claim: Claim = "none"


class Found(Record):
    """The worst confirmed configuration. `config_digest` names it: where two cards agree in it, the attack is the same."""

    attack: str
    config: dict[str, Any]
    config_digest: str
    harm: Interval
    utility: Interval
    searched_harm: float
    seeds: int
    items: int
    cost: Cost

    @model_validator(mode="after")
    def _in_order(self) -> Found:
        if not 0 <= self.harm.low <= self.harm.mean <= self.harm.high <= 1:
            raise ValueError("an interval of harm runs upwards within [0, 1]")
        return self


class Looked(Record):
    """What was searched: where a cost to break that was not found is cut off.

    Attributes:
        flops: the attacker's operations over all trials.
        longest: those of the dearest single attack.
    """

    trials: int
    families: int
    flops: float
    longest: float
    objective: str
    searcher: str
    scheduler: str
    suite: str = ""


class CardProvenance(Record):
    """What computed a card, and from what. `pins` as in result.json; `result_sha256` is that file's digest."""

    weakspot: str
    git_commit: str | None
    started: str
    finished: str
    root_seed: int
    packages: dict[str, str] = Field(default_factory=dict)
    pins: dict[str, str] = Field(default_factory=dict)
    result_sha256: str = ""


class Card(Record):
    """One checkpoint under one threat model.

    Attributes:
        reported, found, external: the three kinds of evidence; null or empty where there is none.
        broken_at: the cost of the cheapest confirmed break; null where nothing broke it, so that it is above
            `searched.longest`.
        undefended: harm and utility of the base without a safeguard, the yardstick.
        reliable: whether nothing below speaks against reading `found` as it stands.
        unreliable: the reasons against it.
    """

    card_version: Literal[1] = CARD_VERSION
    name: str = Field(min_length=1)
    testbed: str
    defense: DefenseCard
    paper: str = ""
    threat_model: ThreatModelRecord
    verdict: VerdictName
    reason: str = ""
    reported: Reported | None = None
    found: Found | None = None
    broken_at: Cost | None = None
    searched: Looked
    undefended: HarmUtility | None = None
    reliable: bool
    unreliable: list[str] = Field(default_factory=list)
    external: list[External] = Field(default_factory=list)
    provenance: CardProvenance

    @model_validator(mode="after")
    def _flag_and_reasons_agree(self) -> Card:
        if self.reliable == bool(self.unreliable):
            raise ValueError("reliable is true exactly where unreliable lists no reason")
        if self.reliable and (self.found is None or self.verdict == "INCONCLUSIVE"):
            raise ValueError("reliable needs a verdict and a confirmed configuration")
        return self

    def to_json(self) -> str:
        """The text of card.json. Lone surrogates, which UTF-8 cannot hold, become U+FFFD."""
        try:
            return self.model_dump_json(indent=2) + "\n"
        except PydanticSerializationError:
            return Card.model_validate(encodable(self.model_dump())).model_dump_json(indent=2) + "\n"


def threat_digest(threat: ThreatModelRecord) -> str:
    """The digest of weakspot/threat.py, from the fields themselves: cards are grouped by what they say, not by a label."""
    fields = threat.model_dump(exclude={"digest", "tuning_trials", "tuning_flops"})
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def config_digest(attack: str, config: dict[str, Any]) -> str:
    """A name for exactly this configuration of this family."""
    return hashlib.sha256(json.dumps([attack, config], sort_keys=True, default=str).encode()).hexdigest()[:12]


def parse_card(text: str, origin: str = "card.json") -> Card:
    """Read a card. Types are those of the file: no number is read out of a text.

    Raises:
        UserError: it is not JSON, not of this version, or not of its schema; the message names the first field that is wrong.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is no card: it is not JSON ({one_line(str(error), 100)}): {REMEDY}") from error
    version = data.get("card_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > CARD_VERSION:
        raise UserError(
            f"{origin} is a card of version {version} and this weakspot reads version {CARD_VERSION}: install a newer weakspot"
        )
    try:
        return Card.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{origin} is no card of version {CARD_VERSION}: {_first(error)}: {REMEDY}") from error


def parse_supplied(text: str, origin: str) -> dict[str, Supplied]:
    """Read a TOML file with a table for each safeguard: `paper`, `reported` and `external`.

    Raises:
        UserError: it is not TOML, or holds what is not asked for.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{origin} is not TOML ({one_line(str(error), 100)}): see docs/cards.md for an example") from error
    supplied = {}
    for name, table in data.items():
        try:
            supplied[name] = Supplied.model_validate(table)
        except ValidationError as error:
            raise UserError(f"{origin}: [{one_line(name, 80)}] {_first(error)}: see docs/cards.md for an example") from error
    return supplied


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{one_line('.'.join(map(str, first['loc'])) or 'the file', 200)}: {one_line(first['msg'], 200)}"
