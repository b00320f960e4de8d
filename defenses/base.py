"""The contract of a defense: a frozen dataclass of the method's hyperparameters and the hooks it implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from weakspot.data import DefenseData


@dataclass(frozen=True)
class PaperAttack:
    """An attack as data: defenses do not import attacks. `config` may name any knob of the family."""

    attack: str
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Defense(ABC):
    """One method that turns a base model into a safeguarded one.

    Attributes:
        name: its name in the catalogue.
        summary: one line.
        paper: the source.
        stage: when the provider runs it: "alignment" is before release, the only stage that counts for open weights.
        claims: what its paper says it withstands, in words that a report prints.
        claimed_attacks: families its paper claims to withstand.
        claimed_steps: most fine-tuning steps the paper tested it against; an attack within them is in-claim.
        presets: hyperparameters for a testbed's scale, by testbed name.
        paper_attacks: what the paper's own evaluation did, at a testbed's scale, by testbed name.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    stage: ClassVar[str] = "alignment"
    claims: ClassVar[str] = ""
    claimed_attacks: ClassVar[tuple[str, ...]] = ()
    claimed_steps: ClassVar[int | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    paper_attacks: ClassVar[Mapping[str, PaperAttack]] = {}

    @abstractmethod
    def align(self, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> Any:
        """Safeguard `model` in place, before release, and return it in eval mode.

        Args:
            model: the capable base model, with fp32 parameters.
            tokenizer: its tokenizer, with a chat template.
            data: what the defender holds; disjoint from what attacker and evaluation hold.
            seed: data order and random choices.
        """
