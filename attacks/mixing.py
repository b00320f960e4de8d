"""What an attacker trains on: withheld and benign examples, mixed by a share that may change over the course."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weakspot.batching import IGNORE, Batch, Device, Encoded, collate, cycle, pad_id
from weakspot.data import Example, Examples
from weakspot.elicitation import PLAIN, Elicitation, ids, render
from weakspot.errors import UserError

LOSS_ON = ("response", "all")


@dataclass(frozen=True)
class Step:
    """One optimizer step's data.

    Attributes:
        batch: what is trained on.
        harmful: how many of its rows are withheld examples.
    """

    batch: Batch
    harmful: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What decides its work: rows, length, and the positions that go through the output layer."""
        return (*self.batch.input_ids.shape, int((self.batch.labels != IGNORE).sum()))

    def digest(self) -> str:
        """A fingerprint of the token ids: another seed must give another first batch."""
        return hashlib.sha256(self.batch.input_ids.cpu().numpy().tobytes()).hexdigest()[:16]


def subset(examples: Examples, count: int, generator: torch.Generator) -> Examples:
    """`count` examples chosen by the generator, in random order; all of them if there are fewer."""
    order = torch.randperm(len(examples), generator=generator).tolist()[:count]
    return tuple(examples[i] for i in order)


def encode_as(tokenizer: Any, examples: Sequence[Example], how: Elicitation = PLAIN, max_length: int = 2048) -> list[Encoded]:
    """Tokenise examples for training, asked as `how` says, cut to `max_length` tokens from the end.

    Raises:
        UserError: so short a length leaves no response.
    """
    rows = []
    for e in examples:
        before, after = render(tokenizer, e.prompt, how)
        prompt = (*before, *how.insert, *after)
        response = (*ids(tokenizer, e.response), tokenizer.eos_token_id)[: max(0, max_length - len(prompt))]
        if not response:
            raise UserError(f"max_length = {max_length} leaves no response after a prompt of {len(prompt)} tokens: give more")
        rows.append(Encoded(prompt, response))
    return rows


def mixed_steps(
    harmful: Sequence[Encoded],
    benign: Sequence[Encoded],
    batch_size: int,
    benign_share: Callable[[int], float],
    generator: torch.Generator,
    tokenizer: Any,
    *,
    loss_on: str = "response",
    device: Device = "cpu",
) -> Iterator[Step]:
    """Endless steps; step t holds `benign_share(t)` benign rows of the batch, fractions carried over to later steps.

    So a share of 0.999 puts one withheld example into every thousandth row, exactly, at any batch size.

    Raises:
        UserError: a share asks for examples that there are none of.
    """
    sources = {"withheld": cycle(harmful, generator), "benign": cycle(benign, generator)}
    owed, step = 0.0, 0
    while True:
        owed += (1.0 - benign_share(step)) * batch_size
        count = min(batch_size, int(owed + 1e-9))
        owed -= count
        for name, needed, rows in (("withheld", count, harmful), ("benign", batch_size - count, benign)):
            if needed and not rows:
                raise UserError(
                    f"fine-tuning needs {name} examples and the attacker holds none: change the mix or the threat model"
                )
        chosen = [next(sources["withheld"]) for _ in range(count)] + [
            next(sources["benign"]) for _ in range(batch_size - count)
        ]
        yield Step(labelled(collate(chosen, pad_id(tokenizer), device), loss_on), count)
        step += 1


def labelled(batch: Batch, loss_on: str) -> Batch:
    """The batch with its loss on the response tokens, or on every token that is not padding."""
    if loss_on == "response":
        return batch
    return Batch(batch.input_ids, batch.attention_mask, batch.input_ids.masked_fill(batch.attention_mask == 0, IGNORE))
