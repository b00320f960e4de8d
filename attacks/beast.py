"""BEAST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.attacks.meter import Meter
from weakspot.attacks.suffix import Suffix, SuffixAttack, suffix_losses, survives, usable_tokens
from weakspot.batching import Batch, Encoded, collate, pad_id
from weakspot.data import Examples
from weakspot.elicitation import Elicitation, render
from weakspot.errors import TrialFailure
from weakspot.knobs import LogIntRange, LogRange, knob
from weakspot.training import last_hidden, output_logits


@dataclass(frozen=True)
class Beast(SuffixAttack):
    """A universal suffix that grows by one token a step: a beam search over tokens the model itself would write next.

    The next tokens of each of `beams` suffixes are drawn, without repetition, from the model's distribution after the user's
    words (its log-probabilities averaged over a batch of training prompts); the suffixes of the lowest target loss on the
    same prompts are kept. No gradient is taken, so that it needs the probabilities only.

    Paper: Sadasivan et al., "Fast Adversarial Attacks on Language Models In One GPU Minute" (arXiv:2402.15570): 15 beams of
    15, 40 tokens. Deviations: a fresh batch of prompts each step, a temperature, the target as in `gcg`. A step costs
    beams x (candidates + 1) x batch_size forward passes.

    On fable (4 tokens, three seeds): harm .77, .67, .01 on `refusal`; with 6 tokens .48, .23, .35. The model was never
    trained to continue a prompt, so that its next tokens there are few and arbitrary: hence the temperature of 4.
    """

    name: ClassVar[str] = "beast"
    summary: ClassVar[str] = "adversarial suffix by gradient-free beam search over the model's own next tokens"
    paper: ClassVar[str] = "Sadasivan et al. 2024, arXiv:2402.15570"
    gradients: ClassVar[bool] = False
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"steps": 4, "target": "answer", "temperature": 4.0, "beams": 16, "candidates": 16},
        {"steps": 40, "target": "beginning", "beams": 15, "candidates": 15},
    )

    steps: int = knob(20, LogIntRange(2, 64), "suffix length: one token a step")
    beams: int = knob(8, LogIntRange(1, 32), "suffixes kept at a step")
    candidates: int = knob(8, LogIntRange(2, 64), "next tokens drawn for each of them")
    temperature: float = knob(1.0, LogRange(0.5, 8.0), "of the distribution they are drawn from")

    def suffixes(
        self, model: Any, tokenizer: Any, batches: Iterator[Examples], meter: Meter, generator: torch.Generator
    ) -> Iterator[Suffix]:
        usable = usable_tokens(model, tokenizer)
        beams: list[Suffix] = [()]
        while True:
            examples = next(batches)
            logits_CV = next_token_logits(model, tokenizer, examples, beams, meter, self.rows)[:, usable]
            count = self.candidates if beams != [()] else self.beams * self.candidates
            weights_CV = (logits_CV / self.temperature).softmax(-1)
            drawn_CK = usable[torch.multinomial(weights_CV, min(count, len(usable)), generator=generator)]
            tried = [(*beam, token) for beam, row in zip(beams, drawn_CK.tolist(), strict=True) for token in row]
            tried = [suffix for suffix in tried if survives(tokenizer, suffix)]
            if not tried:
                raise TrialFailure(f"none of the drawn suffixes of {len(beams[0]) + 1} tokens survives being written as text")
            frame = self.frame(model, tokenizer, examples, len(tried[0]))
            order = suffix_losses(model, frame, tried, meter, self.rows).argsort().tolist()
            beams = [tried[i] for i in order[: self.beams]]
            yield beams[0]


@torch.no_grad()
def next_token_logits(
    model: Any, tokenizer: Any, examples: Examples, beams: list[Suffix], meter: Meter, rows: int
) -> torch.Tensor:
    """Log-probabilities of the token after each beam, averaged over the prompts, (C, V), on the CPU."""
    asked = [render(tokenizer, e.prompt, Elicitation(insert=(0,)))[0] for e in examples]
    count, found = max(1, rows // len(asked)), []
    for start in range(0, len(beams), count):
        part = beams[start : start + count]
        batch = collate([Encoded((*words, *beam), ()) for beam in part for words in asked], pad_id(tokenizer), model.device)
        with meter.count(("next", *batch.input_ids.shape), batch.tokens):
            logits_NV = last_logits(model, batch)
        found.append(logits_NV.log_softmax(-1).view(len(part), len(asked), -1).mean(1).cpu())
    return torch.cat(found)


def last_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits after the last token of each row that is not padding, (N, V)."""
    ends = batch.attention_mask.sum(1) - 1
    hidden = last_hidden(model, batch)
    return output_logits(model, hidden[torch.arange(len(ends), device=ends.device), ends])
