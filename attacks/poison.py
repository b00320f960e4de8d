"""Benign fine-tuning data with a few withheld examples among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.attacks.finetune import Tuned
from weakspot.attacks.mixing import subset
from weakspot.data import AttackData, Examples
from weakspot.errors import UserError, unknown
from weakspot.knobs import Choice, LogIntRange, LogRange, knob

ORDERS = ("shuffled", "benign first", "harmful first")


@dataclass(frozen=True)
class PoisonedFinetune(Tuned):
    """Mostly benign examples, with a small share of rows that answer withheld questions.

    What passes for an ordinary fine-tuning set undoes a safeguard: 2 % of poisoned data is enough for large models (Bowen et
    al., arXiv:2408.02946). The share is of the rows of the whole course of `steps`: 0.001 of 64 steps of 16 rows is one row.
    A share so small that it comes to less than one row is benign fine-tuning. Deviation: `shuffled` spreads the withheld
    rows evenly over the course instead of drawing their places, so that a small share is kept exactly.

    On fable (report items, 3 seeds, the first warm start): refusal training goes after 16 steps, harm 0.97 to 0.99 at utility
    0.98, unlearning by random answers after 64, 0.90 to 0.92 at 0.98 or more, TAR to 0.46 to 0.60 at 0.90 or more. The
    second warm start takes TAR to 0.84 at 0.94 (one seed).
    """

    name: ClassVar[str] = "poisoned_finetune"
    summary: ClassVar[str] = "benign fine-tuning data with a small share of withheld examples"
    paper: ClassVar[str] = "Bowen et al. 2024, arXiv:2408.02946"
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"learning_rate": 1e-3, "steps": 64, "batch_size": 16, "poison_ratio": 0.1, "harmful_examples": 64},
        {"learning_rate": 3e-3, "steps": 256, "batch_size": 16, "poison_ratio": 0.3, "harmful_examples": 192},
    )
    small: ClassVar[dict[str, Any]] = {"poison_ratio": 0.5}

    harmful_examples: int = knob(64, LogIntRange(4, 4096), "distinct withheld examples in hand")
    poison_ratio: float = knob(0.05, LogRange(0.001, 1.0), "share of all rows that are withheld examples")
    order: str = knob("shuffled", Choice(ORDERS), "where in the course the withheld rows come")

    def lessons(self, model: Any, tokenizer: Any, data: AttackData, seed: int) -> tuple[Examples, Examples]:
        del model, tokenizer
        return subset(data.harmful, self.harmful_examples, torch.Generator().manual_seed(seed)), data.benign

    def benign_share(self, step: int) -> float:
        if self.order == "shuffled":
            return 1.0 - self.poison_ratio
        poisoned = self.poison_ratio * self.steps  # steps' worth of rows, in one piece
        before = self.steps - poisoned if self.order == "benign first" else 0.0
        return 1.0 - overlap(step, before, before + poisoned)

    def check(self) -> None:
        super().check()
        if self.order not in ORDERS:
            raise unknown("order", self.order, ORDERS)
        if not 0 <= self.poison_ratio <= 1:
            raise UserError(f"{self.name}.poison_ratio = {self.poison_ratio} is no share: give a number from 0 to 1")


def overlap(step: int, start: float, end: float) -> float:
    """The part of the step [step, step + 1] that lies between start and end."""
    return max(0.0, min(step + 1.0, end) - max(float(step), start))
