"""Weights: copied and never shared, told apart to the bit, and read from safetensors only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_model, tiny_tokenizer
from weakspot.errors import UserError
from weakspot.models import (
    arrays_digest,
    check_checkpoint,
    check_same_architecture,
    count_parameters,
    load_pretrained,
    read_weights,
    reset_weights,
    save_pretrained,
    weights_digest,
)


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Read-only arrays, like those of Ray's object store."""
    arrays = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def step_in_place(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)


@pytest.mark.filterwarnings("error")  # torch warns when a tensor is made from read-only memory without a copy
def test_reset_is_a_true_copy() -> None:
    model = tiny_model()
    arrays = weights_of(model)
    before = arrays_digest(arrays)
    for _ in range(2):
        step_in_place(model)
        assert weights_digest(model) != before
        reset_weights(model, arrays)
        assert weights_digest(model) == before
        for name, parameter in model.named_parameters():
            assert not np.shares_memory(parameter.detach().numpy(), arrays[name]), name
    step_in_place(model)
    assert arrays_digest(arrays) == before


def test_reset_keeps_the_parameters_and_clears_what_training_left() -> None:
    model = tiny_model()
    arrays, own = weights_of(model), list(model.parameters())
    model.requires_grad_(False)
    own[0].requires_grad_(True)
    own[0].grad = torch.ones_like(own[0])
    reset_weights(model, arrays)
    assert all(a is b for a, b in zip(model.parameters(), own, strict=True))
    assert all(p.requires_grad and p.grad is None for p in own)


def test_weights_that_do_not_fit_are_refused() -> None:
    model = tiny_model()
    arrays = weights_of(model)
    first = next(iter(arrays))
    with pytest.raises(UserError, match=r"do not fit the model: unexpected .*'extra'"):
        reset_weights(model, {**arrays, "extra": arrays[first]})
    with pytest.raises(UserError, match=f"do not fit the model: missing .*{first}"):
        reset_weights(model, {name: array for name, array in arrays.items() if name != first})
    with pytest.raises(UserError, match=f"do not fit the model: {first} has shape"):
        reset_weights(model, {**arrays, first: arrays[first][:1]})  # would be broadcast without a word


def test_the_digest_changes_with_one_bit() -> None:
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    before = arrays_digest(arrays)
    assert arrays_digest(dict(reversed(arrays.items()))) == before
    flipped = arrays["b"].copy()
    flipped.view(np.uint32)[2] ^= 1
    assert arrays_digest({**arrays, "b": flipped}) != before
    assert arrays_digest({"a": arrays["a"], "c": arrays["b"]}) != before
    negative = arrays["a"].copy()
    negative[0, 0] = -0.0
    assert arrays_digest({**arrays, "a": negative}) != before  # equal as numbers, not as bits
    assert arrays_digest({**arrays, "a": np.asfortranarray(arrays["a"])}) == before


def test_tied_weights_count_once_and_reset_under_either_name() -> None:
    model = tiny_model()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    arrays = weights_of(model)
    before = weights_digest(model)
    assert "lm_head.weight" not in arrays
    assert count_parameters(model) == sum(array.size for array in arrays.values())
    as_head = {("lm_head.weight" if "embed" in name else name): array for name, array in arrays.items()}
    both = {**arrays, "lm_head.weight": arrays["model.embed_tokens.weight"]}
    for stored in (as_head, both):
        step_in_place(model)
        reset_weights(model, stored)
        assert weights_digest(model) == before
        assert weights_digest(model, stored) == arrays_digest(stored)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_count_parameters_of_those_that_train() -> None:
    model = tiny_model().requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    assert count_parameters(model, trainable=True) == 16
    assert count_parameters(model) > 16


def test_save_and_load_give_the_same_model(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    save_pretrained(model, tokenizer, tmp_path)
    loaded, words = load_pretrained(tmp_path)
    stored = read_weights(tmp_path)
    assert weights_digest(loaded) == weights_digest(model)
    assert arrays_digest(stored) == weights_digest(model, stored)
    assert not loaded.training
    assert words("take moss .")["input_ids"] == tokenizer("take moss .")["input_ids"]
    assert words.chat_template == tokenizer.chat_template
    reset_weights(loaded, stored)
    assert weights_digest(loaded) == weights_digest(model)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "no model at"),
        ({}, "holds no model"),
        ({"config.json": "{}"}, "holds no model"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "pickled weights are not loaded"),
        ({"model.safetensors": ""}, "holds no model"),
        ({"config.json": "{", "model.safetensors": ""}, "config.json cannot be read"),
    ],
    ids=str,
)
def test_a_folder_that_is_no_checkpoint_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, str] | None, words: str
) -> None:
    folder = tmp_path / "given"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        check_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_named_by_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_text("")
    monkeypatch.chdir(tmp_path)
    assert check_checkpoint("m") == tmp_path / "m"


def test_half_precision_checkpoints_are_widened(tmp_path: Path) -> None:
    """numpy has no bfloat16, and the digest of the file must be the digest of the model that it is copied into."""
    model = tiny_model()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}
    other = tiny_model()
    reset_weights(other, weights)
    assert weights_digest(other, weights) == arrays_digest(weights)


def test_a_checkpoint_of_another_model_is_refused_by_its_first_tensor(tmp_path: Path) -> None:
    save_pretrained(tiny_model(), tiny_tokenizer(), tmp_path / "base")
    save_pretrained(tiny_model(), tiny_tokenizer(), tmp_path / "same")
    check_same_architecture(tmp_path / "same", tmp_path / "base")
    wide = tiny_model()
    wide.resize_token_embeddings(wide.config.vocab_size + 8)
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match=r"does not fit the testbed: model.embed_tokens.weight is"):
        check_same_architecture(tmp_path / "wide", tmp_path / "base")


def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    save_pretrained(tiny_model(), tiny_tokenizer(), tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    for read in (read_weights, lambda folder: check_same_architecture(folder, folder)):
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path)
