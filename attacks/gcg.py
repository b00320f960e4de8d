"""Greedy coordinate gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.attacks.suffix import Suffix, SwapAttack
from weakspot.knobs import LogIntRange, knob


@dataclass(frozen=True)
class Gcg(SwapAttack):
    """A universal suffix: each step swaps the one token, of many swaps tried, that most raises the target's likelihood.

    A gradient with respect to the suffix's one-hot rows names the `topk` tokens of each position that should help most;
    `search_width` swaps are drawn from them, each at a random position; the one of the lowest loss is kept, if it is lower
    than without a swap. Loss is the mean over target tokens of a batch of training prompts.

    Paper: Zou et al., "Universal and Transferable Adversarial Attacks" (arXiv:2307.15043); nanoGCG's defaults are 250 steps,
    width 512, top 256, 20 tokens, for one prompt. Deviations: a fresh batch of prompts each step instead of prompts added
    one by one; the present suffix competes with its swaps; the best of random starts; the target is the true answer, or its
    opening, not "Sure, here is". A step costs (search_width + 3) x batch_size forward passes.

    On fable (4 tokens, width 64, three seeds): harm .86, .06, .78 on `refusal` after 16 steps and .71, .06, .79 after 64;
    which minimum is found depends on the seed. Without training on insertions 20 tokens confuse a model of that size: .05.
    """

    name: ClassVar[str] = "gcg"
    summary: ClassVar[str] = "adversarial suffix by greedy coordinate gradient, the same for every prompt"
    paper: ClassVar[str] = "Zou et al. 2023, arXiv:2307.15043"
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"suffix_tokens": 4, "steps": 32, "target": "answer", "search_width": 64, "topk": 128},
        {"suffix_tokens": 20, "steps": 250, "target": "beginning", "search_width": 64, "topk": 256},
    )

    search_width: int = knob(64, LogIntRange(8, 512), "swaps tried at a step")
    topk: int = knob(128, LogIntRange(8, 256), "tokens that a position's swaps are drawn from, those of the best gradient")

    @property
    def tried(self) -> int:
        return self.search_width

    def swaps(
        self, suffix: Suffix, gradient_SV: torch.Tensor, usable: torch.Tensor, generator: torch.Generator
    ) -> list[Suffix]:
        best_SK = usable[(-gradient_SV).topk(min(self.topk, len(usable))).indices]
        positions = torch.randint(len(suffix), (self.search_width,), generator=generator)
        choices = torch.randint(best_SK.shape[1], (self.search_width,), generator=generator)
        drawn = zip(positions.tolist(), best_SK[positions, choices].tolist(), strict=True)
        return [(*suffix[:p], token, *suffix[p + 1 :]) for p, token in drawn]
