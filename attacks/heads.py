"""Ablation of the attention heads that refusal hangs on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from weakspot.anatomy import decoder_layers, writers
from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.hidden import prompt_batches
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import subset
from weakspot.batching import Batch
from weakspot.data import AttackData
from weakspot.errors import UserError, unknown
from weakspot.knobs import Choice, IntRange, LogIntRange, knob
from weakspot.training import last_hidden, output_logits

SCORES = ("reply", "divergence")
Head = tuple[int, int]  # layer, head


@dataclass(frozen=True)
class HeadAblation(Attack):
    """The heads whose loss changes the reply to withheld prompts most are scaled down.

    Paper: Zhou et al., "On the Role of Attention Heads in Large Language Model Safety" (arXiv:2410.13708): one head of an
    8B model, 0.006 % of its parameters, and 16 times as many harmful answers. Each head is zeroed in turn; its score is what
    that does to the first token after withheld prompts: `reply`, the fall in log-probability of what the model says first
    by itself (where it refuses, the refusal), or `divergence`, the paper's Ships, KL(intact || ablated). Then the best `heads`
    are scaled through their columns of the attention output matrix. `greedy` is the paper's Sahara: after each head the
    rest is ranked anew. Against the paper: heads are scaled at their output, not at the query and key matrices, and the
    data-set score is the mean over prompts, not a subspace angle.

    Needs some withheld prompts, no answers; costs one pass over them per head of the model, and again per head chosen where
    greedy.

    On fable: nothing is broken. Its twelve heads are few and each is needed: the single head that matters to refusal gives
    .39 of what plain refusal withholds and leaves a utility of .78; no pair at either scale gives more than .13 at .9.
    """

    name: ClassVar[str] = "head_ablation"
    summary: ClassVar[str] = "the attention heads that refusal hangs on, found by zeroing each, scaled down"
    paper: ClassVar[str] = "Zhou et al. 2024, arXiv:2410.13708"
    gradients: ClassVar[bool] = False
    benign_data: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = False
    relative_price: ClassVar[float] = 0.5
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"heads": 1, "scale": 0.0, "score": "reply", "greedy": False},
        {"heads": 4, "scale": 0.5, "score": "reply", "greedy": True},
    )

    heads: int = knob(1, IntRange(1, 10), "heads scaled down")
    scale: float = knob(0.0, Choice((0.0, 0.5)), "share of a head's output that is kept")
    harmful_examples: int = knob(8, LogIntRange(2, 32), "withheld prompts that the ranking looks at")
    score: str = knob("reply", Choice(SCORES), "what counts as an effect")
    greedy: bool = knob(False, Choice((False, True)), "rank the other heads anew after each")

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        del rungs
        self.check(data)
        chosen = subset(data.harmful, self.harmful_examples, torch.Generator().manual_seed(seed))
        batches = list(prompt_batches(tokenizer, [e.prompt for e in chosen], model.device))
        meter, left = Meter(), all_heads(model)
        remaining = min(self.heads, len(left) - 1)  # a decoder without any head reads nothing
        while remaining:
            effects = self.effects(model, batches, left, meter)
            best = sorted(left, key=lambda head: (-effects[head], head))[: 1 if self.greedy else remaining]
            for head in best:
                scale_head(model, head, self.scale)
                left.remove(head)
            remaining -= len(best)
        yield Progress(0, len(chosen), meter.tokens, meter.flops, final=True)

    def check(self, data: AttackData) -> None:
        if not data.harmful:
            raise UserError(f"{self.name} ranks heads on withheld prompts and the attacker holds none: give withheld examples")
        if self.score not in SCORES:
            raise unknown("score of a head", self.score, SCORES)

    @torch.no_grad()
    def effects(self, model: Any, batches: Sequence[Batch], heads: Sequence[Head], meter: Meter) -> dict[Head, float]:
        """What losing each head does to the first token of the reply, summed over prompts."""
        effects = dict.fromkeys(heads, 0.0)
        for batch in batches:
            intact_BV = first_token(model, batch, meter)
            said_B1 = intact_BV.argmax(-1, keepdim=True)
            for head in heads:
                with zeroed(model, head):
                    ablated_BV = first_token(model, batch, meter)
                change_BV = intact_BV - ablated_BV
                if self.score == "reply":
                    effects[head] += float(change_BV.gather(-1, said_B1).sum())
                else:
                    effects[head] += float((intact_BV.exp() * change_BV).sum())
        return effects


def first_token(model: Any, batch: Batch, meter: Meter) -> torch.Tensor:
    """Log-probabilities of the reply's first token, (B, V)."""
    here_B = torch.arange(len(batch.input_ids), device=model.device)
    with meter.count(("first", *batch.input_ids.shape), batch.tokens):
        hidden_BD = last_hidden(model, batch)[here_B, batch.attention_mask.sum(1) - 1]
        return output_logits(model, hidden_BD).log_softmax(-1)


def all_heads(model: Any) -> list[Head]:
    return [(layer, head) for layer in range(len(decoder_layers(model))) for head in range(model.config.num_attention_heads)]


def place_of(model: Any, head: Head) -> tuple[nn.Linear, slice]:
    """The attention output matrix that a head writes through, and the columns that are the head's."""
    writer = writers(model)[2 * head[0]]  # attention's of that layer
    width = writer.in_features // model.config.num_attention_heads
    return writer, slice(head[1] * width, (head[1] + 1) * width)


@torch.no_grad()
def scale_head(model: Any, head: Head, scale: float) -> None:
    writer, columns = place_of(model, head)
    writer.weight[:, columns] *= scale


@contextmanager
def zeroed(model: Any, head: Head) -> Iterator[None]:
    """The model without a head, while the context lasts."""
    writer, columns = place_of(model, head)
    kept = writer.weight[:, columns].clone()
    scale_head(model, head, 0.0)
    try:
        yield
    finally:
        with torch.no_grad():
            writer.weight[:, columns] = kept
