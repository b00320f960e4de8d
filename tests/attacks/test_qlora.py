"""LoRA on a 4-bit base: the exchange of modules, with a stand-in for bitsandbytes' layer, and when the family is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.anatomy import layer_linears
from weakspot.attacks import qlora
from weakspot.attacks.qlora import QLora, replaced
from weakspot.models import count_parameters, weights_digest

IDS = torch.arange(5, 25)[None]
QUICK = QLora(steps=4, batch_size=4, harmful_examples=8, rank=4, learning_rate=1e-2)


class Rounded(nn.Linear):
    """Stands in for a 4-bit layer: the same matrix, rounded to 64ths, that no optimizer may touch."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight = nn.Parameter((linear.weight.detach() * 64).round() / 64, requires_grad=False)


def state(model: Any) -> Any:
    return (
        [(name, id(m)) for name, m in model.named_modules()],
        [(name, id(p), p.data_ptr(), p.device) for name, p in model.named_parameters()],
        weights_digest(model),
    )


@pytest.mark.parametrize("broken", [False, True])
def test_the_very_same_modules_come_back(broken: bool) -> None:
    model = tiny_model()
    before = state(model)
    try:
        with replaced(model, Rounded):
            assert all(isinstance(m, Rounded) for m in layer_linears(model).values())
            assert type(model.lm_head) is nn.Linear, "the output layer keeps its precision"
            if broken:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert state(model) == before


def test_a_layer_that_cannot_be_built_leaves_the_model_as_it_was() -> None:
    model, built = tiny_model(), []

    def build(linear: nn.Linear) -> nn.Module:
        built.append(linear)
        if len(built) == 5:
            raise MemoryError
        return Rounded(linear)

    before = state(model)
    with pytest.raises(MemoryError), replaced(model, build):
        pass
    assert state(model) == before


def test_the_model_is_attacked_and_measured_on_the_rounded_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QLora, "four_bit", lambda _self, linear: Rounded(linear))
    model, before = tiny_model(), state(tiny_model())[2]
    rounded = tiny_model()
    with torch.no_grad():
        for linear in layer_linears(rounded).values():
            linear.weight.copy_((linear.weight * 64).round() / 64)
    course: Any = QUICK.run(model, tiny_tokenizer(), attack_data(), (2, 4), 0)
    next(course)
    assert count_parameters(model, trainable=True) == 4 * 2 * (4 * 32 + 3 * 40)  # rank x layers x (in + out)
    trained = model(input_ids=IDS).logits.detach()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                assert parameter.abs().sum() > 0
                parameter.zero_()
    without = model(input_ids=IDS).logits.detach()
    assert torch.allclose(without, rounded(input_ids=IDS).logits, atol=1e-6), "below the adapter lies the rounded base"
    assert not torch.allclose(without, trained, atol=1e-3)
    course.close()
    assert weights_digest(model) == before
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize(
    ("gpu", "installed", "reason"),
    [
        (False, True, "needs a GPU and this machine has none"),
        (True, False, r"pip install 'weakspot\[qlora\]'"),
        (True, True, "^$"),
    ],
)
def test_it_says_what_is_missing(gpu: bool, installed: bool, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(qlora, "find_spec", lambda _name: object() if installed else None)
    line = QLora.unavailable()
    assert "\n" not in line
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(line)
