"""The tree-shaped space: first a family, then the knobs of that family, narrowed to what the threat model allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from weakspot.attacks import Attack, catalogue, get
from weakspot.errors import UserError
from weakspot.knobs import Choice, Domain, Range, Space, space_of
from weakspot.threat import API_KNOBS, FORMAT_KNOBS, SERVICE_KNOBS, ThreatModel

# How a knob's name ends -> field of the threat model.
BOUNDED = {"steps": "max_steps", "harmful_examples": "max_examples", "rows": "max_rows"}


@dataclass(frozen=True)
class AttackSpace:
    """Families and their spaces. Module-level and plain, so that it pickles by reference into workers."""

    families: Mapping[str, Space]

    def suggest(self, trial: Any) -> tuple[str, dict[str, Any]]:
        """Draw a family and its knobs from an Optuna trial, as (family, config).

        Parameters are named `family.knob`, so the families' parameters never mix; TPE with `group=True` models each branch.
        """
        names = sorted(self.families)
        family = trial.suggest_categorical("attack", names) if len(names) > 1 else names[0]
        return family, {knob: _suggest(trial, f"{family}.{knob}", domain) for knob, domain in self.families[family].items()}

    def as_parameters(self, family: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration in the naming of the study."""
        choice = {"attack": family} if len(self.families) > 1 else {}
        return {**choice, **{f"{family}.{knob}": value for knob, value in config.items()}}

    def distributions(self, family: str) -> dict[str, Any]:
        """The domains of a family's configuration in that naming, as Optuna's."""
        choice = {"attack": distribution(Choice(tuple(sorted(self.families))))} if len(self.families) > 1 else {}
        return {**choice, **{f"{family}.{knob}": distribution(domain) for knob, domain in self.families[family].items()}}

    def from_parameters(self, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """What `as_parameters` named, as (family, config)."""
        family = parameters.get("attack") or next(iter(self.families))
        known = len(family) + 1
        return family, {name[known:]: value for name, value in parameters.items() if name.startswith(f"{family}.")}

    def describe(self) -> dict[str, dict[str, str]]:
        """The space as text: part of the study's identity and of `weakspot list attacks --json`."""
        return {name: {knob: str(domain) for knob, domain in space.items()} for name, space in sorted(self.families.items())}


def build_space(names: list[str], threat: ThreatModel) -> AttackSpace:
    """The union of admitted families (search/admission.py), within the budget of the threat model.

    Raises:
        UserError: no family can be searched.
    """
    families = {}
    for name in catalogue_order(names):
        if space := family_space(name, threat):
            families[name] = space
    if not families:
        raise UserError(
            f"nothing to search: {', '.join(names) or 'no attack'} has no knobs: name at least one of full_finetune, lora"
        )
    return AttackSpace(families)


def catalogue_order(names: Sequence[str]) -> list[str]:
    """Each name once, in the catalogue's order, which decides what is proposed when.

    Raises:
        UserError: an unknown name.
    """
    wanted = {get(name).name for name in names}
    return [name for name in catalogue() if name in wanted]


def family_space(name: str, threat: ThreatModel) -> Space:
    """The knobs of one family within the budget. Raises UserError if nothing is left of one."""
    family = get(name)
    halves = getattr(family, "halved", ())
    tight = replace(threat, max_steps=max(1, threat.max_steps // 2))
    masked = providers_knobs(family, threat)
    fixed = family.without_withheld if threat.max_examples == 0 else {}
    masked = (*masked, "harmful_examples") if fixed else masked
    return {
        knob: Choice((fixed[knob],)) if knob in fixed else narrow(knob, domain, tight if knob in halves else threat)
        for knob, domain in space_of(family).items()
        if knob not in masked
    }


def providers_knobs(family: type[Attack], threat: ThreatModel) -> tuple[str, ...]:
    """The knobs that this attacker cannot choose, because a provider does."""
    masked = FORMAT_KNOBS if threat.api else ()
    return (*masked, *SERVICE_KNOBS) if family.service and threat.access != API_KNOBS else masked


def permitted(name: str, config: Mapping[str, Any], threat: ThreatModel) -> dict[str, Any]:
    """A given configuration without what this attacker cannot choose, its upload cut to what the provider takes."""
    masked = providers_knobs(get(name), threat)
    kept = {knob: value for knob, value in config.items() if knob not in masked}
    return {knob: min(value, threat.max_rows) if knob == "rows" else value for knob, value in kept.items()}


def narrow(knob: str, domain: Domain, threat: ThreatModel) -> Domain:
    """A range cut to the budget of the threat model.

    Raises:
        UserError: nothing of the range is left.
    """
    field = next((field for ending, field in BOUNDED.items() if knob.endswith(ending)), None)
    if field is None or not isinstance(domain, Range):
        return domain
    most = getattr(threat, field)
    if most < domain.low:
        raise UserError(f"{field} = {most} is below the least {knob} of an attack, {domain.low:g}: allow more")
    return Range(domain.low, min(domain.high, most), domain.log, domain.integer)


def pull_in(value: Any, domain: Domain) -> Any:
    """The nearest value inside a range; of a choice the value itself, or the first where it is not open."""
    if isinstance(domain, Choice):
        return value if value in domain else domain.values[0]
    return type(value)(min(max(value, domain.low), domain.high))


def defaults(name: str) -> dict[str, Any]:
    """The searchable knobs of a family at their defaults."""
    instance = get(name)()
    return {knob: getattr(instance, knob) for knob in space_of(type(instance))}


def distribution(domain: Domain) -> Any:
    """A knob's domain as Optuna's."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choice):
        return CategoricalDistribution(list(domain.values))
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _suggest(trial: Any, name: str, domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(name, list(domain.values))
    if domain.integer:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
