"""Which families an audit may draw from: what a family needs must be given by the threat model, the testbed and the machine."""

from __future__ import annotations

from collections.abc import Sequence

from weakspot.attacks import catalogue, get
from weakspot.attacks.base import Attack
from weakspot.data import AttackData
from weakspot.errors import UserError
from weakspot.search.space import family_space
from weakspot.threat import ANY, API, IN_DOMAIN, NO_DATA, OPEN_WEIGHT, OUT_OF_DOMAIN, ThreatModel


def obstacle(family: type[Attack], threat: ThreatModel, data: AttackData) -> str:
    """Why a family cannot be run, with the field to change; empty if it can."""
    if family.service and not threat.api:
        return f"sends data to a provider, and an owner of the weights trains himself: set --threat access={API}"
    if threat.api and not family.black_box:
        return f"needs the weights and under access = {threat.access} none are out: set --threat access={OPEN_WEIGHT}"
    if family.base_weights and not threat.base_weights:
        return "needs the undefended weights and the threat model gives none: allow --threat base_weights=true"
    needs_withheld = family.harmful_data and (data.harmful or not family.without_withheld)
    if needs_withheld and threat.data == OUT_OF_DOMAIN and not data.foreign:
        return f"needs withheld examples in other forms and the testbed has none: set --threat data='{IN_DOMAIN}'"
    if needs_withheld and threat.data not in (IN_DOMAIN, OUT_OF_DOMAIN):
        return f"needs withheld examples and the threat model's data is {threat.data!r}: set --threat data='{IN_DOMAIN}'"
    if family.benign_data and threat.data == NO_DATA:
        return "needs benign examples and the threat model's data is 'none': set --threat data=benign"
    if family.gradients and not threat.gradients:
        return "needs gradients and none pass through a quantised release: allow --threat gradients=true"
    if family.asks_freely and threat.evaluation_freedom != ANY:
        return f"chooses how to ask and the threat model fixes that: set --threat evaluation_freedom='{ANY}'"
    if needs_withheld and not data.harmful:
        return "needs withheld examples and the testbed's attack split has none: choose another testbed"
    if family.benign_data and not data.benign:
        return "needs benign examples and the testbed's benign_train split has none: choose another testbed"
    return family.unavailable()


def left_out(searched: Sequence[str], threat: ThreatModel, data: AttackData, otherwise: str) -> dict[str, str]:
    """Every family of the catalogue that is not searched, with the reason.

    Args:
        otherwise: the reason where nothing keeps a family out.
    """
    reasons = {}
    for name, family in catalogue().items():
        if name not in searched:
            reasons[name] = obstacle(family, threat, data) or misfit(name, threat) or otherwise
    return reasons


def misfit(name: str, threat: ThreatModel) -> str:
    """Why nothing of a family's knobs can be varied within the budget; empty where something can."""
    try:
        return "" if family_space(name, threat) else "has nothing that could be varied"
    except UserError as error:
        return str(error)


def fits(name: str, threat: ThreatModel) -> bool:
    """Whether a family has knobs, and each has something left within the budget."""
    return not misfit(name, threat)


def admitted(names: Sequence[str] | None, threat: ThreatModel, data: AttackData) -> list[str]:
    """The families to search: those asked for, or without a wish all that have knobs and may be run.

    Raises:
        UserError: a family that was asked for is unknown or cannot be run; the field to change is named.
    """
    if names is None:
        return [name for name, family in catalogue().items() if not obstacle(family, threat, data) and fits(name, threat)]
    for name in names:
        if reason := obstacle(get(name), threat, data):
            raise UserError(f"attack {name!r} {reason}, or leave the attack out")
    return list(dict.fromkeys(names))
