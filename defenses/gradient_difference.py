"""Unlearning by gradient difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from weakspot.batching import Batch, encode
from weakspot.data import DefenseData
from weakspot.defenses.base import PaperAttack
from weakspot.defenses.trained import Batches, Chunks, Trained, streams
from weakspot.errors import UserError
from weakspot.knobs import knob
from weakspot.training import response_logits, response_loss


@dataclass(frozen=True)
class GradientDifference(Trained):
    """The loss of withheld answers is ascended while that of benign ones is descended.

    L = CE(retain) - lam * CE(forget), means over response tokens of benign and of withheld examples. With a `ceiling`, the
    forget term is the mean of min(CE of a token, ceiling): a token above it has gradient 0, and the ascent ends. Without one,
    as in the papers, nothing bounds it from below.

    Papers: Liu et al., "Continual learning and private unlearning" (arXiv:2203.12817); by this name a baseline of TOFU (Maini
    et al., arXiv:2401.06121), whose hyperparameters are the defaults: AdamW 1e-5 with weight decay 0.01, batches of 32, five
    epochs of 400 withheld examples, the first of them warm-up. Run before release, once; neither paper claims anything
    against fine-tuning. A step costs two passes of fine-tuning.

    Deviations: the ceiling is ours; withheld and benign rows are drawn independently, equally many a step. Deviations of
    released code: none known.

    On fable, harm/utility, seeds 0 and 1 (seed 2 was not run to the end): before .05/.96 and .02/.92; full fine-tuning at 1e-4
    after 8, 32, 64 steps .09 .22 .79 and .05 .17 .84 (random_answer .42 .77 .88); poisoned 64 steps .76 and .89 (.90); LoRA .96
    and .97. Tried: no ceiling .00/.73; lam 1 and ceiling 8 .00/.87; 70 steps .10-.15/.96, but .91 after the attack; batches of
    32 .01/.90; 150 to 200 steps .90-.93 utility and .35-.59 after the attack. Relearning costs half the utility, as it does
    for random_answer. 5 seconds.
    """

    name: ClassVar[str] = "gradient_difference"
    summary: ClassVar[str] = "unlearning: ascends the loss of withheld answers, descends that of benign ones"
    paper: ClassVar[str] = "Liu et al. 2022, arXiv:2203.12817; as a baseline in Maini et al. 2024, arXiv:2401.06121 (TOFU)"
    claims: ClassVar[str] = "withheld facts are not answered; no resistance to tampering is claimed"
    passes: ClassVar[float] = 2.0
    presets: ClassVar = {
        "fable": {"steps": 100, "batch_size": 16, "learning_rate": 2e-4, "lam": 0.3, "ceiling": 6.0},
        "smollm2": {"steps": 40, "batch_size": 8, "learning_rate": 1e-4, "lam": 1.0, "ceiling": 6.0},
    }
    paper_attacks: ClassVar = {
        "fable": PaperAttack("full_finetune", {"learning_rate": 1e-4, "steps": 64, "batch_size": 16}),
        "smollm2": PaperAttack("full_finetune", {"learning_rate": 2e-5, "steps": 16, "batch_size": 8, "harmful_examples": 64}),
    }

    steps: int = knob(62)
    batch_size: int = knob(32)
    learning_rate: float = knob(1e-5)
    warmup: float = knob(0.2)
    weight_decay: float = knob(0.01)
    clip_norm: float = knob(0.0)
    lam: float = knob(1.0, None, "weight of the ascent on withheld answers")
    ceiling: float = knob(0.0, None, "nats at which a withheld token is left alone; 0 is never, as in the paper")

    def batches(self, tokenizer: Any, data: DefenseData, generator: torch.Generator, device: Any) -> Iterator[Batches]:
        retain, forget = encode(tokenizer, data.benign), encode(tokenizer, data.withheld)
        groups = {"retain": [(retain, self.batch_size)], "forget": [(forget, self.batch_size)]}
        return streams(groups, tokenizer, generator, device)

    def loss(self, model: Any, chunks: Chunks, extra: Any) -> torch.Tensor:
        del extra
        retain, forget = chunks["retain"], chunks["forget"]
        loss = retain.response * response_loss(model, retain.batch)
        if self.lam:
            loss = loss - self.lam * forget.response * bounded_loss(model, forget.batch, self.ceiling)
        return loss

    def check(self) -> None:
        super().check()
        for name in ("lam", "ceiling"):
            if getattr(self, name) < 0:
                raise UserError(f"{self.name}.{name} = {getattr(self, name)} is below 0: give 0 or more")


def bounded_loss(model: Any, batch: Batch, ceiling: float) -> torch.Tensor:
    """Mean cross-entropy over response tokens, each counted as `ceiling` at most; 0 is no ceiling."""
    logits_RV, targets_R = response_logits(model, batch)
    losses_R = F.cross_entropy(logits_RV, targets_R, reduction="none")
    return (losses_R.clamp(max=ceiling) if ceiling else losses_R).mean()
