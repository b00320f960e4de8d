"""TAR's losses against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import defense_data, tiny_model, tiny_tokenizer
from weakspot.batching import IGNORE, Batch, Encoded, collate, encode
from weakspot.defenses.tar_losses import Pairs, dpo_loss, dpo_pairs, negative_entropy, retain_loss, sequence_logprob
from weakspot.training import response_loss

WORDS = len(tiny_tokenizer())


def withheld(count: int = 3) -> Batch:
    """Rows of different length."""
    return collate(encode(tiny_tokenizer(), defense_data().withheld[:count]), pad=0)


def uniform() -> object:
    """A model whose every next-token distribution is flat."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


def logprob_by_hand(model: object, batch: Batch, row: int) -> float:
    """The sum of log-probabilities of one response, token by token through the whole forward pass."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[row].detach()  # type: ignore[operator]
    total = 0.0
    for position in range(1, batch.labels.shape[1]):
        if batch.labels[row, position] != IGNORE:
            total += float(torch.log_softmax(logits[position - 1], -1)[batch.labels[row, position]])
    return total


@pytest.mark.parametrize("positions", ["all", "response"])
def test_entropy_is_greatest_for_the_flat_model_and_bounded(positions: str) -> None:
    assert negative_entropy(uniform(), withheld(), positions).item() == pytest.approx(-math.log(WORDS), abs=1e-5)
    assert -math.log(WORDS) < negative_entropy(tiny_model(), withheld(), positions).item() < 0
    sure = tiny_model()
    with torch.no_grad():
        sure.lm_head.weight.mul_(1e4)
    assert -1e-2 < negative_entropy(sure, withheld(), positions).item() <= 0


def test_entropy_by_hand_over_either_choice_of_positions() -> None:
    model, batch = tiny_model(), withheld()
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.detach()
    entropies: dict[str, list[float]] = {"all": [], "response": []}
    for b in range(3):
        for position in range(batch.labels.shape[1] - 1):
            value = float(torch.distributions.Categorical(logits=logits[b, position]).entropy())
            if batch.attention_mask[b, position]:
                entropies["all"].append(value)
            if batch.labels[b, position + 1] != IGNORE:
                entropies["response"].append(value)
    for positions, values in entropies.items():
        expected = -sum(values) / len(values)
        assert negative_entropy(model, batch, positions).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("positions", ["all", "response"])
def test_padding_has_no_entropy(positions: str) -> None:
    model, batch = tiny_model(), withheld(1)
    wider = Batch(
        F.pad(batch.input_ids, (0, 5)), F.pad(batch.attention_mask, (0, 5)), F.pad(batch.labels, (0, 5), value=IGNORE)
    )
    trimmed = negative_entropy(model, batch, "response").item()
    assert negative_entropy(model, wider, "response").item() == pytest.approx(trimmed, abs=1e-5)
    widest = negative_entropy(
        model, replace(wider, input_ids=wider.input_ids.masked_fill(wider.attention_mask == 0, 9)), positions
    )
    assert negative_entropy(model, wider, positions).item() == pytest.approx(widest.item(), abs=1e-5)


def test_sequence_logprob_by_hand() -> None:
    model, batch = tiny_model(), withheld()
    expected = [logprob_by_hand(model, batch, row) for row in range(3)]
    torch.testing.assert_close(sequence_logprob(model, batch).detach(), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def pairs_of(model: object) -> Pairs:
    data = defense_data()
    return next(dpo_pairs(model, tiny_tokenizer(), data.withheld[:5], data.refusal, 4, torch.Generator().manual_seed(0)))


def test_dpo_pairs_prefer_the_refusal_to_the_answer_of_the_same_prompt() -> None:
    model, tokenizer, data = tiny_model(), tiny_tokenizer(), defense_data()
    pairs = pairs_of(model)
    truth = {row.prompt: row.response for row in encode(tokenizer, data.withheld)}
    for row in range(4):
        chosen, rejected = (
            (tuple(b.input_ids[row, b.labels[row] == IGNORE].tolist()), tuple(b.labels[row, b.labels[row] != IGNORE].tolist()))
            for b in (pairs.chosen, pairs.rejected)
        )
        prompt = tuple(token for token in rejected[0] if token)
        assert tuple(token for token in chosen[0] if token) == prompt
        assert tokenizer.decode(chosen[1]) == f"{data.refusal} <end>"
        assert rejected[1] == truth[prompt]
        assert pairs.reference_chosen[row].item() == pytest.approx(logprob_by_hand(model, pairs.chosen, row), abs=1e-3)
        assert pairs.reference_rejected[row].item() == pytest.approx(logprob_by_hand(model, pairs.rejected, row), abs=1e-3)


def test_dpo_is_ln_2_where_the_model_is_its_reference() -> None:
    model = tiny_model()
    assert dpo_loss(model, pairs_of(model), beta=0.1).item() == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_by_the_formula(beta: float) -> None:
    model, pairs = tiny_model(), pairs_of(tiny_model())
    shifts = torch.tensor([[0.5, -1.0, 2.0, 0.0], [0.0, 1.5, -0.5, 3.0]])  # how far the model is from its reference
    moved = replace(
        pairs, reference_chosen=pairs.reference_chosen - shifts[0], reference_rejected=pairs.reference_rejected - shifts[1]
    )
    margins = (shifts[0] - shifts[1]).tolist()
    expected = sum(math.log(1 + math.exp(-beta * margin)) for margin in margins) / 4
    assert dpo_loss(model, moved, beta).item() == pytest.approx(expected, abs=1e-4)


def test_dpo_falls_when_the_chosen_reply_gets_likelier_and_rises_with_the_rejected() -> None:
    model, pairs = tiny_model(), pairs_of(tiny_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (-sequence_logprob(model, pairs.chosen).mean() / 10).backward()
        optimizer.step()
    assert sequence_logprob(model, pairs.chosen).sum() > pairs.reference_chosen.sum()
    likelier = dpo_loss(model, pairs, 0.1).item()
    assert likelier < math.log(2)
    swapped = Pairs(pairs.rejected, pairs.chosen, pairs.reference_rejected, pairs.reference_chosen)
    assert dpo_loss(model, swapped, 0.1).item() > math.log(2)


def test_retain_loss_is_plain_training_where_nothing_has_moved() -> None:
    model, base = tiny_model(), tiny_model()
    batch = collate([Encoded((3, 9), (10, 2)), Encoded((3, 9, 11), (10, 12, 2))], pad=0)
    assert retain_loss(model, base, batch).item() == pytest.approx(response_loss(model, batch).item(), abs=1e-6)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.add_(0.1)
    moved = retain_loss(model, base, batch)
    assert moved.item() > response_loss(model, batch).item() + 1e-3
    moved.backward()
    assert all(p.grad is None for p in base.parameters()), "the base is a target, not a party"
