"""Greedy replies inside an attack, where the testbed's own measure is off limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from weakspot.batching import pad_id
from weakspot.elicitation import PLAIN, Elicitation, render
from weakspot.training import autocast


@torch.no_grad()
def replies(
    model: Any, tokenizer: Any, prompts: Sequence[str], how: Elicitation = PLAIN, max_new_tokens: int = 16
) -> list[str]:
    """The greedy reply to each prompt, asked as `how` says, special tokens removed. One left-padded batch, in eval mode."""
    rows = [(*before, *how.insert, *after) for before, after in (render(tokenizer, prompt, how) for prompt in prompts)]
    length, pad = max(map(len, rows)), pad_id(tokenizer)
    ids_BL = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows], device=model.device)
    mask_BL = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
    with autocast(model):
        out_BL = model.generate(
            input_ids=ids_BL, attention_mask=mask_BL, max_new_tokens=max_new_tokens, do_sample=False,
            pad_token_id=pad, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
    return [text.strip() for text in tokenizer.batch_decode(out_BL[:, length:], skip_special_tokens=True)]
