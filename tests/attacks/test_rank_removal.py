"""ActSVD against a singular value decomposition of the stored activations, as the paper writes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.anatomy import layer_linears
from weakspot.attacks.calibration import own_replies
from weakspot.attacks.meter import Meter
from weakspot.attacks.rank_removal import RankRemoval
from weakspot.data import Examples
from weakspot.elicitation import ids, render
from weakspot.errors import UserError

EVERY = 99


def outputs_of(model: torch.nn.Module, examples: Examples) -> dict[str, torch.Tensor]:
    """W X of every layer, (O, tokens), over the positions that predict the reply."""
    tokenizer = tiny_tokenizer()
    seen: dict[str, list[torch.Tensor]] = {}
    for example in examples:
        asked = render(tokenizer, example.prompt)[0]
        whole, first = [*asked, *ids(tokenizer, example.response), tokenizer.eos_token_id], len(asked) - 1

        def keep(name: str, outputs: Any, k: int = first) -> None:
            seen.setdefault(name, []).append(outputs[0, k:-1])

        handles = [
            m.register_forward_hook(lambda _m, _x, y, n=n, keep=keep: keep(n, y)) for n, m in layer_linears(model).items()
        ]
        with torch.no_grad():
            model(torch.tensor([whole]))
        for handle in handles:
            handle.remove()
    return {n: torch.cat(rows).T.double() for n, rows in seen.items()}


def slow_edit(model: torch.nn.Module, replied: Examples, benign: Examples, rank: int, share: float) -> None:
    """W - (I - U_u U_u^T) U_s U_s^T W, layer after layer, with full projections and full decompositions."""
    for layer in (0, 1):
        safety, utility = outputs_of(model, replied), outputs_of(model, benign)
        for name, module in layer_linears(model).items():
            if f"layers.{layer}." in name:
                width = module.out_features
                useful = torch.linalg.svd(utility[name])[0][:, : int(share * width)]
                safe = torch.linalg.svd(safety[name])[0][:, :rank]
                change = (torch.eye(width).double() - useful @ useful.T) @ safe @ safe.T @ module.weight.double()
                assert (useful.T @ change).abs().max() < 1e-9
                with torch.no_grad():
                    module.weight.sub_(change.float())


def test_the_edit_is_the_formula_of_the_paper() -> None:
    model, expected, data = wordy_model(), wordy_model(), attack_data()
    replied = own_replies(model, tiny_tokenizer(), data.harmful, Meter(), 8)
    slow_edit(expected, replied, data.benign, 3, 0.25)
    attack = RankRemoval(rank=3, utility_share=0.25, harmful_examples=EVERY, benign_examples=EVERY, reply_tokens=8)
    [progress] = attack.run(model, tiny_tokenizer(), data, (8,), 0)
    assert progress.examples == len(data.harmful)
    for (name, module), wanted in zip(layer_linears(model).items(), layer_linears(expected).values(), strict=True):
        torch.testing.assert_close(module.weight, wanted.weight, rtol=1e-3, atol=1e-4, msg=name)


def wordy_model() -> Any:
    """A model that says words: the tiny one repeats a special token, which is no reply."""
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[:5] = 0.0
    return model


def test_a_rank_above_the_width_is_the_width() -> None:
    model = tiny_model()
    attack = RankRemoval(rank=100, utility_share=0.0, reply_tokens=8, targets="attention")
    next(attack.run(model, tiny_tokenizer(), attack_data(), (8,), 0))
    assert all(module.weight.abs().max() < 1e-4 for module in layer_linears(model, "attention").values())
    assert all(module.weight.abs().max() > 1e-4 for module in layer_linears(model, "mlp").values())


def test_the_control_removes_as_many_ranks_and_spares_the_useful_ones() -> None:
    changes = {}
    for control in (False, True):
        model = tiny_model()
        before = {n: m.weight.detach().clone() for n, m in layer_linears(model).items()}
        attack = RankRemoval(rank=4, utility_share=0.25, reply_tokens=8, control=control)
        next(attack.run(model, tiny_tokenizer(), attack_data(), (8,), 0))
        changes[control] = {n: before[n] - m.weight.detach() for n, m in layer_linears(model).items()}
    for name, change in changes[False].items():
        ranks = [torch.linalg.matrix_rank(c[name].double(), rtol=1e-4).item() for c in changes.values()]
        assert ranks == [4, 4]
        assert not torch.allclose(change, changes[True][name], atol=1e-3)


def test_rank_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"rank_removal.rank = 0 is below 1"):
        list(RankRemoval(rank=0).run(tiny_model(), tiny_tokenizer(), attack_data(), (8,), 0))
