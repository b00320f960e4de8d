"""How fast this machine is for one trial: products of the model's size, then real steps of a model with few layers.

Products, copies and calls give the sum of cluster/estimate.py. What lies between them (casts, masks, hooks, Python) takes about
as long again, differently by what is trained. So a stand-in with the model's width, heads and vocabulary and random weights
takes real steps with an attack's own loss, optimizer and adapter; once with one layer and once with some more, and a straight
line through the two is read at the model's own number of layers. Nothing of it is kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from weakspot.cluster.estimate import Speed, measure_seconds, step_seconds
from weakspot.cluster.memory_model import ASKED, Shape, memory
from weakspot.workload import Workload

LEAST_CALLS = 5
PRODUCTS = 0.5  # seconds that products are measured for; bandwidth and calls take as long together
LAYERS = (1, 4)  # of the two stand-ins
STEPS = 3  # that are timed of each, after one that is not; the least counts, for what disturbs only adds
ROOM = 0.25  # share of this machine's memory, or of the GPU's, that a stand-in may take
RANK = 16  # of its adapter, where none is asked for
SEED = 0


def calibrate(shape: Shape, works: Iterable[Workload], device: str = "cpu") -> Speed:
    """The speed of this machine for trials on a model.

    Args:
        shape: of the model.
        works: what is usual for each family; of what trains every parameter and of what trains an adapter the first is tried,
            in fp32 and, an adapter, on all layers.
        device: cpu or gpu. Unmeasured on a GPU: none was at hand.
    """
    works = [replace(work, weight_bytes=4, share=1.0) for work in works]
    speed = products(shape, works[0], device)
    whole = next((w for w in works if w.trained == "full" and w.price is None), replace(works[0], trained="full", price=None))
    low = next((w for w in works if w.trained == "adapter" and w.price is None), replace(whole, trained="adapter", rank=RANK))
    sizes = [min(shape.layers, layers) for layers in LAYERS]
    if memory(replace(shape, layers=sizes[1]), whole, device).model > ROOM * room(device):
        return speed
    times = [trial_parts(replace(shape, layers=layers), whole, low, device) for layers in dict.fromkeys(sizes)]
    read = {name: along(shape.layers, sizes, [part[name] for part in times]) for name in times[0]}
    factors = {kind: read[kind] / step_seconds(shape, work, speed) for kind, work in (("full", whole), ("adapter", low))}
    if "nothing" in read:
        factors["nothing"] = read["nothing"] / measure_seconds(shape, asked(whole), speed)
    source = f"{speed.source}, scaled to steps of {sizes[-1]} of {shape.layers} layers"
    return replace(speed, factors=factors, counting=max(0.0, read["counted"] - read["full"]), source=source)


def room(device: str) -> float:
    """Bytes of memory where trials run."""
    if device == "gpu":
        import torch

        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def along(layers: int, sizes: list[int], times: list[float]) -> float:
    """The straight line through times at two numbers of layers, read at a third; never below the larger time."""
    if len(times) == 1:
        return times[0]
    slope = (times[1] - times[0]) / (sizes[1] - sizes[0])
    return max(times[1], times[1] + slope * (layers - sizes[1]))


# Stand-ins ---------------------------------------------------------------------------------------------------------------


def trial_parts(shape: Shape, whole: Workload, low: Workload, device: str) -> dict[str, float]:
    """Seconds of a step of full fine-tuning ("full", and "counted" as it is counted), of an adapter ("adapter"), and of
    asking one batch of questions ("nothing", where questions are asked), by a model of this shape."""
    model = stand_in(shape, whole, device)
    found = {"nothing": asking(model, asked(whole), device)} if whole.prompts else {}
    found["full"] = stepping(model, whole, device)
    found["counted"] = stepping(model, whole, device, counted=True)
    found["adapter"] = stepping(model, low, device)
    return found


def asked(work: Workload) -> Workload:
    """One batch of questions."""
    return replace(work, prompts=min(ASKED, work.prompts))


def stand_in(shape: Shape, work: Workload, device: str) -> Any:
    """A Llama of this shape with random weights, computing as the testbed's models do."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, head_dim=shape.head_width,
        tie_word_embeddings=shape.tied, attention_bias=shape.biased, max_position_embeddings=2 * work.length + work.new_tokens,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: Any = LlamaForCausalLM(config)
    model.to("cuda" if device == "gpu" else "cpu")
    if work.eager:
        model.set_attn_implementation("eager")
    if work.compute_bytes < 4:
        model.weakspot_compute_dtype = torch.bfloat16
    return model


