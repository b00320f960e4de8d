"""The shared training step: which logits the loss sees, the schedule, and how divergence is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.tiny import defense_data, tiny_model, tiny_tokenizer
from weakspot.batching import IGNORE, Batch, collate, encode
from weakspot.errors import TrialFailure, UserError
from weakspot.models import weights_digest
from weakspot.optimizers import make_optimizer, make_schedule
from weakspot.training import (
    backbone,
    descend,
    fit,
    response_logits,
    response_loss,
)


def mixed_batch() -> Batch:
    """Rows of different length, so that some are padded."""
    data = defense_data()
    batch = collate(encode(tiny_tokenizer(), [data.withheld[0], data.withheld[2], data.benign[3]]), pad=0)
    assert (batch.attention_mask == 0).any()
    return batch


def test_response_logits_are_those_of_the_whole_forward_pass() -> None:
    model, batch = tiny_model(), mixed_batch()
    logits_RV, targets_R = response_logits(model, batch)
    whole_BLV = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    expected = [
        (whole_BLV[b, position - 1], batch.labels[b, position])
        for b in range(3)
        for position in range(1, batch.labels.shape[1])
        if batch.labels[b, position] != IGNORE
    ]
    assert len(targets_R) == len(expected)
    torch.testing.assert_close(logits_RV, torch.stack([logits for logits, _ in expected]))
    assert targets_R.tolist() == [int(label) for _, label in expected]


@pytest.mark.parametrize("kind", ["Gemma", "Gemma2", "Gemma3Text"])
def test_capped_logits_are_those_of_the_whole_forward_pass(kind: str) -> None:
    batch, cap = mixed_batch(), {} if kind == "Gemma" else {"final_logit_softcapping": 0.1}
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tiny_tokenizer()), num_key_value_heads=2, pad_token_id=0, **shape, **cap
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    logits_RV, _ = response_logits(model, batch)
    whole_BLV = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(logits_RV, whole_BLV[:, :-1][batch.labels[:, 1:] != IGNORE])
    assert not cap or logits_RV.abs().max() < 0.1


def test_response_loss_is_the_models_own_loss() -> None:
    model, batch = tiny_model(), mixed_batch()
    own = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
    torch.testing.assert_close(response_loss(model, batch), own)


def test_compute_in_bf16_leaves_parameters_and_loss_in_fp32() -> None:
    model, batch = tiny_model(), mixed_batch()
    exact = response_loss(model, batch)
    model.weakspot_compute_dtype = torch.bfloat16
    rough = response_loss(model, batch)
    rough.backward()
    assert rough.dtype == torch.float32
    assert rough != exact
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.02)
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_with_another_head_is_refused() -> None:
    with pytest.raises(UserError, match="unknown model type 'cohere': known are gemma, gemma2, gemma3_text, llama"):
        backbone(SimpleNamespace(config=SimpleNamespace(model_type="cohere")))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_touches_no_weight(value: float) -> None:
    model = tiny_model()
    optimizer = make_optimizer("adamw", model.parameters(), 0.1)
    rates = make_schedule("constant", optimizer, 4)
    before = weights_digest(model)
    with pytest.raises(TrialFailure, match="diverged"):
        descend(response_loss(model, mixed_batch()) + value, optimizer, rates)
    assert weights_digest(model) == before
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())


def test_fit_trains_and_returns_the_model_in_eval_mode() -> None:
    model, batch = tiny_model(), mixed_batch()
    before = response_loss(model, batch).item()
    batches: Iterator[Batch] = repeat(batch)
    assert fit(model, batches, steps=20, learning_rate=1e-2) is model
    assert not model.training
    assert response_loss(model, batch).item() < 0.7 * before
    assert F.softmax(response_logits(model, batch)[0], dim=-1).isfinite().all()
