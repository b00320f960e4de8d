"""Hidden states of prompts at one position, for the families that compare them.

Legend: N prompts, S = layers + 1 places in the residual stream (the embeddings, then the output of every decoder layer),
D width, B sequences of a batch, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from weakspot.anatomy import decoder_layers
from weakspot.attacks.meter import Meter
from weakspot.batching import Batch, Encoded, collate, encode_prompt, pad_id
from weakspot.errors import UserError
from weakspot.training import last_hidden

BATCH = 32


@torch.no_grad()
def hidden_states(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    meter: Meter,
    position: int = -1,
    size: int = BATCH,
) -> torch.Tensor:
    """The residual stream of every prompt at one position, (N, S, D) in float32.

    Args:
        position: token counted from the end of the prompt in its chat template; -1 is where the reply begins.
        size: prompts a forward pass.

    Raises:
        UserError: a prompt is too short for the position.
    """
    rows = []
    for batch in prompt_batches(tokenizer, prompts, model.device, size):
        ends_N = batch.attention_mask.sum(1) + position
        if int(ends_N.min()) < 0:
            raise UserError(f"position {position} lies before the shortest prompt: give one nearer to its end, such as -1")
        here = torch.arange(len(ends_N), device=model.device)
        rows.append(torch.stack([stream_BLD[here, ends_N].float() for stream_BLD in residual_stream(model, batch, meter)], 1))
    return torch.cat(rows)


@torch.no_grad()
def residual_stream(model: Any, batch: Batch, meter: Meter) -> list[torch.Tensor]:
    """The S places of the residual stream, (B, L, D) each, in the type that they are computed in.

    Read off the layers themselves: what transformers calls the last hidden state has gone through the final norm.
    """
    with tapped(model) as taken, meter.count(("stream", *batch.input_ids.shape), batch.tokens):
        last_hidden(model, batch)
    return taken


def prompt_batches(tokenizer: Any, prompts: Sequence[str], device: Any, size: int = BATCH) -> Iterator[Batch]:
    """Prompts as asked, right-padded: with causal attention the padding changes nothing before it."""
    rows = [Encoded(encode_prompt(tokenizer, prompt), ()) for prompt in prompts]
    for start in range(0, len(rows), size):
        yield collate(rows[start : start + size], pad_id(tokenizer), device)


@contextmanager
def tapped(model: Any) -> Iterator[list[torch.Tensor]]:
    """A list that a forward pass appends the S places of the residual stream to."""
    taken: list[torch.Tensor] = []

    def take(_module: Any, _inputs: Any, output: Any) -> None:
        taken.append(output[0] if isinstance(output, tuple) else output)

    handles = [m.register_forward_hook(take) for m in (model.get_input_embeddings(), *decoder_layers(model))]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()
