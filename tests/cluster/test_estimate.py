"""Estimates against published sizes and against what torch itself keeps; and what must grow when a trial grows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from weakspot.cluster.estimate import (
    FITS,
    MARGIN,
    NO,
    TIGHT,
    UNKNOWN,
    Speed,
    choose,
    fit,
    pack,
    step_flops,
    step_seconds,
    trial_seconds,
)
from weakspot.cluster.memory_model import GIB, Memory, Shape, layer_bytes, memory, read_shape, shape_of
from weakspot.errors import UserError
from weakspot.workload import Workload


def config(kind: str, layers: int, width: int, inner: int, words: int, heads: int, keys: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": inner,
        "vocab_size": words, "num_attention_heads": heads, "num_key_value_heads": keys, **more,
    }  # fmt: skip


PUBLISHED = {  # parameters as their model cards and index files state them
    "Llama-3-8B": (config("llama", 32, 4096, 14336, 128256, 32, 8), 8_030_261_248),
    "Llama-2-7B": (config("llama", 32, 4096, 11008, 32000, 32, 32), 6_738_415_616),
    "Mistral-7B": (config("mistral", 32, 4096, 14336, 32000, 32, 8), 7_241_732_096),
    "Qwen2.5-0.5B": (config("qwen2", 24, 896, 4864, 151936, 14, 2, tie_word_embeddings=True), 494_032_768),
    "Gemma-2-2B": (config("gemma2", 26, 2304, 9216, 256000, 8, 4, head_dim=256), 2_614_341_888),
    "SmolLM2-135M": (config("llama", 30, 576, 1536, 49152, 9, 3, tie_word_embeddings=True), 134_515_008),
}
LLAMA = shape_of(PUBLISHED["Llama-3-8B"][0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_published_models(name: str) -> None:
    given, parameters = PUBLISHED[name]
    assert shape_of(given).parameters == parameters


def test_the_adapter_of_a_published_model_has_its_size() -> None:
    assert LLAMA.adapter(16) == 41_943_040  # as peft counts it for r = 16 on all linear layers of Llama-3-8B
    assert LLAMA.adapter(16, "attention") + LLAMA.adapter(16, "mlp") == LLAMA.adapter(16)
    assert LLAMA.adapter(16, share=0.5) == LLAMA.adapter(16) // 2


@pytest.mark.parametrize(
    ("optimizer", "width", "each"), [("adamw", 4, 16), ("adamw", 2, 8), ("sgd", 4, 12), ("adafactor", 4, 8)]
)
def test_full_training_takes_so_many_bytes_a_parameter(optimizer: str, width: int, each: int) -> None:
    found = memory(LLAMA, Workload("full", optimizer=optimizer, weight_bytes=width))
    assert found.weights + found.gradients + found.states == each * LLAMA.parameters


def test_a_frozen_base_is_its_weights_and_four_bits_are_an_eighth() -> None:
    adapter = memory(LLAMA, Workload("adapter", rank=16, rows=1, length=1))
    assert adapter.weights + adapter.gradients + adapter.states == 4 * LLAMA.parameters + 16 * LLAMA.adapter(16)
    four_bit = memory(LLAMA, Workload("four_bit", rank=16, rows=1, length=1))
    assert four_bit.model == pytest.approx(4 * LLAMA.parameters), "the model arrives in fp32"
    many = Workload("four_bit", rank=16, rows=32, length=512)
    rounded, whole = memory(LLAMA, many), memory(LLAMA, replace(many, trained="adapter"))
    assert whole.weights - rounded.weights == pytest.approx((4 - 4.127 / 8) * LLAMA.matrices)


@pytest.mark.parametrize("trained", ["full", "adapter", "four_bit", "inputs"])
@pytest.mark.parametrize("knob", ["rows", "length", "predicted"])
def test_memory_and_time_grow_with_the_batch(trained: Any, knob: str) -> None:
    small = Workload(trained, rank=8, rows=8, length=512, predicted=256)
    large = replace(small, **{knob: 2 * getattr(small, knob)})
    assert memory(LLAMA, large).total > memory(LLAMA, small).total
    assert trial_seconds(LLAMA, large, Speed(1e12)) > trial_seconds(LLAMA, small, Speed(1e12))


def test_memory_grows_with_rank_and_falls_with_what_is_trained() -> None:
    works = [Workload("adapter", rank=rank, rows=8, length=64) for rank in (1, 4, 16, 64)]
    sizes = [memory(LLAMA, work).total for work in works]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)
    whole = Workload("full", rank=16, rows=8, length=64)
    kinds: tuple[Any, ...] = ("full", "adapter", "inputs", "nothing")
    falling = [memory(LLAMA, replace(whole, trained=kind)).total for kind in kinds]
    assert falling == sorted(falling, reverse=True)


def test_operations_are_six_four_and_two_a_parameter_and_token() -> None:
    short = Workload("full", rows=1000, length=1, predicted=0)
    each = LLAMA.matrices * short.tokens
    for trained, times in (("full", 6), ("inputs", 4), ("nothing", 2)):
        assert step_flops(LLAMA, replace(short, trained=trained)) == pytest.approx(times * each, rel=1e-3)
    with_adapter = step_flops(LLAMA, replace(short, trained="adapter", rank=16))
    assert with_adapter == pytest.approx(4 * each + 6 * LLAMA.adapter(16) * short.tokens, rel=1e-3)


def test_operations_are_those_that_torch_counts() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from tests.tiny import tiny_model

    model, rows, length = tiny_model(), 4, 16
    model.set_attn_implementation("eager")
    ids = torch.randint(0, model.config.vocab_size, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    work = Workload("full", rows=rows, length=length, predicted=length)
    assert step_flops(shape_of(model.config.to_dict()), work) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("trained", ["full", "inputs"])
@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
def test_what_a_layer_keeps_is_what_torch_keeps(trained: Any, low: bool) -> None:
    """The memory of one layer more, by the storages that autograd saves; the layer's own weights and their copies left out."""
    few, many = (kept(layers, 4, trained, low) for layers in (2, 3))
    double = kept(3, 8, trained, low) - kept(2, 8, trained, low)
    shape = Shape(3, 32, 64, 50, 4, 2, 8, tied=True)
    work = Workload(trained, rows=4, length=12, compute_bytes=2 if low else 4)
    assert layer_bytes(shape, work) == pytest.approx((double - (many - few)) / work.tokens, rel=0.06)


