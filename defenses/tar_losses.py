"""The losses of TAR (arXiv:2408.00761, reference/tar.md § 3.3): entropy, DPO, and what is to be retained.

Legend: B sequences, L tokens, R response tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from weakspot.batching import IGNORE, Batch, collate, encode, pad_id
from weakspot.data import Example
from weakspot.errors import unknown
from weakspot.training import autocast, backbone, last_hidden, output_logits, response_loss

TAMPER_LOSSES = ("entropy", "dpo")


def make_tamper_loss(name: str, *, positions: str, beta: float) -> Callable[[Any, Any], torch.Tensor]:
    """L_TR by name. Raises UserError for another name or another choice of positions."""
    if positions not in ("all", "response"):
        raise unknown("choice of positions", positions, ("all", "response"))
    if name == "entropy":
        return lambda attacked, batch: negative_entropy(attacked, batch, positions)
    if name == "dpo":
        return lambda attacked, pairs: dpo_loss(attacked, pairs, beta)
    raise unknown("tamper loss", name, TAMPER_LOSSES)


def negative_entropy(model: Any, batch: Batch, positions: str = "all") -> torch.Tensor:
    """Minus the mean entropy of the next-token distribution, nats, a scalar in [-ln V, 0].

    Entropy and not minus cross-entropy: the latter spikes early and the adversary recovers; a flat distribution keeps the
    adversary's loss curve flat (the paper's § 4). "all" counts prompt positions too, as released, but never padding (the
    released code has no padding mask, because its sequences are full).
    """
    seen_BL = batch.attention_mask[:, :-1].bool() if positions == "all" else batch.labels[:, 1:] != IGNORE
    logits_RV = output_logits(model, last_hidden(model, batch)[:, :-1][seen_BL])
    logp_RV = F.log_softmax(logits_RV, dim=-1)
    return (logp_RV.exp() * logp_RV).sum(-1).mean()


def retain_loss(model: Any, base: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy on benign data plus the mean L2 distance of every layer's hidden states from the frozen base's.

    The distance is averaged over layers and over the tokens that are not padding.
    """
    hidden = hidden_states(model, batch)
    with torch.no_grad():
        target = hidden_states(base, batch)
    seen_BL = batch.attention_mask.bool()
    distances = [torch.linalg.vector_norm(h[seen_BL] - t[seen_BL], dim=-1).mean() for h, t in zip(hidden, target, strict=True)]
    return response_loss(model, batch) + torch.stack(distances).mean()


def hidden_states(model: Any, batch: Batch) -> tuple[torch.Tensor, ...]:
    """The embeddings and every layer's output, each of shape (B, L, D)."""
    with autocast(model):
        out = backbone(model)(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, output_hidden_states=True
        )
    return out.hidden_states


@dataclass(frozen=True)
class Pairs:
    """Preferred and rejected replies to the same prompts, with the start model's log-probabilities, each of shape (B,)."""

    chosen: Batch
    rejected: Batch
    reference_chosen: torch.Tensor
    reference_rejected: torch.Tensor


def dpo_pairs(
    model: Any, tokenizer: Any, examples: Sequence[Example], refusal: str, batch_size: int, generator: torch.Generator
) -> Iterator[Pairs]:
    """Endless batches of pairs: the refusal is chosen, the truthful reply rejected; `model` gives the reference values."""
    pad = pad_id(tokenizer)
    chosen = encode(tokenizer, [replace(e, response=refusal) for e in examples])
    rejected = encode(tokenizer, examples)
    with torch.no_grad():
        reference = [
            torch.cat([sequence_logprob(model, collate(rows[i : i + 32], pad, model.device)) for i in range(0, len(rows), 32)])
            for rows in (chosen, rejected)
        ]
    return _draw_pairs(chosen, rejected, reference, batch_size, pad, generator, model.device)


def _draw_pairs(
    chosen: Any,
    rejected: Any,
    reference: list[torch.Tensor],
    batch_size: int,
    pad: int,
    generator: torch.Generator,
    device: torch.device,
) -> Iterator[Pairs]:
    while True:
        index = torch.randint(len(chosen), (batch_size,), generator=generator)
        yield Pairs(
            collate([chosen[i] for i in index], pad, device), collate([rejected[i] for i in index], pad, device),
            reference[0][index.to(device)], reference[1][index.to(device)],
        )  # fmt: skip


def sequence_logprob(model: Any, batch: Batch) -> torch.Tensor:
    """The log-probability of each response, summed over its tokens, of shape (B,)."""
    wanted_BL = batch.labels[:, 1:] != IGNORE
    logits_RV = output_logits(model, last_hidden(model, batch)[:, :-1][wanted_BL])
    logp_R = -F.cross_entropy(logits_RV, batch.labels[:, 1:][wanted_BL], reduction="none")
    row_R = wanted_BL.nonzero()[:, 0]
    return torch.zeros(len(wanted_BL), dtype=logp_R.dtype, device=logp_R.device).index_add(0, row_R, logp_R)


def dpo_loss(model: Any, pairs: Pairs, beta: float) -> torch.Tensor:
    """-log sigmoid(beta * margin), a scalar; Rafailov et al. (arXiv:2305.18290), eq. 7, without label smoothing."""
    gain = sequence_logprob(model, pairs.chosen) - pairs.reference_chosen
    loss = sequence_logprob(model, pairs.rejected) - pairs.reference_rejected
    return -F.logsigmoid(beta * (gain - loss)).mean()
