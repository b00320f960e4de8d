"""Rounding against one weight at a time, and nf4 where bitsandbytes is installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.anatomy import layer_linears
from weakspot.attacks import quantize
from weakspot.attacks.quantize import Quantize, nearest, nf4
from weakspot.errors import UserError
from weakspot.knobs import space_of


def quantized(attack: Quantize) -> dict[str, torch.Tensor]:
    model = tiny_model()
    [progress] = attack.run(model, tiny_tokenizer(), attack_data(), (8,), 0)
    assert (progress.step, progress.examples, progress.flops, progress.final) == (0, 0, 0.0, True)
    return {n: p.detach() for n, p in model.named_parameters()}


def slow(row: list[float], bits: int, group: int) -> list[float]:
    """One row, one weight at a time."""
    most, out = 2 ** (bits - 1) - 1, []
    for start in range(0, len(row), group or len(row)):
        part = row[start : start + (group or len(row))]
        step = max(map(abs, part)) / most or 1.0
        out += [round(value / step) * step for value in part]
    return out


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("group", [0, 7, 24, 64])
def test_each_weight_goes_to_the_nearest_step_of_its_group(bits: int, group: int) -> None:
    weight = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    weight[1] = 0.0
    got = nearest(weight, bits, group)
    torch.testing.assert_close(got, torch.tensor([slow(row, bits, group) for row in weight.tolist()]))
    assert all(len(set(row.tolist())) <= 2**bits - 1 for row in nearest(weight, bits, 0))
    torch.testing.assert_close(nearest(got, bits, group), got)


def test_only_the_chosen_matrices_are_rounded() -> None:
    before = dict(tiny_model().named_parameters())
    linears = {f"{n}.weight" for n in layer_linears(tiny_model())}
    norms = {n for n, p in before.items() if p.dim() < 2}

    def changed(**knobs: str) -> set[str]:
        return {n for n, p in quantized(Quantize(**knobs)).items() if not torch.equal(p, before[n])}  # type: ignore[arg-type]

    assert changed() == linears
    assert changed(targets="everything") == {n for n in before if n not in norms}
    assert changed(targets="mlp", layers="first half") == {n for n in linears if "layers.0.mlp" in n}
    assert changed(targets="everything", layers="last half") == {n for n in linears if "layers.1." in n}


def test_nf4_without_bitsandbytes_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"nf4 needs bitsandbytes, which is not installed: pip install 'weakspot\[qlora\]'"):
        quantized(Quantize(format="nf4"))


def test_nf4_is_searched_only_where_it_can_run() -> None:
    assert ("nf4" in space_of(Quantize)["format"]) is (importlib.util.find_spec("bitsandbytes") is not None)


# the 16 values of 4-bit NormalFloat, Dettmers et al. 2023, appendix E
VALUES = (-1.0, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0.0,
          0.07958, 0.16093, 0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1.0)  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # bitsandbytes is not ours
@pytest.mark.parametrize("shape", [(4, 32), (5, 7), (2, 64), (3, 96)])
def test_nf4_rounds_flat_blocks_to_the_nearest_of_sixteen_values(shape: tuple[int, int]) -> None:
    pytest.importorskip("bitsandbytes")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = []
    for block in weight.flatten().split(64):
        most = float(block.abs().max())
        expected += [most * min(VALUES, key=lambda v, x=float(x): abs(v - x / most)) for x in block]
    torch.testing.assert_close(nf4(weight, 0), torch.tensor(expected).reshape(shape), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=r"group = 65 is no block size of nf4"):
        nf4(weight, 65)


def test_meaningless_values_are_refused() -> None:
    with pytest.raises(UserError, match="unknown format 'int2'"):
        quantized(Quantize(format="int2"))
    with pytest.raises(UserError, match=r"quantize.group = -1 is below 0"):
        quantized(Quantize(group=-1))
