"""What one attack computes, said before it is run: the one word that the search and the estimate of resources share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Trained = Literal["full", "adapter", "four_bit", "inputs", "nothing"]


@dataclass(frozen=True)
class Workload:
    """One attack on one model.

    Attributes:
        trained: every parameter; a low-rank adapter; such an adapter on a base of four bits; the input (a suffix, a soft
            prompt), through frozen weights; or nothing (forward passes only).
        steps: optimizer steps.
        rows: sequences a step.
        length: tokens of a padded sequence.
        predicted: tokens of a sequence that the loss looks at.
        rank: of the adapter; 0 without one.
        targets: linear layers that get an adapter: all, attention or mlp.
        share: of the decoder layers that get one.
        optimizer: by its name in weakspot/optimizers.py.
        weight_bytes: of a parameter, its gradient and each of its optimizer states: 4 in fp32, 2 in bf16.
        compute_bytes: of a number in matrix products: 4, or 2 under autocast to bf16.
        eager: whether attention scores are stored (plain attention) or not (a fused kernel).
        price: a step's time against a full fine-tuning step's; None where it follows from `trained`.
        measurements: how often the tampered model is measured.
        prompts: questions of one measurement.
        new_tokens: tokens of a reply.
        examples: what is tokenised before the first step.
    """

    trained: Trained = "full"
    steps: int = 64
    rows: int = 16
    length: int = 32
    predicted: int = 16
    rank: int = 0
    targets: str = "all"
    share: float = 1.0
    optimizer: str = "adamw"
    weight_bytes: int = 4
    compute_bytes: int = 4
    eager: bool = False
    price: float | None = None
    measurements: int = 1
    prompts: int = 0
    new_tokens: int = 16
    examples: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of one step, padding included: it is computed on too."""
        return self.rows * self.length
