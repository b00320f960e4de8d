"""Layer ablation: the block, the parts and the scale."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from weakspot.attacks.layers import LayerAblation
from weakspot.data import AttackData
from weakspot.errors import UserError


@pytest.mark.parametrize(
    ("start", "length", "part", "expected"),
    [
        (0.0, 1, "both", ["0.self_attn.o_proj", "0.mlp.down_proj"]),
        (0.49, 1, "attention", ["0.self_attn.o_proj"]),
        (0.5, 1, "mlp", ["1.mlp.down_proj"]),
        (1.0, 8, "both", ["1.self_attn.o_proj", "1.mlp.down_proj"]),  # the block ends with the decoder
        (0.0, 2, "attention", ["0.self_attn.o_proj", "1.self_attn.o_proj"]),
    ],
)
def test_the_block_alone_is_scaled(start: float, length: int, part: str, expected: list[str]) -> None:
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    course = LayerAblation(start=start, length=length, scale=0.5, part=part).run(
        model, tiny_tokenizer(), AttackData((), ()), (4,), 0
    )
    assert next(course).final
    changed = {f"model.layers.{name}.weight" for name in expected}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name] * (0.5 if name in changed else 1.0)), name
    assert list(course) == []


def test_scale_zero_skips_the_layer() -> None:
    model, inputs = tiny_model(), torch.arange(5)[None]
    next(LayerAblation(start=0.5, length=1, scale=0.0).run(model, tiny_tokenizer(), AttackData((), ()), (4,), 0))
    skipped = tiny_model()
    del skipped.model.layers[1]
    skipped.config.num_hidden_layers = 1
    assert torch.allclose(model(inputs).logits, skipped(inputs, use_cache=False).logits, atol=1e-6)


def test_meaningless_values_are_refused() -> None:
    with pytest.raises(UserError, match="unknown part of a layer 'norm': known are attention, both, mlp"):
        LayerAblation(part="norm").chosen(tiny_model())
    with pytest.raises(UserError, match=r"layer_ablation.length = 0 is below 1"):
        LayerAblation(length=0).chosen(tiny_model())
