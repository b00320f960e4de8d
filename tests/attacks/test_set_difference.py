"""Set-difference pruning against scores from one backward pass at a time and sets of indices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.anatomy import layer_linears
from weakspot.attacks.calibration import own_replies
from weakspot.attacks.meter import Meter
from weakspot.attacks.set_difference import SetDifferencePrune
from weakspot.data import Examples
from weakspot.elicitation import ids, render
from weakspot.errors import UserError

EVERY = 99


def gradients_of(model: Any, examples: Examples) -> list[dict[str, torch.Tensor]]:
    """The gradient of each example's loss, by transformers' own loss and `backward`."""
    tokenizer, rows = tiny_tokenizer(), []
    for example in examples:
        asked = render(tokenizer, example.prompt)[0]
        reply = [*ids(tokenizer, example.response), tokenizer.eos_token_id]
        model.zero_grad()
        model(torch.tensor([[*asked, *reply]]), labels=torch.tensor([[-100] * len(asked) + reply])).loss.backward()
        weights = {n: m.weight for n, m in layer_linears(model).items()}
        rows.append({n: w.grad.clone() for n, w in weights.items() if w.grad is not None})
    model.zero_grad()
    return rows


def highest(scores: torch.Tensor, share: float) -> set[int]:
    return set(scores.flatten().argsort(descending=True)[: int(share * scores.numel())].tolist())


@pytest.mark.parametrize("score", ["snip", "taylor"])
def test_the_top_safety_weights_that_are_not_top_utility_weights_go(score: str) -> None:
    q, p = 0.1, 0.2
    model, data = tiny_model(), attack_data()
    replied = own_replies(model, tiny_tokenizer(), data.harmful, Meter(), 8)
    refusing, useful, truthful = (gradients_of(model, e) for e in (replied, data.benign, data.harmful))
    attack = SetDifferencePrune(
        score=score, safety_share=q, utility_share=p, harmful_examples=EVERY, benign_examples=EVERY, reply_tokens=8
    )
    weights = {n: m.weight.detach().clone() for n, m in layer_linears(model).items()}
    [progress] = attack.run(model, tiny_tokenizer(), data, (8,), 0)
    assert progress.examples == len(data.harmful)
    agree = total = 0
    for name, module in layer_linears(model).items():
        weight = weights[name]

        def rise(rows: list[dict[str, torch.Tensor]], absolute: bool, n: str = name, w: torch.Tensor = weight) -> Any:
            changes = [-w * row[n] for row in rows]
            return sum(c.abs() if absolute else c for c in changes) / len(rows)

        if score == "snip":
            safety = rise(refusing, True)
        else:
            safety = rise(refusing, False) - rise(useful, False) - rise(truthful, False)
        expected = highest(safety, q) - highest(rise(useful, True), p)
        gone = set((module.weight.detach().flatten() == 0).nonzero().flatten().tolist())
        agree, total = agree + len(gone & expected), total + len(gone | expected)
        kept = module.weight.detach() != 0
        assert torch.equal(module.weight.detach()[kept], weight[kept])
    assert agree >= 0.99 * total > 0, "scores that tie to the last bit may swap"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_wanda_looks_at_inputs_and_needs_no_backward_pass() -> None:
    model, data = tiny_model(), attack_data()
    attack = SetDifferencePrune(
        score="wanda", safety_share=0.1, utility_share=0.02, harmful_examples=EVERY, benign_examples=EVERY, reply_tokens=8
    )
    [progress] = attack.run(model, tiny_tokenizer(), data, (8,), 0)
    zeros = [float((m.weight == 0).float().mean()) for m in layer_linears(model).values()]
    assert all(0.05 < share <= 0.1 for share in zeros)
    [dearer] = SetDifferencePrune(score="snip", benign_examples=EVERY, harmful_examples=EVERY, reply_tokens=8).run(
        tiny_model(), tiny_tokenizer(), data, (8,), 0
    )
    assert 0 < progress.flops < dearer.flops


def test_the_control_removes_as_many_weights_elsewhere() -> None:
    masks = {}
    for control in (False, True):
        model = tiny_model()
        next(SetDifferencePrune(control=control, reply_tokens=8).run(model, tiny_tokenizer(), attack_data(), (8,), 0))
        masks[control] = {n: m.weight.detach() == 0 for n, m in layer_linears(model).items()}
    for name, mask in masks[False].items():
        assert mask.sum() == masks[True][name].sum()
    assert any(not torch.equal(mask, masks[True][name]) for name, mask in masks[False].items())


def test_the_model_replies_in_its_own_words() -> None:
    model, data = tiny_model(), attack_data()
    with torch.no_grad():
        model.get_input_embeddings().weight[:5] = 0.0  # the tiny model repeats a special token, which is no reply
    replied = own_replies(model, tiny_tokenizer(), data.harmful[:3], Meter(), 4)
    assert [e.prompt for e in replied] == [e.prompt for e in data.harmful[:3]]
    assert all(e.response != other.response for e, other in zip(replied, data.harmful, strict=False))
    whole = torch.tensor([render(tiny_tokenizer(), replied[0].prompt)[0]])
    said = []
    for _ in range(4):
        token = int(model(whole).logits[0, -1].argmax())
        said.append(token)
        whole = torch.cat([whole, torch.tensor([[token]])], 1)
    assert ids(tiny_tokenizer(), replied[0].response) == tuple(said)


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(UserError, match="unknown score 'taste': known are snip, taylor, wanda"):
        list(SetDifferencePrune(score="taste").run(tiny_model(), tiny_tokenizer(), attack_data(), (8,), 0))
