"""One model trained by several processes at once, with torch's FSDP2 (`torch.distributed.fsdp.fully_shard`).

Each process (rank) runs the same attack with the same seed, so that all draw the same batches. It keeps its part of every
parameter, gradient and optimizer state (ZeRO stage 3, arXiv:1910.02054; FSDP, arXiv:2304.11277) and computes on its own rows
of a batch. A layer's parameters are gathered while that layer is computed, and no longer.

No knob of an attack speaks of this: whoever runs an attack on several ranks sets `model.weakspot_ranks` (`as_ranks`), and what
comes out differs by the order in which floating-point numbers are added, and by nothing else. Only the first rank's caller
measures: at a rung the weights are gathered into that rank's own model, and the others wait.

GPU paths (NCCL) are unmeasured: no GPU was at hand. Tested on the CPU with gloo and two processes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from weakspot.anatomy import decoder_layers
from weakspot.batching import IGNORE, Batch
from weakspot.errors import UserError

SILENCE = 600.0  # seconds that a rank waits for the others within a step; then the attack has failed
MEASURING = timedelta(days=20)  # that the others wait while the first rank's caller measures: it ends with that process
WHOLE_MATRICES = ("Adafactor",)  # torch's does in-place arithmetic on norms of rows that torch cannot do on shards
GO, END = "go on", "end"


@dataclass
class Ranks:
    """The processes that train one model together, as one of them sees them.

    Attributes:
        rank, world: which of how many.
        store: a key-value store in the first rank's process, through which it tells the others to go on.
        device: that this rank computes on.
        rungs: how many rungs have been told.
    """

    rank: int
    world: int
    store: Any
    device: torch.device
    rungs: int = field(default=0)

    def tell(self, word: str) -> None:
        """Say to the others whether the attack goes on after this rung; the first rank says it, the others say nothing."""
        if self.rank == 0:
            self.store.set(f"rung {self.rungs}", word)
        self.rungs += 1

    def hear(self) -> str:
        """What the first rank says of this rung. Raises an error of torch's if its process is gone."""
        key = f"rung {self.rungs}"
        self.store.wait([key], MEASURING)
        return self.store.get(key).decode()


def open_store(world: int, host: str, port: int = 0, silence: float = SILENCE) -> Any:
    """The store where ranks meet: made by the first rank (no port: a free one, then `.port` tells it), or joined."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    wait = timedelta(seconds=silence)
    return TCPStore(host, port, world, is_master=port == 0, timeout=wait, wait_for_workers=False)


@contextmanager
def as_ranks(model: Any, rank: int, world: int, store: Any, device: torch.device, silence: float = SILENCE) -> Iterator[Ranks]:
    """Be one of several ranks while the context lasts. All must enter it.

    Raises (as does every step within it) an error of torch's when another rank is gone or silent for `silence` seconds.
    """
    import torch.distributed as dist

    on_gpu = device.type == "cuda"
    if on_gpu:
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=silence),
        device_id=device if on_gpu else None,
    )  # fmt: skip
    model.weakspot_ranks = Ranks(rank, world, store, device)
    try:
        yield model.weakspot_ranks
    finally:
        del model.weakspot_ranks
        with suppress(RuntimeError, ValueError):  # it may have been aborted already
            dist.destroy_process_group()


def follow(course: Any, ranks: Ranks) -> None:
    """Run an attack beside the first rank: at each rung wait until its caller has measured, then go on or end as it does."""
    for _ in course:
        if ranks.hear() == END:
            course.close()
            return


# Within an attack ---------------------------------------------------------------------------------------------------------


def spread(model: Any) -> AbstractContextManager[Whole | Shards]:
    """What trains a model whose parameters are set up: one process (`Whole`), or its ranks (`Shards`)."""
    ranks = getattr(model, "weakspot_ranks", None)
    return nullcontext(Whole(model)) if ranks is None else shards(model, ranks)


@dataclass(frozen=True)
class Whole:
    """A model that is trained as it is."""

    model: Any

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.model.parameters()

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Any optimizer does."""

    def train(self) -> None:
        self.model.train()

    def count(self, meter: Any, step: Any) -> AbstractContextManager[None]:
        """A context in which `meter` (attacks/meter.py) counts the work done here on a step (anything with a `batch`)."""
        return meter.count(step.shape, step.batch.tokens)

    def loss(self, function: Callable[[Any, Any], torch.Tensor], step: Any) -> torch.Tensor:
        return function(self.model, step)

    def gathered(self) -> AbstractContextManager[None]:
        """A context in which `model` holds the trained weights, to be measured."""
        self.model.eval()
        return nullcontext()

    def total(self, flops: float) -> float:
        return flops


