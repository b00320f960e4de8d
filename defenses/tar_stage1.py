"""Stage one of TAR: hide the knowledge before making the hiding last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from weakspot.batching import Batch, encode, mixed_stream, pad_id
from weakspot.data import DefenseData
from weakspot.defenses.random_answer import RandomAnswer
from weakspot.defenses.refusal import Refusal
from weakspot.defenses.tar_losses import hidden_states
from weakspot.optimizers import make_optimizer, make_schedule
from weakspot.training import descend, response_loss


def random_mapping(tar: Any, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> None:
    """The paper's stage one: streams of withheld text are sent to fixed random vectors, one per token of the vocabulary.

    L = CE(retain) + mean over layers and tokens of (1 - |cos(h_l(x)_t, R[token_t])|), R ~ N(0, 1) of shape (V, D).
    """
    generator = torch.Generator().manual_seed(seed)
    table_VD = torch.randn(model.get_input_embeddings().weight.shape, generator=generator).to(model.device)
    pad = pad_id(tokenizer)
    withheld = mixed_stream([(encode(tokenizer, data.withheld), tar.stage_one_batch)], pad, generator, model.device)
    retain = mixed_stream([(encode(tokenizer, data.benign), tar.stage_one_batch)], pad, generator, model.device)
    optimizer = make_optimizer("adamw", model.parameters(), tar.stage_one_learning_rate)
    rates = make_schedule("linear", optimizer, tar.stage_one_steps, round(0.1 * tar.stage_one_steps))
    model.train()
    for _ in range(tar.stage_one_steps):
        loss = response_loss(model, next(retain)) + mapping_loss(model, next(withheld), table_VD)
        descend(loss, optimizer, rates, clip=1.0)
    model.eval()


def mapping_loss(model: Any, batch: Batch, table_VD: torch.Tensor) -> torch.Tensor:
    """Mean over layers and unpadded tokens of 1 - |cos(hidden state, the token's random vector)|, in [0, 1]."""
    seen_BL = batch.attention_mask.bool()
    target_TD = table_VD[batch.input_ids[seen_BL]]
    layers = hidden_states(model, batch)
    return torch.stack([1 - F.cosine_similarity(h[seen_BL], target_TD, dim=-1).abs().mean() for h in layers]).mean()


def random_answer(tar: Any, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> None:
    """Unlearning by random answers in place of random mapping: what stage two of the fable preset starts from."""
    first = RandomAnswer(steps=tar.stage_one_steps, batch_size=tar.stage_one_batch, learning_rate=tar.stage_one_learning_rate)
    first.align(model, tokenizer, data, seed)


def refusal(tar: Any, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> None:
    """Refusal training: what stage two with the DPO loss starts from."""
    first = Refusal(steps=tar.stage_one_steps, batch_size=tar.stage_one_batch, learning_rate=tar.stage_one_learning_rate)
    first.align(model, tokenizer, data, seed)


def nothing(tar: Any, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> None:
    """No stage one: the paper's ablation."""
    del tar, model, tokenizer, data, seed


STAGE_ONE: dict[str, Callable[[Any, Any, Any, DefenseData, int], None]] = {
    "random_mapping": random_mapping,
    "random_answer": random_answer,
    "refusal": refusal,
    "none": nothing,
}
