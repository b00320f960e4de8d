"""Pruning against the obvious way to do it: rows sorted one by one, activations of one example at a time."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import attack_data, tiny_model, tiny_tokenizer
from weakspot.anatomy import layer_linears
from weakspot.attacks.calibration import calibration_batches, counted, input_norms
from weakspot.attacks.meter import Meter
from weakspot.attacks.prune import Prune, lowest
from weakspot.data import AttackData, Examples
from weakspot.elicitation import ids, render
from weakspot.errors import UserError


def pruned(attack: Prune, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
    """Weights before and after, and the withheld examples used."""
    model = tiny_model()
    before = {n: m.weight.detach().clone() for n, m in layer_linears(model).items()}
    [progress] = attack.run(model, tiny_tokenizer(), attack_data(), (8,), seed)
    return before, {n: m.weight.detach() for n, m in layer_linears(model).items()}, progress.examples


def slow_norms(examples: Examples, response_only: bool) -> dict[str, torch.Tensor]:
    """The norms from one unpadded example after another."""
    model, tokenizer, seen = tiny_model(), tiny_tokenizer(), {}
    for example in examples:
        asked = render(tokenizer, example.prompt)[0]
        whole = [*asked, *ids(tokenizer, example.response), tokenizer.eos_token_id]
        first, last = (len(asked) - 1, len(whole) - 1) if response_only else (0, len(whole))
        handles = [
            m.register_forward_hook(lambda _m, x, _y, n=n: seen.setdefault(n, []).append(x[0][0, first:last]))  # noqa: B023
            for n, m in layer_linears(model).items()
        ]
        model(torch.tensor([whole]))
        for handle in handles:
            handle.remove()
    return {n: torch.cat(rows).detach().norm(dim=0) for n, rows in seen.items()}


@pytest.mark.parametrize("positions", ["all", "response"])
def test_the_norms_are_those_of_every_token_that_counts(positions: str) -> None:
    data = attack_data()
    examples = (*data.harmful[:5], *data.benign[:4])
    model = tiny_model()
    batches = calibration_batches(tiny_tokenizer(), examples, "cpu", size=4)
    got = input_norms(model, layer_linears(model), batches, Meter(), positions)
    for name, expected in slow_norms(examples, positions == "response").items():
        torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-5)


def test_wanda_removes_the_lowest_of_each_row() -> None:
    data = attack_data()
    everything = Prune(method="wanda", sparsity=0.3, harmful_examples=99, benign_examples=99)
    before, after, used = pruned(everything)
    assert used == len(data.harmful)
    norms = slow_norms((*data.harmful, *data.benign), response_only=False)
    for name, weight in before.items():
        for row, new in zip(weight, after[name], strict=True):
            order = (row.abs() * norms[name]).argsort()
            gone = set(order[: int(0.3 * len(row))].tolist())
            assert {i for i in range(len(row)) if new[i] == 0} == gone
            assert all(new[i] == row[i] for i in range(len(row)) if i not in gone)


def test_magnitude_compares_over_the_whole_matrix_and_random_does_not_look() -> None:
    before, after, used = pruned(Prune(method="magnitude", sparsity=0.25))
    assert used == 0
    for name, weight in before.items():
        gone = after[name] == 0
        assert int(gone.sum()) == int(0.25 * weight.numel())
        assert weight[gone].abs().max() <= weight[~gone].abs().min()
    _, first, _ = pruned(Prune(method="random", sparsity=0.25), seed=1)
    _, second, _ = pruned(Prune(method="random", sparsity=0.25), seed=2)
    for name, weight in before.items():
        assert int((first[name] == 0).sum()) == len(weight) * int(0.25 * weight.shape[1])
    assert any(not torch.equal(first[name], second[name]) for name in before)


def test_two_of_every_four_go() -> None:
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0, 5.5, 0.0, 9.0]])
    assert lowest(scores, 0.1, "2:4", True).tolist() == [[False, True, False, True, True, False, True, False]]
    with pytest.raises(UserError, match=r"pattern 2:4 needs rows of a multiple of 4 and a layer has 6 inputs"):
        lowest(torch.zeros(2, 6), 0.5, "2:4", True)


def test_only_the_chosen_matrices_change() -> None:
    before, after, _ = pruned(Prune(targets="mlp", layers="last half"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")}


def test_the_positions_of_a_response_begin_where_its_first_token_is_predicted() -> None:
    [batch] = calibration_batches(tiny_tokenizer(), attack_data().harmful[:1], "cpu")
    assert int(counted(batch, "response").sum()) == int((batch.labels != -100).sum())
    assert not counted(batch, "response")[0, -1]
    assert int(counted(batch, "all").sum()) == batch.tokens


def test_without_examples_or_with_an_unknown_name_it_says_so() -> None:
    with pytest.raises(UserError, match="calibration needs examples"):
        list(Prune(calibration="withheld").run(tiny_model(), tiny_tokenizer(), AttackData((), ()), (8,), 0))
    with pytest.raises(UserError, match="unknown pruning method 'luck'"):
        pruned(Prune(method="luck"))
    with pytest.raises(UserError, match="unknown calibration set 'none'"):
        pruned(Prune(calibration="none"))
