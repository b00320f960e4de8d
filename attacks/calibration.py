"""What flows through a model's linear layers on given examples: activation norms, second moments, gradient scores.

Legend: B sequences, L tokens, I inputs and O outputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from weakspot.attacks.generation import replies
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import encode_as
from weakspot.batching import IGNORE, Batch, collate, pad_id
from weakspot.data import Examples
from weakspot.errors import UserError, unknown
from weakspot.training import last_hidden, response_loss

Linears = Mapping[str, nn.Linear]
Scores = dict[str, torch.Tensor]
POSITIONS = ("response", "all")


def calibration_batches(tokenizer: Any, examples: Examples, device: Any, size: int = 16) -> list[Batch]:
    """Examples in their order, right-padded. Raises UserError if there are none."""
    if not examples:
        raise UserError("calibration needs examples and the attacker holds none of that kind: change the threat model")
    rows = encode_as(tokenizer, examples)
    return [collate(rows[i : i + size], pad_id(tokenizer), device) for i in range(0, len(rows), size)]


def counted(batch: Batch, positions: str) -> torch.Tensor:
    """The positions that count, (B, L): every token, or those that predict a response token (the prompt's last among them)."""
    if positions not in POSITIONS:
        raise unknown("positions", positions, POSITIONS)
    if positions == "all":
        return batch.attention_mask.bool()
    return F.pad(batch.labels[:, 1:] != IGNORE, (0, 1))


@torch.no_grad()
def input_norms(
    model: Any, linears: Linears, batches: Sequence[Batch], meter: Meter, positions: str
) -> dict[str, torch.Tensor]:
    """The norm of each input feature over all positions that count, (I,) for every layer: ||X_j||_2 of Wanda."""
    sums = observed(model, linears, batches, meter, positions, lambda x_BLI, _: x_BLI.square().sum((0, 1)))
    return {name: squares_I.sqrt() for name, squares_I in sums.items()}


@torch.no_grad()
def output_moments(
    model: Any, linears: Linears, batches: Sequence[Batch], meter: Meter, positions: str
) -> dict[str, torch.Tensor]:
    """The second moment of each layer's outputs, the sum of y y^T over positions that count, (O, O), in float64.

    float64 because squaring doubles the digits: in fp32 all directions below 1e-4 of the first would be noise.
    """

    def moment(_: torch.Tensor, y_BLO: torch.Tensor) -> torch.Tensor:
        y_NO = y_BLO.double().flatten(0, 1)
        return y_NO.T @ y_NO

    return observed(model, linears, batches, meter, positions, moment)


def observed(
    model: Any,
    linears: Linears,
    batches: Sequence[Batch],
    meter: Meter,
    positions: str,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The sum over batches of `measure(inputs, outputs)` for each layer; positions that do not count are zero in both."""
    totals: dict[str, torch.Tensor] = {}
    for batch in batches:
        mask_BL1 = counted(batch, positions).unsqueeze(-1)

        def add(name: str, inputs: torch.Tensor, outputs: torch.Tensor, mask: torch.Tensor = mask_BL1) -> None:
            totals[name] = totals.get(name, 0) + measure(inputs.float() * mask, outputs.float() * mask)

        with meter.count(("observed", *linears, *batch.input_ids.shape), batch.tokens), listening(linears, add):
            last_hidden(model, batch)
    return totals


@contextmanager
def listening(linears: Linears, heard: Callable[[str, torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Call `heard(name, inputs, outputs)` on each pass through a layer, while the context lasts."""

    def hook_of(name: str) -> Any:
        return lambda _module, inputs, output: heard(name, inputs[0], output)

    handles = [module.register_forward_hook(hook_of(name)) for name, module in linears.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def loss_changes(model: Any, tokenizer: Any, linears: Linears, examples: Examples, meter: Meter) -> tuple[Scores, Scores]:
    """The first-order change of the loss of the response when a weight is set to zero, -W * dL/dW, for every layer.

    Means over examples, (O, I), as (signed, absolute); one backward pass an example, because an absolute value is of one.
    """
    weights = {name: module.weight for name, module in linears.items()}
    signed = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    absolute = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in calibration_batches(tokenizer, examples, model.device, size=1):
        # response tokens count too: the output layer runs on those alone
        shape = (*batch.input_ids.shape, int((batch.labels != IGNORE).sum()))
        with meter.count(("gradient", *shape), batch.tokens):
            gradients = torch.autograd.grad(response_loss(model, batch), list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            change = -weight.detach() * gradient / len(examples)
            signed[name] += change
            absolute[name] += change.abs()
    return signed, absolute


def own_replies(model: Any, tokenizer: Any, examples: Examples, meter: Meter, tokens: int, size: int = 32) -> Examples:
    """The examples with the model's own greedy reply in place of the truthful one; the attacker need not know the latter."""
    said: list[str] = []
    for start in range(0, len(examples), size):
        prompts = [e.prompt for e in examples[start : start + size]]
        with meter.count(("replies", start), 0):  # lengths differ, so every block is counted itself
            said += replies(model, tokenizer, prompts, max_new_tokens=tokens)
    return tuple(replace(example, response=reply) for example, reply in zip(examples, said, strict=True))
