"""Fine-tuning on ordinary examples alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from weakspot.attacks.base import Progress
from weakspot.attacks.finetune import Tuned
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import encode_as, subset
from weakspot.batching import IGNORE, Batch, collate, pad_id
from weakspot.data import AttackData, Examples
from weakspot.errors import UserError, unknown
from weakspot.knobs import Choice, LogIntRange, knob
from weakspot.training import response_logits

SELECTIONS = ("random", "shortest", "longest", "highest loss")
ROWS = 32  # examples a forward pass when they are ranked by their loss


@dataclass(frozen=True)
class BenignFinetune(Tuned):
    """Trained on benign examples and nothing else, chosen at random or as those most likely to move the safeguard.

    What comes back was in the model: no withheld answer was ever shown, so this family injects nothing and is the cleanest
    evidence. Papers: Qi et al. (arXiv:2310.03693) for the attack. For the choice, He et al. (arXiv:2404.01099) take benign
    examples whose gradients or hidden states resemble harmful ones, and Guan et al. (arXiv:2505.06843, Self-Inf-N) outliers
    of the largest self-influence, the squared norm of an example's own gradient. Deviation: `highest loss` ranks by the mean
    loss of the response under the safeguarded model, the cheapest stand-in for that norm (one forward pass an example and no
    gradient, counted in the cost), and resemblance to harmful examples is not tried, because this attacker has none.
    `shortest` and `longest` (in tokens of the response) stand for the short-answer and list-style sets of the same papers.

    On fable (report items, 3 seeds, the warm start): refusal training goes, harm 0.71, 0.51, 0.40 at utility 0.98 or more.
    Unlearning by random answers (harm 0.24 to 0.26, as at the first steps) and TAR (0.01 at most) hold.
    Every response of fable has the same length, so `shortest` and `longest` are `random` there.
    """

    name: ClassVar[str] = "benign_finetune"
    summary: ClassVar[str] = "fine-tuning on benign examples alone, chosen at random, by length or by loss"
    paper: ClassVar[str] = "Qi et al. 2023, arXiv:2310.03693; choice of examples: arXiv:2404.01099, arXiv:2505.06843"
    harmful_data: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = False
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"learning_rate": 1e-3, "steps": 128, "batch_size": 16, "rank": 16, "benign_examples": 512},
    )

    benign_examples: int = knob(128, LogIntRange(4, 4096), "distinct benign examples in hand")
    selection: str = knob("random", Choice(SELECTIONS), "which benign examples, by the length or the loss of their responses")

    def lessons(self, model: Any, tokenizer: Any, data: AttackData, seed: int) -> tuple[Examples, Examples]:
        del model, tokenizer, seed  # chosen in `run`, where the cost of choosing is counted
        return (), data.benign

    def benign_share(self, step: int) -> float:
        del step
        return 1.0

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        meter = Meter()
        chosen = self.choose(model, tokenizer, data.benign, seed, meter)
        with closing(super().run(model, tokenizer, replace(data, benign=chosen), rungs, seed)) as course:  # type: ignore[type-var]
            for progress in course:
                yield replace(progress, tokens=progress.tokens + meter.tokens, flops=progress.flops + meter.flops)

    def choose(self, model: Any, tokenizer: Any, benign: Examples, seed: int, meter: Meter) -> Examples:
        """The benign examples in hand. Ties are broken by the seed."""
        if self.selection not in SELECTIONS:
            raise unknown("selection", self.selection, SELECTIONS)
        if not benign:
            raise UserError(f"{self.name} needs benign examples and the attacker holds none: change the threat model")
        shuffled = subset(benign, len(benign), torch.Generator().manual_seed(seed))
        if self.selection == "random":
            return shuffled[: self.benign_examples]
        if self.selection == "highest loss":
            scores = [-loss for loss in example_losses(model, tokenizer, shuffled, self.max_length, meter)]
        else:
            sign = 1 if self.selection == "shortest" else -1
            scores = [sign * len(row.response) for row in encode_as(tokenizer, shuffled, max_length=self.max_length)]
        ranked = sorted(range(len(shuffled)), key=scores.__getitem__)
        return tuple(shuffled[i] for i in ranked[: self.benign_examples])


@torch.no_grad()
def example_losses(model: Any, tokenizer: Any, examples: Examples, max_length: int, meter: Meter) -> list[float]:
    """The mean loss of each example's response, in the chat template."""
    rows = encode_as(tokenizer, examples, max_length=max_length)
    losses: list[float] = []
    for start in range(0, len(rows), ROWS):
        batch = collate(rows[start : start + ROWS], pad_id(tokenizer), model.device)
        with meter.count(("ranked", *batch.input_ids.shape, int((batch.labels != IGNORE).sum())), batch.tokens):
            losses += row_means(model, batch).tolist()
    return losses


def row_means(model: Any, batch: Batch) -> torch.Tensor:
    logits_RV, targets_R = response_logits(model, batch)
    losses_R = F.cross_entropy(logits_RV, targets_R, reduction="none")
    wanted_BL = batch.labels[:, 1:] != IGNORE
    row_R = wanted_BL.nonzero()[:, 0]
    sums_B = torch.zeros(len(wanted_BL), device=losses_R.device).index_add(0, row_R, losses_R)
    return sums_B / wanted_BL.sum(dim=1)
