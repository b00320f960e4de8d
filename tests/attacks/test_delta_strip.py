"""What is left of a safeguard's change, against a full singular value decomposition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from weakspot.attacks.delta_strip import DeltaStrip, truncated
from weakspot.data import AttackData
from weakspot.errors import UserError
from weakspot.models import weights_digest


def defended() -> Any:
    model, generator = tiny_model(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def stripped(attack: DeltaStrip) -> Any:
    model = defended()
    data = AttackData((), (), base={n: p.detach().numpy().copy() for n, p in tiny_model().named_parameters()})
    [progress] = attack.run(model, tiny_tokenizer(), data, (8,), 0)
    assert progress.final
    return model


def best(delta: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank] @ v[:rank]).float()


def test_rank_zero_of_everything_is_the_base_bit_for_bit() -> None:
    assert weights_digest(stripped(DeltaStrip(rank=0))) == weights_digest(tiny_model()) != weights_digest(defended())
    assert weights_digest(stripped(DeltaStrip(rank=0, keep="rest"))) == weights_digest(defended())


@pytest.mark.parametrize("keep", ["top", "rest"])
def test_the_top_ranks_are_those_of_a_full_decomposition(keep: str) -> None:
    base, whole = dict(tiny_model().named_parameters()), dict(defended().named_parameters())
    for name, got in stripped(DeltaStrip(rank=3, keep=keep)).named_parameters():
        delta = whole[name] - base[name]
        top = best(delta, 3) if delta.dim() == 2 else delta
        torch.testing.assert_close(got, base[name] + (top if keep == "top" else delta - top), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_truncation_of_wide_and_high_matrices(shape: tuple[int, int]) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(truncated(delta, 2), best(delta, 2))
    assert truncated(delta, 6) is delta


def test_only_the_chosen_part_is_stripped() -> None:
    before = dict(defended().named_parameters())

    def changed(attack: DeltaStrip) -> set[str]:
        return {n for n, p in stripped(attack).named_parameters() if not torch.equal(p, before[n])}

    assert changed(DeltaStrip(targets="everything", layers="last half")) == {n for n in before if "layers.1." in n}
    part = {f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkvo"}
    assert changed(DeltaStrip(targets="attention", layers="first half")) == part


def test_meaningless_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"delta_strip.rank = -1 is below 0"):
        stripped(DeltaStrip(rank=-1))
    with pytest.raises(UserError, match=r"delta_strip.keep = 'half' is unknown: give top or rest"):
        stripped(DeltaStrip(keep="half"))
    with pytest.raises(UserError, match="unknown scope 'heads'"):
        stripped(DeltaStrip(targets="heads"))
