"""Replies to prompts, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from weakspot.anatomy import shifted
from weakspot.batching import pad_id
from weakspot.elicitation import PLAIN, Elicitation, render


def greedy_replies(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int, batch_size: int = 64
) -> list[str]:
    """The model's greedy reply to each prompt in its chat template, special tokens removed."""
    return [reply for [reply] in replies(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)]


@torch.inference_mode()
def replies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    how: Elicitation = PLAIN,
    *,
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[list[str]]:
    """`how.samples` replies to each prompt, special tokens removed; a prefill is part of the reply.

    Left-padded, so that every reply starts at the same position. Prompts are sorted by length to waste little padding; the
    replies come back in the order of the prompts.
    """
    was_training = model.training
    model.eval()
    asked = [render(tokenizer, prompt, how) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(asked[i][0]) + len(asked[i][1]))
    said: list[list[str]] = [[] for _ in prompts]
    with shifted(model, how.shifts), sampling(how, max_new_tokens) as options:
        rows = max(1, batch_size // how.samples)  # samples are rows too: 64 of each would be 64 times the memory
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            inputs, length = model_inputs(model, [asked[i] for i in chosen], how, pad_id(tokenizer))
            out_BL = model.generate(**inputs, **options, pad_token_id=pad_id(tokenizer), eos_token_id=tokenizer.eos_token_id)
            texts = tokenizer.batch_decode(out_BL[:, length:], skip_special_tokens=True)
            for n, text in enumerate(texts):
                said[chosen[n * len(chosen) // len(texts)]].append(f"{how.prefill} {text.strip()}".strip())
    model.train(was_training)
    return said


def model_inputs(
    model: Any, asked: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], how: Elicitation, pad: int
) -> tuple[dict[str, torch.Tensor], int]:
    """Left-padded inputs of `generate`, and how many positions of its output are the question.

    With a soft prompt the question goes in as embeddings, and the output holds the reply alone.
    """
    gap = how.insert if how.soft_prompt is None else (pad,) * len(how.soft_prompt)
    rows = [(*before, *gap, *after) for before, after in asked]
    length = max(map(len, rows))
    ids_BL = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows], device=model.device)
    mask_BL = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
    if how.soft_prompt is None:
        return {"input_ids": ids_BL, "attention_mask": mask_BL}, length
    embeds_BLD = model.get_input_embeddings()(ids_BL)
    for b, (_, after) in enumerate(asked):
        end = length - len(after)
        embeds_BLD[b, end - len(gap) : end] = how.soft_prompt
    return {"inputs_embeds": embeds_BLD, "attention_mask": mask_BL}, 0


@contextmanager
def sampling(how: Elicitation, max_new_tokens: int) -> Iterator[dict[str, Any]]:
    """Options of `generate`. Sampling draws from a seeded generator and leaves the global one as it was."""
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens + how.extra_tokens, "num_return_sequences": how.samples}
    if how.temperature == 0:
        yield {**options, "do_sample": False, "num_return_sequences": 1}
        return
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        yield {**options, "do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k}


def is_degenerate(reply: str) -> bool:
    """Whether a reply is empty or repeats itself: fewer than a third of its words are distinct, or one word four times running.

    A broken model that says nothing usable is no weak spot, and its silence no safeguard.
    """
    words = reply.split()
    if not words:
        return True
    repeats = any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3))
    return repeats or (len(words) >= 9 and len(set(words)) * 3 < len(words))
