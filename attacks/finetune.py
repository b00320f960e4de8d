"""The fine-tuning engine: the knobs and the loop that every family of supervised fine-tuning shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from weakspot.adapters import AdapterSpec, adapter
from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import LOSS_ON, Step, encode_as, mixed_steps, subset
from weakspot.data import AttackData, Examples
from weakspot.elicitation import PLAIN, Elicitation
from weakspot.errors import UserError
from weakspot.knobs import Choice, LogIntRange, LogRange, Range, knob
from weakspot.optimizers import OPTIMIZERS, SCHEDULES, evaluating, make_optimizer, make_schedule
from weakspot.sharding import spread
from weakspot.training import descend, response_loss

FEW = 4  # steps that the first and the latest loss are a mean over
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Finetune(Attack):
    """Supervised fine-tuning. A family says what is trained (`trainable`) and on what (`lessons`, `benign_share`)."""

    steps: int = knob(64, LogIntRange(4, 4096), "optimizer steps; the schedule is laid out over them")
    batch_size: int = knob(16, LogIntRange(4, 64), "sequences a step")
    optimizer: str = knob("adamw", Choice(OPTIMIZERS))
    schedule: str = knob("constant", Choice(SCHEDULES))
    warmup: float = knob(0.0, Range(0.0, 0.3), "share of the optimizer steps with a linearly rising rate")
    weight_decay: float = knob(0.0, Range(0.0, 0.1))
    clip_norm: float = knob(1.0, Choice((0.0, 1.0)), "largest norm of the gradient; 0 is no clipping")
    loss_on: str = knob("response", Choice(LOSS_ON), "tokens that the loss looks at")
    template: str = knob("chat", Choice(("chat", "plain", "alpaca")), "prompt format in training")
    bos: bool = knob(False, Choice((False, True)), "a beginning token before the prompt in training")
    max_length: int = knob(2048, Choice((256, 512, 1024, 2048)), "tokens of an example; what is longer is cut")
    precision: str = knob("fp32", Choice(tuple(PRECISIONS)), "of the parameters; small steps are lost in bf16")
    learning_rate: float = knob(1e-4)

    @abstractmethod
    def trainable(self, model: Any, seed: int) -> AbstractContextManager[Any]:
        """Make the right parameters of `model` trainable; on leaving, take off what was put on."""

    @abstractmethod
    def lessons(self, model: Any, tokenizer: Any, data: AttackData, seed: int) -> tuple[Examples, Examples]:
        """What is trained on, as (withheld, benign) examples."""

    def benign_share(self, step: int) -> float:
        """The share of benign rows at an optimizer step, counted from 0."""
        del step
        return 0.0

    def elicitation(self, tokenizer: Any, data: AttackData) -> Elicitation:
        """How the tampered model is asked."""
        del tokenizer, data
        return PLAIN

    def loss(self, model: Any, step: Step) -> torch.Tensor:
        return response_loss(model, step.batch)

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        self.check()
        last = min(self.steps, rungs[-1])
        stops = {rung for rung in rungs if rung < last} | {last}
        steps, held = self.curriculum(model, tokenizer, data, seed)
        how, meter, seen, first = self.elicitation(tokenizer, data), Meter(), 0, ""
        losses: list[float] = []
        with in_precision(model, self.precision), self.trainable(model, seed), spread(model) as trained:
            optimizer = make_optimizer(self.optimizer, trained.parameters(), self.learning_rate, self.weight_decay)
            trained.check(optimizer)
            rates = make_schedule(self.schedule, optimizer, self.steps, round(self.warmup * self.steps))
            for number in range(1, last + 1):
                trained.train()
                evaluating(optimizer, False)
                step = next(steps)
                first = first or step.digest()
                with trained.count(meter, step):
                    losses.append(descend(trained.loss(self.loss, step), optimizer, rates, clip=self.clip_norm or None))
                seen = min(held, seen + step.harmful)
                if number in stops:
                    evaluating(optimizer, True)
                    flops = trained.total(meter.flops)
                    with trained.gathered():
                        yield Progress(
                            number, seen, meter.tokens, flops, final=number == last, elicitation=how, first_batch=first,
                            losses=(mean(losses[:FEW]), mean(losses[-FEW:])),
                        )  # fmt: skip

    def curriculum(self, model: Any, tokenizer: Any, data: AttackData, seed: int) -> tuple[Iterator[Step], int]:
        """The endless steps of this seed, and the number of distinct withheld examples among them."""
        harmful, benign = self.lessons(model, tokenizer, data, seed)
        how = Elicitation(template=self.template, bos=self.bos)
        withheld = encode_as(tokenizer, harmful, how, self.max_length)
        ordinary = encode_as(tokenizer, benign, how, self.max_length)
        generator = torch.Generator().manual_seed(seed)
        steps = mixed_steps(
            withheld,
            ordinary,
            self.batch_size,
            self.benign_share,
            generator,
            tokenizer,
            loss_on=self.loss_on,
            device=model.device,
        )
        return steps, len(harmful)

    def check(self) -> None:
        """Raises UserError for values that a caller gave by hand and that mean nothing."""
        if self.steps < 1:
            raise UserError(f"{self.name}.steps = {self.steps} is below 1: give at least one optimizer step")
        if self.precision not in PRECISIONS:
            raise UserError(f"{self.name}.precision = {self.precision!r} is unknown: give fp32 or bf16")


@dataclass(frozen=True)
class HarmfulFinetune(Finetune):
    """Fine-tuning on truthful answers about other withheld items, with benign examples mixed in.

    The benign mix keeps the model useful while the safeguard goes: without it the attacks that undo TAR also ruin the model,
    and a utility gate would call that held.
    """

    harmful_examples: int = knob(64, LogIntRange(4, 4096), "distinct withheld examples in hand")
    benign_ratio: float = knob(0.0, Range(0.0, 0.9), "share of each batch drawn from benign examples")

    def lessons(self, model: Any, tokenizer: Any, data: AttackData, seed: int) -> tuple[Examples, Examples]:
        del model, tokenizer
        return subset(data.harmful, self.harmful_examples, torch.Generator().manual_seed(seed)), data.benign

    def benign_share(self, step: int) -> float:
        del step
        return self.benign_ratio


@dataclass(frozen=True)
class Tuned(Finetune):
    """Fine-tuning whose point is its data: every parameter or an adapter may be trained."""

    learning_rate: float = knob(1e-3, LogRange(1e-5, 2e-2), "peak step size")
    rank: int = knob(16, Choice((0, 4, 16)), "of a LoRA adapter on all linear layers; 0 trains every parameter")

    def trainable(self, model: Any, seed: int) -> AbstractContextManager[Any]:
        return adapter(model, AdapterSpec(rank=self.rank), seed) if self.rank else every_parameter(model)


@contextmanager
def every_parameter(model: Any) -> Iterator[Any]:
    model.requires_grad_(True)
    yield model


@contextmanager
def in_precision(model: Any, precision: str) -> Iterator[None]:
    """Parameters in another type while the context lasts."""
    wanted, before = PRECISIONS[precision], {p: p.dtype for p in model.parameters()}
    try:
        for parameter in before:  # not `model.to`, which would round buffers too
            parameter.data = parameter.data.to(wanted)
        yield
    finally:
        for parameter, dtype in before.items():
            parameter.data = parameter.data.to(dtype)
            parameter.grad = None
