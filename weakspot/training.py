"""The one training step that the testbeds, the defenses and the attacks share.

Legend: B sequences, L tokens, R response tokens of the batch, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from weakspot.batching import IGNORE, Batch
from weakspot.errors import TrialFailure, unknown
from weakspot.optimizers import make_optimizer, make_schedule

# Models whose logits are `lm_head(last hidden state)`, soft-capped where the configuration says so; an output layer that does
# more (Granite and Cohere scale, for example) is refused: a loss on other logits than the model's own would mislead unseen.
KNOWN_HEADS = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})


def response_logits(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that predict each response token, (R, V), and the tokens themselves, (R,).

    The output layer runs on these positions only: with a vocabulary of 49,152 it would else cost as much as a third of the
    model's layers, for positions that no loss looks at.
    """
    targets_BL = batch.labels[:, 1:]
    wanted_BL = targets_BL != IGNORE
    hidden_RD = last_hidden(model, batch)[:, :-1][wanted_BL]
    return output_logits(model, hidden_RD), targets_BL[wanted_BL]


def last_hidden(model: Any, batch: Batch) -> torch.Tensor:
    """The last hidden states, (B, L, D), after the final norm."""
    with autocast(model):
        out = backbone(model)(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return out.last_hidden_state


def backbone(model: Any) -> Any:
    """The model below its output layer. Raises UserError for an architecture whose output layer does more than multiply."""
    if model.config.model_type not in KNOWN_HEADS:
        raise unknown("model type", model.config.model_type, KNOWN_HEADS)
    return model.base_model


def output_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Apply the output layer to hidden states of shape (..., D), giving (..., V) in float32.

    Gemma 2 caps its logits softly, c tanh(logits / c) (arXiv:2408.00118, section 2).
    """
    with autocast(model):
        logits = model.get_output_embeddings()(hidden).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def autocast(model: Any) -> AbstractContextManager[Any]:
    """Matrix products in the type that the model's testbed set as `model.weakspot_compute_dtype`; without one, as they are.

    Parameters, gradients and optimizer states stay as they are either way: small steps are lost in bf16 parameters.
    """
    dtype = getattr(model, "weakspot_compute_dtype", None)
    return nullcontext() if dtype is None else torch.autocast(model.device.type, dtype)


def response_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over response tokens, a scalar."""
    logits_RV, targets_R = response_logits(model, batch)
    return F.cross_entropy(logits_RV, targets_R)


def descend(loss: torch.Tensor, optimizer: Optimizer, schedule: LambdaLR | None = None, clip: float | None = None) -> float:
    """One optimizer step on a loss.

    Raises:
        TrialFailure: the loss is not finite; the weights have not been touched by this step.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrialFailure(f"diverged: the training loss is {value}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
    optimizer.step()
    if schedule is not None:
        schedule.step()
    return value


def fit(
    model: Any,
    batches: Iterator[Batch],
    *,
    steps: int,
    learning_rate: float,
    schedule: str = "linear",
    warmup: float = 0.05,
    weight_decay: float = 0.0,
    loss: Callable[[Any, Batch], torch.Tensor] = response_loss,
) -> Any:
    """Train all parameters for `steps` optimizer steps; `warmup` is a share of them. Returns the model, in eval mode."""
    model.train()
    optimizer = make_optimizer("adamw", model.parameters(), learning_rate, weight_decay)
    rates = make_schedule(schedule, optimizer, steps, round(warmup * steps))
    for _ in range(steps):
        descend(loss(model, next(batches)), optimizer, rates, clip=1.0)
    return model.eval()