def stepping(model: Any, work: Workload, device: str, counted: bool = False) -> float:
    """Seconds of one optimizer step."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from weakspot.adapters import AdapterSpec, adapter
    from weakspot.optimizers import make_optimizer
    from weakspot.training import descend, response_loss

    batch = batch_of(work, model.config.vocab_size, model.device)
    spec = AdapterSpec(rank=min(work.rank, model.config.hidden_size) or RANK, targets=work.targets)
    model.requires_grad_(True).train()
    with torch.random.fork_rng(devices=[]), adapter(model, spec, SEED) if work.trained == "adapter" else nullcontext():
        optimizer = make_optimizer(work.optimizer, [p for p in model.parameters() if p.requires_grad], 1e-5, 0.0)

        def step() -> None:
            with FlopCounterMode(display=False) if counted else nullcontext():  # as attacks/meter.py counts
                descend(response_loss(model, batch), optimizer, clip=1.0)

        return least(step, device)


def batch_of(work: Workload, vocabulary: int, place: Any) -> Any:
    """Random tokens; the loss looks at the last `predicted` of each sequence."""
    import torch

    from weakspot.batching import IGNORE, Batch

    generator = torch.Generator().manual_seed(SEED)
    ids_BL = torch.randint(vocabulary, (work.rows, work.length), generator=generator)
    labels_BL = torch.full_like(ids_BL, IGNORE)
    labels_BL[:, -work.predicted :] = ids_BL[:, -work.predicted :]
    return Batch(ids_BL.to(place), torch.ones_like(ids_BL).to(place), labels_BL.to(place))


def asking(model: Any, work: Workload, device: str) -> float:
    """Seconds of one batch of replies of full length."""
    import torch

    from weakspot.training import autocast

    inputs = batch_of(replace(work, rows=work.prompts), model.config.vocab_size, model.device)
    length = {"max_new_tokens": work.new_tokens, "min_new_tokens": work.new_tokens, "do_sample": False}

    def ask() -> None:
        with torch.inference_mode(), autocast(model):
            model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, pad_token_id=0, **length)

    return least(ask, device)


# Clocks ------------------------------------------------------------------------------------------------------------------


def least(call: Callable[[], Any], device: str) -> float:
    """The least seconds of `STEPS` calls, after one that is not counted."""
    done, clock = clocks(device)
    times = []
    for _ in range(1 + STEPS):
        started = clock()
        call()
        done()
        times.append(clock() - started)
    return min(times[1:])


def clocks(device: str) -> tuple[Callable[[], None], Callable[[], float]]:
    """What waits for the device to be done, and a clock."""
    import torch

    if device == "gpu":
        return torch.cuda.synchronize, time.perf_counter
    # On one thread the processor's time does not count what another process takes in between. On several it says little: some
    # of the work is done by one while the others wait.
    return lambda: None, time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def seconds_of(call: Callable[[], Any], device: str, span: float) -> float:
    """The median time of a call over `span` seconds, after one that is not counted."""
    done, clock = clocks(device)
    call()
    done()
    times, until = [], time.perf_counter() + span
    while time.perf_counter() < until or len(times) < LEAST_CALLS:
        started = clock()
        call()
        done()
        times.append(clock() - started)
    return sorted(times)[len(times) // 2]


def products(shape: Shape, work: Workload, device: str) -> Speed:
    """Speed in matrix products as large as the model's, bandwidth of a copy, and the time of a call, in about a second."""
    import torch

    place = "cuda" if device == "gpu" else "cpu"
    rows, width, inner = work.tokens, shape.width, shape.inner
    tokens_TD = torch.randn(rows, width, device=place, requires_grad=True)
    linear = torch.nn.Linear(width, inner, bias=False, device=place)

    def product() -> None:  # forward and both backward: a transposed operand is slower on some machines
        with torch.autocast(place, torch.bfloat16, enabled=work.compute_bytes < 4):
            out_TF = linear(tokens_TD)
        linear.weight.grad = tokens_TD.grad = None
        out_TF.backward(torch.ones_like(out_TF))

    multiplied = seconds_of(product, device, PRODUCTS)
    block = torch.ones(16 * 2**20, device=place)
    other = torch.empty_like(block)
    copied = seconds_of(lambda: other.copy_(block), device, PRODUCTS / 2)
    small = torch.nn.Sequential(*(layer for _ in range(8) for layer in (torch.nn.Linear(8, 8), torch.nn.SiLU()))).to(place)
    given = torch.ones(2, 8, device=place)
    both = seconds_of(lambda: small(given).sum().backward(), device, PRODUCTS / 2)
    calls = 8 * 6  # forward a product and an activation, backward those, a second product and two sums
    return Speed(6 * rows * width * inner / multiplied, 2 * block.nbytes / copied, both / calls, "measured on this machine")
