"""Time and room for trials, before anything is started: how long one takes, whether it fits, how many fit on a GPU.

Time of a step = operations / speed + bytes moved / bandwidth + calls x time of a call.

- Operations, with N the parameters of the layers' matrices and T tokens: 2 N T forward, and as much again for the gradients of
  activations and for those of weights: 6 N T for full fine-tuning (Kaplan et al., arXiv:2001.08361, section 2.1), 4 N T and
  6 per parameter of the adapter for LoRA, 4 N T where only the input is trained, 2 N T without gradients. The output layer
  counts for predicted tokens only; attention adds 4 A L a token and layer, A the width of queries.
- Bytes moved: by the optimizer over its parameters, by activations written and read again. They cost what a copy costs.
- Calls: a small model spends its time in them. So many a layer were counted on a Llama with a TorchDispatchMode.

Speed, bandwidth and the time of a call are measured on this machine in a few seconds, and the sum is then scaled to real steps
of a model of the same width with few layers (cluster/calibrate.py); or the speed is given and the rest left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from weakspot.cluster.memory_model import (
    ASKED,
    GIB,
    STATES,
    Memory,
    Shape,
    layer_bytes,
    logit_bytes,
    memory,
    trained_parameters,
)
from weakspot.workload import Workload

MARGIN = 1.3  # what an estimate of memory may be wrong by, either way
FITS, TIGHT, NO, UNKNOWN = "FITS", "TIGHT", "NO", "UNKNOWN"
FORWARD_CALLS, BACKWARD_CALLS = 42, 78  # of torch in one decoder layer, views left out
MOST_ON_ONE = 16  # trials on one GPU: more share its time, not its memory
ENCODING = 2e-4  # seconds an example takes to be put into its template and tokenised: 912 of fable took 0.2 s on one core here
COUNTED = 2  # steps of a trial whose operations are counted (attacks/meter.py); longer trials of more shapes count a few more
KIND_OF = {"four_bit": "adapter", "inputs": "adapter"}  # what has no factor of its own has that of a near kind


@dataclass(frozen=True)
class Speed:
    """What a machine does for one trial.

    Attributes:
        flops: operations a second, in matrix products.
        bandwidth: bytes a second, read or written; infinite where unknown.
        call: seconds of a call into torch that computes next to nothing.
        source: where these come from, in words.
        factors: by what is trained ("nothing" is asking), how much longer real work takes than the sum; 1 where absent.
        counting: seconds more of a step whose operations are counted.
    """

    flops: float
    bandwidth: float = math.inf
    call: float = 0.0
    source: str = "given"
    factors: Mapping[str, float] = field(default_factory=dict)
    counting: float = 0.0

    def factor(self, trained: str) -> float:
        return self.factors.get(KIND_OF.get(trained, trained), 1.0)


def forward_flops(shape: Shape, tokens: float, length: float, predicted: float) -> float:
    """Operations of a forward pass over `tokens`, of which `predicted` go through the output layer."""
    attention = 4 * shape.query * length * tokens * shape.layers
    return 2 * shape.matrices * tokens + attention + 2 * shape.embedding * predicted


def step_flops(shape: Shape, work: Workload) -> float:
    """Operations of one step."""
    forward = forward_flops(shape, work.tokens, work.length, work.rows * work.predicted)
    if work.trained == "full":
        return 3 * forward
    if work.trained == "nothing":
        return forward
    return 2 * forward + 6 * trained_parameters(shape, work) * work.tokens


def step_bytes(shape: Shape, work: Workload) -> float:
    """Bytes that one step moves, matrix products left out.

    The optimizer reads weight, gradient and states and writes all but the gradient; before, the gradient is written, read for
    its norm and scaled. A copy of each matrix in bf16 is written and its gradient made fp32 again. Activations and logits are
    written, read and matched by gradients of their size.
    """
    trained, states = trained_parameters(shape, work), STATES.get(work.optimizer, 2)
    optimizer = work.weight_bytes * trained * (2 + 1 + 2 * states + 4)
    low = work.compute_bytes < work.weight_bytes
    casts = (shape.matrices + shape.embedding) * 6 * (2 if work.trained == "full" else 1) if low else 0
    passes = 2 if work.trained == "nothing" else 4
    kept = shape.layers * work.tokens * layer_bytes(shape, work) + logit_bytes(shape, work)
    return optimizer + casts + passes * kept


def step_seconds(shape: Shape, work: Workload, speed: Speed) -> float:
    """One step. A family with a price of its own costs so many full fine-tuning steps."""
    if work.price is not None:
        whole = Workload(rows=work.rows, length=work.length, predicted=work.predicted, compute_bytes=work.compute_bytes)
        return work.price * step_seconds(shape, whole, speed)
    calls = shape.layers * (FORWARD_CALLS + (0 if work.trained == "nothing" else BACKWARD_CALLS))
    seconds = step_flops(shape, work) / speed.flops + step_bytes(shape, work) / speed.bandwidth + calls * speed.call
    return speed.factor(work.trained) * seconds


def measure_seconds(shape: Shape, work: Workload, speed: Speed) -> float:
    """One measurement: replies in batches, each of a pass over the prompts and one a token, which reads every weight."""
    if not work.prompts:
        return 0.0
    batches, calls = math.ceil(work.prompts / ASKED), shape.layers * FORWARD_CALLS * speed.call
    flops = forward_flops(shape, work.prompts * (work.length + work.new_tokens), work.length, work.prompts * work.new_tokens)
    read = batches * work.new_tokens * 4 * (shape.matrices + shape.embedding)
    seconds = flops / speed.flops + read / speed.bandwidth + batches * (1 + work.new_tokens) * calls
    return speed.factor("nothing") * seconds


def trial_seconds(shape: Shape, work: Workload, speed: Speed) -> float:
    """A trial that is run to its end and measured at every rung."""
    counted = min(COUNTED, work.steps) * speed.counting
    training = work.examples * ENCODING + counted + work.steps * step_seconds(shape, work, speed)
    return training + work.measurements * measure_seconds(shape, work, speed)


# Room --------------------------------------------------------------------------------------------------------------------


def fit(need: float | None, have: float | None) -> str:
    """FITS if the need fits even if it is MARGIN times as large, NO if it does not even if it is so much smaller."""
    if need is None or have is None:
        return UNKNOWN
    if need * MARGIN <= have:
        return FITS
    return NO if need / MARGIN > have else TIGHT


@dataclass(frozen=True)
class Packing:
    """Where trials go.

    Attributes:
        on_one: trials that share a GPU (or this machine's memory); 0 where one needs several.
        gpus: of one trial: a fraction to be asked of Ray, or the number that it would need.
    """

    on_one: int
    gpus: float


def pack(need: Memory, have: float) -> Packing:
    """How trials share a device of `have` bytes, or how many devices one trial needs.

    A trial that may just fit has one for itself. Ray keeps account of fractions and does not enforce them, so each trial is
    granted MARGIN times its estimate. Over several devices weights, gradients, states and activations are split (ZeRO stage 3,
    arXiv:1910.02054; batches divide), each has its own overhead, and the first also holds the whole weights while it measures;
    what is gathered while training is less. Unmeasured on a GPU: none was at hand.
    """
    verdict = fit(need.total, have)
    if verdict == NO:
        room = have / MARGIN - need.overhead - need.weights
        return Packing(0, math.ceil(need.model / room) if room > 0 else math.inf)
    count = 1 if verdict == TIGHT else max(1, min(MOST_ON_ONE, math.floor(have / (need.total * MARGIN))))
    return Packing(count, math.floor(10_000 / count) / 10_000)  # Ray takes four decimals; rounded up, one would be left out


@dataclass(frozen=True)
class Share:
    """GPUs of one trial, as they are chosen for it, and why.

    Attributes:
        gpus: a fraction, or a whole number.
        why: in words.
    """

    gpus: float
    why: str


def choose(need: Memory | None, have: float | None, spreads: bool, unknown: str = "") -> Share:
    """The share that trials of this need are given: no more on one GPU than fit there by the estimate and its margin.

    Args:
        need: of the largest trial; None where unknown, and `unknown` says why.
        have: bytes of the smallest GPU; None where unknown.
        spreads: whether every family that is searched can be spread over several GPUs.
    """
    if need is None or have is None:
        return Share(1.0, f"a whole GPU for each trial, since memory is {UNKNOWN}: {unknown or 'no GPU told its size'}")
    packing = pack(need, have)
    size = f"the largest needs {need.total / GIB:.2f} GiB of {have / GIB:.1f} by the estimate"
    if packing.on_one > 1:
        spare = f"with {MARGIN - 1:.0%} to spare"
        return Share(packing.gpus, f"{packing.gpus:g} of a GPU for each trial, {packing.on_one} on one: {size}, {spare}")
    if packing.on_one == 1:
        return Share(1.0, f"a whole GPU for each trial: {size}")
    if math.isinf(packing.gpus) or not spreads:
        able = (
            "no number of GPUs would do" if math.isinf(packing.gpus) else f"{packing.gpus:.0f} would do for what can be spread"
        )
        return Share(1.0, f"a whole GPU for each trial, which it may not fit into: {size}; {able}")
    return Share(packing.gpus, f"{packing.gpus:.0f} GPUs for each trial: {size}")


def peak(shape: Shape, works: list[Workload], device: str) -> Memory:
    """The memory of the largest of several trials."""
    return max((memory(shape, work, device) for work in works), key=lambda m: m.total)