def kept(layers: int, rows: int, trained: str, low: bool) -> int:
    """Bytes of the storages that a small Llama's forward pass saves for its backward pass."""
    from contextlib import nullcontext

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
                    num_key_value_heads=2)
    )  # fmt: skip
    model.requires_grad_(trained == "full")
    own, seen, alive = {p.data_ptr() for p in model.parameters()}, {}, []

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        alive.append(tensor)  # else its address is used again
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    mask = torch.ones(rows, 12, dtype=torch.long)
    mask[0, -2:] = 0
    embedded = torch.randn(rows, 12, 32, requires_grad=True)
    casting = torch.autocast("cpu", torch.bfloat16) if low else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), casting:
        out = model.base_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
    del out
    return sum(seen.values())


def test_the_verdict_leaves_room_for_the_estimates_error() -> None:
    assert fit(10.0, 10.0 * MARGIN) == FITS
    assert fit(10.0, 10.0 * MARGIN * 0.999) == TIGHT
    assert fit(10.0, 10.0) == TIGHT
    assert fit(10.0, 10.0 / MARGIN) == TIGHT
    assert fit(10.0, 10.0 / MARGIN * 0.999) == NO
    assert fit(None, 10.0) == fit(10.0, None) == UNKNOWN


def need(total: float) -> Memory:
    """So many bytes, one of them the process's own."""
    return Memory(total - 1, 0, 0, 0, 0, overhead=1)


def test_trials_share_a_gpu_only_with_room_for_each() -> None:
    assert pack(need(10), 10 * MARGIN * 4).on_one == 4
    assert pack(need(10), 10 * MARGIN * 3.99).on_one == 3
    assert pack(need(10), 10.0).on_one == 1, "what is tight has a GPU of its own"
    shared = pack(need(10), 10 * MARGIN * 3)
    assert shared.on_one * shared.gpus <= 1, "Ray would place one fewer"
    assert int(1 / shared.gpus) == 3


