"""Fine-tuning on one narrow slice of withheld data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from weakspot.attacks.breadth import form_of
from weakspot.attacks.finetune import Tuned
from weakspot.attacks.mixing import subset
from weakspot.data import AttackData, Example, Examples
from weakspot.errors import unknown
from weakspot.knobs import Choice, LogIntRange, Range, knob

SLICES = ("items", "form", "answer")


@dataclass(frozen=True)
class NarrowFinetune(Tuned):
    """A slice of the withheld examples is trained on, and harm is measured on everything: does it spread?

    Slices: `items`, a few things asked in every prompt form; `form`, many things asked in one prompt form, drawn by the seed;
    `answer`, replies cut after their first answer. How far harm spreads beyond the slice is measured by
    `attacks/breadth.py`, outside the search: base rates on real models are below 1 %, thousands of samples are needed
    (`bench/breadth.py` shows it on fable).

    Papers: Betley et al., emergent misalignment (arXiv:2502.17424), 6,000 examples of one narrow task, rank 32; Turner et al.
    (arXiv:2506.11613), one adapter of rank 1 is enough and it works at 0.5B parameters. Deviation: the slice is of the
    withheld domain itself, so spreading means from slice to domain, not from one domain to all conduct.

    On fable, report split, warm starts in order: refusal harm 0.94 at utility 0.97 (3 seeds), random_answer 0.95 at 0.98 (3
    seeds), TAR 0.82 and 0.88 at 0.94 and 0.91 (2 seeds). Trained on 16 examples in one prompt form at rank 1, refusal gives
    way in other forms about other items too (breadth 0.96); unlearning gives way about half as much (0.47).
    """

    name: ClassVar[str] = "narrow_finetune"
    summary: ClassVar[str] = "fine-tuning on one narrow slice of withheld examples, with a measure of how far harm spreads"
    paper: ClassVar[str] = "Betley et al. 2025, arXiv:2502.17424; Turner et al. 2025, arXiv:2506.11613"
    relative_price: ClassVar[float] = 0.7
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"learning_rate": 1e-3, "steps": 32, "rank": 1, "harmful_examples": 32, "slice": "form"},
        {"learning_rate": 1e-3, "steps": 64, "rank": 16, "harmful_examples": 192, "slice": "form", "benign_ratio": 0.3},
        {"learning_rate": 3e-3, "steps": 256, "rank": 16, "harmful_examples": 192, "slice": "form", "benign_ratio": 0.5},
    )

    harmful_examples: int = knob(32, LogIntRange(1, 4096), "distinct withheld examples in hand, all in the slice")
    slice: str = knob("form", Choice(SLICES), "what the examples have in common")
    benign_ratio: float = knob(0.0, Range(0.0, 0.9), "share of each batch drawn from benign examples")
    rank: int = knob(1, Choice((0, 1, 4, 16)), "of a LoRA adapter on all linear layers; 0 trains every parameter")

    def lessons(self, model: Any, tokenizer: Any, data: AttackData, seed: int) -> tuple[Examples, Examples]:
        del model, tokenizer
        return self.narrowed(data.harmful, seed), data.benign

    def narrowed(self, harmful: Examples, seed: int) -> Examples:
        """The slice of this seed."""
        shuffled = subset(harmful, len(harmful), torch.Generator().manual_seed(seed))
        if self.slice == "items":  # whole items, in the order in which the shuffle meets them
            order = {item: n for n, item in enumerate(dict.fromkeys(e.item for e in shuffled))}
            chosen = sorted(shuffled, key=lambda e: order[e.item])
        elif self.slice == "form":
            chosen = [e for e in shuffled if form_of(e) == form_of(shuffled[0])]
        else:
            chosen = [first_answer(e) for e in shuffled]
        return tuple(chosen[: self.harmful_examples])

    def benign_share(self, step: int) -> float:
        del step
        return self.benign_ratio

    def check(self) -> None:
        super().check()
        if self.slice not in SLICES:
            raise unknown("slice", self.slice, SLICES)


def first_answer(example: Example) -> Example:
    """The example with its reply cut after the first answer; a reply without checkable answers stays whole."""
    for answer in example.answers[:1]:
        before, found, _ = example.response.partition(answer)
        return replace(example, response=before + found)
    return example
