"""AutoPrompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.attacks.suffix import Suffix, SwapAttack
from weakspot.data import Examples
from weakspot.knobs import LogIntRange, knob


@dataclass(frozen=True)
class AutoPrompt(SwapAttack):
    """A universal suffix, one position a step: of the tokens that a first-order estimate puts first, the best is kept.

    The position is drawn at random. Moving its embedding to a token's changes the loss, to first order, by the gradient
    times the difference, so the tokens of the least (gradient x embedding) are the candidates; all are tried, on another
    batch of training prompts than the gradient's, and the best replaces the present token if it is better.

    Paper: Shin et al., "AutoPrompt" (arXiv:2010.15980), here for a suffix that makes a model answer, as in Che et al.
    (arXiv:2502.05209). Deviations: the best of random starts instead of mask tokens. A step costs (candidates + 3) x
    batch_size forward passes.

    On fable (4 tokens, 64 candidates, three seeds): harm .85, .21, .06 on `refusal` after 16 steps.
    """

    name: ClassVar[str] = "autoprompt"
    summary: ClassVar[str] = "adversarial suffix, one position at a time, the same for every prompt"
    paper: ClassVar[str] = "Shin et al. 2020, arXiv:2010.15980"
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"suffix_tokens": 4, "steps": 32, "target": "answer", "candidates": 64},
        {"suffix_tokens": 20, "steps": 250, "target": "beginning", "candidates": 64},
    )

    candidates: int = knob(64, LogIntRange(8, 512), "tokens tried at a step's position")

    @property
    def tried(self) -> int:
        return self.candidates

    def swaps(
        self, suffix: Suffix, gradient_SV: torch.Tensor, usable: torch.Tensor, generator: torch.Generator
    ) -> list[Suffix]:
        position = int(torch.randint(len(suffix), (1,), generator=generator))
        best_K = usable[(-gradient_SV[position]).topk(min(self.candidates, len(usable))).indices]
        return [(*suffix[:position], token, *suffix[position + 1 :]) for token in best_K.tolist()]

    def judging(self, examples: Examples, batches: Iterator[Examples]) -> Examples:
        del examples
        return next(batches)
