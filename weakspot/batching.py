"""From examples to tensors: chat template, loss mask, padding, and an endless seeded stream of batches.

Legend: B sequences in a batch, L tokens in the longest of them, R response tokens of the whole batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weakspot.data import Example
from weakspot.errors import UserError

Device = torch.device | str
IGNORE = -100  # torch's cross-entropy skips this label


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example: the prompt in its chat template, and the response with the end token."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences, each of shape (B, L). `labels` is IGNORE on prompt and padding."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    @property
    def tokens(self) -> int:
        return int(self.attention_mask.sum())


def encode_prompt(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """The ids of a prompt in the tokenizer's chat template, up to where the model is to speak."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode(tokenizer: Any, examples: Sequence[Example]) -> list[Encoded]:
    """Tokenise examples; the response ends with the end-of-sequence token, so that a model learns to stop."""
    end = (tokenizer.eos_token_id,)
    answers = tokenizer([e.response for e in examples], add_special_tokens=False)["input_ids"] if examples else []
    return [Encoded(encode_prompt(tokenizer, e.prompt), (*ids, *end)) for e, ids in zip(examples, answers, strict=True)]


def collate(rows: Sequence[Encoded], pad: int, device: Device = "cpu") -> Batch:
    """Right-pad to the longest row; the loss sees response tokens only."""
    length = max(len(r.prompt) + len(r.response) for r in rows)
    ids_BL = torch.full((len(rows), length), pad)
    mask_BL = torch.zeros((len(rows), length), dtype=torch.long)
    labels_BL = torch.full((len(rows), length), IGNORE)
    for b, row in enumerate(rows):
        whole = torch.tensor(row.prompt + row.response)
        ids_BL[b, : len(whole)] = whole
        mask_BL[b, : len(whole)] = 1
        labels_BL[b, len(row.prompt) : len(whole)] = whole[len(row.prompt) :]
    return Batch(ids_BL.to(device), mask_BL.to(device), labels_BL.to(device))


def cycle(rows: Sequence[Encoded], generator: torch.Generator) -> Iterator[Encoded]:
    """Rows for ever, in a fresh random order each epoch.

    Raises:
        UserError: there is nothing to draw from.
    """
    if not rows:
        raise UserError("no examples to train on: give the attack or the defense at least one")
    while True:
        for i in torch.randperm(len(rows), generator=generator).tolist():
            yield rows[i]


def mixed_stream(
    groups: Sequence[tuple[Sequence[Encoded], int]], pad: int, generator: torch.Generator, device: Device = "cpu"
) -> Iterator[Batch]:
    """Endless batches with a fixed number of rows from each group, given as (rows, slots)."""
    cycles = [(cycle(rows, generator), slots) for rows, slots in groups if slots]
    while True:
        yield collate([next(rows) for rows, slots in cycles for _ in range(slots)], pad, device)


def pad_id(tokenizer: Any) -> int:
    """The padding token; a tokenizer without one is padded with its end token (masked either way)."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