def test_a_trial_that_is_too_large_needs_several_gpus() -> None:
    large = Memory(20, 20, 40, 15, 5, overhead=1)
    found = pack(large, 50 * MARGIN)
    assert found.on_one == 0
    assert found.gpus == 4  # a hundred over 29: its own 1, and the whole weights where they are measured
    assert pack(large, 21 * MARGIN).gpus == math.inf


@pytest.mark.parametrize("total", [0.1, 3.0, 10.0, 30.0, 79.0, 80.0, 81.0, 200.0])
def test_what_is_chosen_fits_by_the_estimate_with_its_margin(total: float) -> None:
    large = Memory(total / 5, total / 5, 2 * total / 5, total / 5, 0, overhead=0)
    for spreads in (False, True):
        share = choose(large, 80.0, spreads)
        if share.gpus < 1:
            assert int(1 / share.gpus) * total * MARGIN <= 80.0
        elif share.gpus > 1:
            assert spreads
            assert share.gpus == int(share.gpus)
            assert large.model / share.gpus + large.weights <= 80.0 / MARGIN
        else:
            assert 2 * total * MARGIN > 80.0, "two would fit"
    assert choose(large, 80.0, False).gpus <= 1


def test_what_is_not_known_has_a_whole_gpu() -> None:
    assert choose(None, 80 * GIB, True, "no config.json").gpus == 1.0
    assert "UNKNOWN: no config.json" in choose(None, 80 * GIB, True, "no config.json").why
    assert choose(need(1), None, True).gpus == 1.0
    assert choose(Memory(120, 0, 0, 0, 0, 0), 80.0, True).gpus == 1.0
    assert "no number of GPUs would do" in choose(Memory(120, 0, 0, 0, 0, 0), 80.0, True).why


def test_full_training_of_eight_billion_parameters_needs_several_gpus_and_an_adapter_one() -> None:
    full = memory(LLAMA, Workload("full", rows=8, length=512, compute_bytes=2), "gpu")
    assert fit(full.total, 80 * GIB) == NO
    assert pack(full, 80 * GIB).gpus >= 2
    adapter = memory(LLAMA, Workload("adapter", rank=16, rows=1, length=256, compute_bytes=2), "gpu")
    assert fit(adapter.total, 80 * GIB) == FITS
    assert pack(adapter, 80 * GIB).on_one == 1


def test_time_is_operations_bytes_and_calls_and_a_price_is_relative() -> None:
    work = Workload("full", rows=4, length=64)
    whole = step_seconds(LLAMA, work, Speed(1e12))
    assert whole == pytest.approx(step_flops(LLAMA, work) / 1e12)
    assert step_seconds(LLAMA, work, Speed(1e12, bandwidth=1e9)) > whole
    assert step_seconds(LLAMA, work, Speed(1e12, call=1e-3)) == pytest.approx(whole + 32 * 120 * 1e-3)
    assert step_seconds(LLAMA, replace(work, price=10.0), Speed(1e12)) == pytest.approx(10 * whole)
    twice = trial_seconds(LLAMA, replace(work, steps=128), Speed(1e12))
    assert twice == pytest.approx(2 * trial_seconds(LLAMA, replace(work, steps=64), Speed(1e12)))
    assert trial_seconds(LLAMA, replace(work, prompts=64), Speed(1e12)) > 64 * whole


BAD = {
    "absent": (None, "cannot be read as a model's configuration"),
    "no JSON": ("{", "cannot be read as a model's configuration"),
    "a list": ("[1]", "expected an object"),
    "another kind": ('{"model_type": "mamba"}', "no estimate for model type 'mamba': known are gemma"),
    "no kind": ("{}", "no estimate for model type 'none'"),
    "no width": ('{"model_type": "llama", "num_hidden_layers": 2}', "hidden_size is None: expected a whole number above 0"),
    "no layer": ('{"model_type": "llama", "num_hidden_layers": 0}', "num_hidden_layers is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_configuration_that_is_none_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        read_shape(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shape_is_read_from_a_folder_or_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["SmolLM2-135M"][0]))
    assert read_shape(tmp_path) == read_shape(tmp_path / "config.json") == shape_of(PUBLISHED["SmolLM2-135M"][0])
