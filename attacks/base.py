"""The contract of an attack family: a frozen dataclass of choices, and one generator that tampers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from weakspot.data import AttackData
from weakspot.elicitation import PLAIN, Elicitation


@dataclass(frozen=True)
class Progress:
    """What an attack has cost so far.

    Attributes:
        step: optimizer steps taken.
        examples: distinct withheld examples the attacker has trained on.
        tokens: tokens processed in training, padding left out.
        flops: floating-point operations of the attack, by the count of `attacks/meter.py`. Asking is not counted.
        final: whether the attack ends here. May be left False: the end of the generator says it too.
        elicitation: how the attacker asks the model now.
        note: what the record of the trial should say besides, in one line.
        first_batch: a fingerprint of the first batch, where the attack trains in batches: another seed must give another.
        losses: the training loss over its first steps and over its latest, where the attack trains on one.
    """

    step: int = 0
    examples: int = 0
    tokens: int = 0
    flops: float = 0.0
    final: bool = False
    elicitation: Elicitation = PLAIN
    note: str = ""
    first_batch: str = ""
    losses: tuple[float, float] | None = None


@dataclass(frozen=True)
class Attack(ABC):
    """One family of tampering. Fields are knobs (weakspot/knobs.py); class attributes say what the family needs.

    Attributes:
        name: its name in the catalogue.
        summary: one line.
        paper: the source.
        gradients: it differentiates the model.
        harmful_data: it is given withheld examples with truthful answers.
        benign_data: it is given benign examples.
        base_weights: it needs the undefended weights.
        second_checkpoint: it needs another checkpoint.
        edits_weights: it changes weights, or activations for every question (else only how withheld questions are asked).
        service: it sends data to a provider's fine-tuning API, and needs one.
        black_box: it needs no weights, only replies (or a fine-tuning API).
        asks_freely: it chooses prompts or decoding, which the threat model must allow.
        seeded: the training seed changes something; a closed-form edit comes out the same on every seed.
        injection_capable: it optimises towards given outputs and can elicit what no model knew, so it never shows alone that
            knowledge was there (Chen et al., arXiv:2502.15836).
        shards: it may train a model that is spread over several GPUs (weakspot/sharding.py): every parameter, by a loss that is
            a mean over predicted tokens.
        needs_null_control: it can inject what the model never knew, so the never-taught control must accompany a claim.
        relative_price: price of one step against a full fine-tuning step; orders families before anything is measured.
        without_withheld: knobs that a family given withheld examples runs with where there are none; empty if it cannot.
        warm_starts: configurations known to be strong, proposed first.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    gradients: ClassVar[bool] = True
    harmful_data: ClassVar[bool] = True
    benign_data: ClassVar[bool] = True
    base_weights: ClassVar[bool] = False
    second_checkpoint: ClassVar[bool] = False
    edits_weights: ClassVar[bool] = True
    service: ClassVar[bool] = False
    black_box: ClassVar[bool] = False
    asks_freely: ClassVar[bool] = False
    seeded: ClassVar[bool] = True
    injection_capable: ClassVar[bool] = False
    shards: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = True
    relative_price: ClassVar[float] = 1.0
    without_withheld: ClassVar[Mapping[str, Any]] = {}
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = ()

    @classmethod
    def unavailable(cls) -> str:
        """Why this machine cannot run the family (what is missing and how to get it), or empty if it can."""
        return ""

    @abstractmethod
    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        """Tamper with `model` in place and yield at each rung, so that the caller measures, reports and may stop.

        Args:
            model: the safeguarded model, in eval mode; the caller owns it and restores its weights afterwards.
            tokenizer: its tokenizer, with a chat template.
            data: what the attacker holds.
            rungs: optimizer steps at which to yield, increasing; the last is the budget.
            seed: the training seed: data subset, data order, initialisation.

        Yields:
            Progress at every rung the attack reaches. While suspended, `model` is the tampered model.

        Raises:
            TrialFailure: the attack cannot be carried through (a loss that is not finite).
            UserError: it lacks what it needs (no examples).

        Closing the generator early detaches whatever it attached (adapters, hooks).
        """


NEEDS = (
    "gradients",
    "harmful_data",
    "benign_data",
    "base_weights",
    "second_checkpoint",
    "edits_weights",
    "service",
    "asks_freely",
    "needs_null_control",
)


def needs_of(family: type[Attack]) -> list[str]:
    """The names of what a family needs, for catalogues and checks."""
    return [need for need in NEEDS if getattr(family, need)]


def in_hand(family: type[Attack], data: AttackData) -> AttackData:
    """The part of the data that a family declares it needs: what is not declared cannot be used in secret."""
    return AttackData(
        harmful=data.harmful if family.harmful_data else (),
        benign=data.benign if family.benign_data else (),
        refusal=data.refusal,
        base=data.base if family.base_weights else None,
        service=data.service if family.service else None,
    )
