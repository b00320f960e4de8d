"""Greedy replies to prompts, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from weakspot.batching import encode_prompt, pad_id


@torch.inference_mode()
def greedy_replies(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int, batch_size: int = 64
) -> list[str]:
    """The model's greedy reply to each prompt, special tokens removed.

    Left-padded, so that every reply starts at the same position. Prompts are sorted by length to waste little padding; the
    replies come back in the order of the prompts.
    """
    was_training = model.training
    model.eval()
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    replies = [""] * len(prompts)
    pad = pad_id(tokenizer)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        length = max(len(encoded[i]) for i in chosen)
        ids_BL = torch.tensor([[pad] * (length - len(encoded[i])) + list(encoded[i]) for i in chosen], device=model.device)
        mask_BL = torch.tensor([[0] * (length - len(encoded[i])) + [1] * len(encoded[i]) for i in chosen], device=model.device)
        out_BL = model.generate(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        texts = tokenizer.batch_decode(out_BL[:, length:], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            replies[i] = text.strip()
    model.train(was_training)
    return replies


def is_degenerate(reply: str) -> bool:
    """Whether a reply is empty or repeats itself: fewer than a third of its words are distinct, or one word four times running.

    A broken model that says nothing usable is no weak spot, and its silence no safeguard.
    """
    words = reply.split()
    if not words:
        return True
    repeats = any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3))
    return repeats or (len(words) >= 9 and len(set(words)) * 3 < len(words))