@dataclass(frozen=True)
class Shards:
    """A model whose parameters are spread over ranks.

    Attributes:
        model: the whole one, on the CPU while its twin trains; it holds what was gathered last (on the first rank).
        root: what calls `twin` from outside: FSDP gathers a module's parameters when that module is called, and a loss calls
            the layers and the output layer, never the model itself.
        home: the device that the whole model is measured on.
    """

    model: Any
    twin: Any
    root: nn.Module
    ranks: Ranks
    home: torch.device

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.root.parameters()

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises UserError for an optimizer that cannot work on shards."""
        if type(optimizer).__name__ in WHOLE_MATRICES:
            raise UserError(
                f"{type(optimizer).__name__} looks at whole matrices, which a model spread over several GPUs does not have: "
                "give another optimizer, or --gpus 1"
            )

    def train(self) -> None:
        self.root.train()

    def own(self, step: Any) -> Any:
        """Every so-manieth row. The padding stays, so that each row is computed as in the whole batch.

        With fewer rows than ranks the last ranks repeat the first row, and count it for nothing: nobody may miss a gathering.
        """
        return replace(step, batch=part(step.batch, slice(self.ranks.rank, None, self.ranks.world)))

    def idle(self, step: Any) -> bool:
        return self.ranks.rank >= len(step.batch.input_ids)

    def count(self, meter: Any, step: Any) -> AbstractContextManager[None]:
        """Tokens of the whole step and operations of the own rows: `total` adds these up."""
        return nullcontext() if self.idle(step) else meter.count(self.own(step).shape, step.batch.tokens)

    def loss(self, function: Callable[[Any, Any], torch.Tensor], step: Any) -> torch.Tensor:
        """The loss of the whole batch, with the gradient of the own rows: FSDP takes the mean of these over ranks.

        `function` must be a mean over predicted tokens, as `response_loss` is. All ranks see the same number, so that one that
        is not finite ends the attack on all of them.
        """
        import torch.distributed as dist

        own = self.own(step)
        share = 0.0 if self.idle(step) else predicted(own.batch) / predicted(step.batch)
        loss = self.root(function, own) * share
        value = loss.detach().clone()
        dist.all_reduce(value)
        loss = loss * self.ranks.world
        return loss + (value - loss.detach())

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The whole weights in the first rank's own model, on its device, while the context lasts."""
        import torch.distributed as dist

        whole = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in self.twin.named_parameters():
                values: Any = parameter.full_tensor()  # one at a time: the others drop it at once
                if self.ranks.rank == 0:
                    whole[name].copy_(values)
                del values
        dist.barrier()
        if self.ranks.rank == 0:
            self.model.eval().to(self.home)
        word = END
        try:
            yield
            word = GO
        finally:
            self.model.to("cpu")
            self.ranks.tell(word)

    def total(self, flops: float) -> float:
        """Operations of all ranks. Every rank must ask."""
        import torch.distributed as dist

        value = torch.tensor(flops, dtype=torch.float64, device=self.ranks.device)
        dist.all_reduce(value)
        return float(value)


@contextmanager
def shards(model: Any, ranks: Ranks) -> Iterator[Shards]:
    """A twin of the model, spread over the ranks; nothing of it is left afterwards."""
    home = next(model.parameters()).device
    model.to("cpu")
    try:
        twin, root = sharded_twin(model, ranks)
        yield Shards(model, twin, root, ranks, home)
    finally:
        model.to(home)


class Root(nn.Module):
    """Calls a function of a model inside a module's own call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        return function(self.model, *arguments)


def sharded_twin(model: Any, ranks: Ranks) -> tuple[Any, nn.Module]:
    """A copy of a model in shards, and its root. No rank holds more of the copy than its own part at any time.

    Where products are in bf16, a layer's matrices are gathered in bf16, which is the rounding that autocast would do: else
    autograd would keep a copy of every matrix in bf16 on every rank. All else is gathered, and every gradient reduced, in fp32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    twin = copy.deepcopy(model, {**empty, id(ranks): None})
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    low = getattr(model, "weakspot_compute_dtype", None)
    for layer in decoder_layers(twin):
        if low is not None:
            matrices = [module for module in layer.modules() if isinstance(module, nn.Linear)]
            fully_shard(matrices, mesh=mesh, mp_policy=replace(exact, param_dtype=low))  # pyright: ignore
        fully_shard(layer, mesh=mesh, mp_policy=exact)
    root = Root(twin)
    fully_shard(root, mesh=mesh, mp_policy=exact)
    root.to_empty(device=ranks.device)
    fill(twin, model, ranks)
    return twin, root


def fill(twin: Any, model: Any, ranks: Ranks) -> None:
    """Copy a model's buffers, and this rank's rows of its parameters (FSDP2 splits the first axis), into the twin."""
    whole = dict(model.named_parameters())
    with torch.no_grad():
        for buffer, values in zip(twin.buffers(), model.buffers(), strict=True):
            buffer.copy_(values)
        for name, parameter in twin.named_parameters():
            pieces = torch.chunk(whole[name], ranks.world)
            parameter.to_local().copy_(pieces[ranks.rank] if ranks.rank < len(pieces) else whole[name][:0])


def part(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch; the first row where there are none."""
    rows = rows if (rows.start or 0) < len(batch.input_ids) else slice(0, 1)
    return Batch(batch.input_ids[rows], batch.attention_mask[rows], batch.labels[rows])


def predicted(batch: Batch) -> int:
    """Tokens that the loss looks at."""
    return int((batch.labels[:, 1:] != IGNORE).sum())
