"""The fine-tuning engine: the knobs and the loop that full-parameter and LoRA fine-tuning share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.flops import training_flops
from weakspot.batching import Batch, Device, encode, mixed_stream, pad_id
from weakspot.data import AttackData
from weakspot.errors import UserError
from weakspot.knobs import Choice, LogIntRange, Range, knob
from weakspot.training import OPTIMIZERS, SCHEDULES, descend, make_optimizer, make_schedule, response_loss


@dataclass(frozen=True)
class Finetune(Attack):
    """Supervised fine-tuning on truthful answers about other withheld items, with benign examples mixed in.

    The benign mix keeps the model useful while the safeguard goes: without it the attacks that undo TAR also ruin the model,
    and a utility gate would call that held.
    """

    steps: int = knob(64, LogIntRange(4, 4096), "optimizer steps; the schedule is laid out over them")
    batch_size: int = knob(16, LogIntRange(4, 64), "sequences a step")
    harmful_examples: int = knob(64, LogIntRange(4, 4096), "distinct withheld examples in hand")
    benign_ratio: float = knob(0.0, Range(0.0, 0.9), "share of each batch drawn from benign examples")
    optimizer: str = knob("adamw", Choice(OPTIMIZERS))
    schedule: str = knob("constant", Choice(SCHEDULES))
    warmup: float = knob(0.0, Range(0.0, 0.3), "share of the steps with a linearly rising rate")
    weight_decay: float = knob(0.0, Range(0.0, 0.1))
    clip_norm: float = knob(1.0)
    learning_rate: float = knob(1e-4)

    @abstractmethod
    def trainable(self, model: Any, seed: int) -> AbstractContextManager[Any]:
        """Make the right parameters of `model` trainable; on leaving, take off what was put on."""

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        last = min(self.steps, rungs[-1])
        stops = {rung for rung in rungs if rung < last} | {last}
        batches, harmful_slots = attack_batches(
            tokenizer, data, self.batch_size, self.harmful_examples, self.benign_ratio, seed, model.device
        )
        examples = min(self.harmful_examples, len(data.harmful))
        with self.trainable(model, seed):
            optimizer = make_optimizer(self.optimizer, model.parameters(), self.learning_rate, self.weight_decay)
            rates = make_schedule(self.schedule, optimizer, self.steps, round(self.warmup * self.steps))
            tokens, flops, seen = 0, 0.0, 0
            for step in range(1, last + 1):
                model.train()
                batch = next(batches)
                descend(response_loss(model, batch), optimizer, rates, clip=self.clip_norm)
                tokens += batch.tokens
                flops += training_flops(model, batch.tokens)
                seen = min(examples, seen + harmful_slots)
                if step in stops:
                    model.eval()
                    yield Progress(step, seen, tokens, flops, final=step == last)


def attack_batches(
    tokenizer: Any,
    data: AttackData,
    batch_size: int,
    harmful_examples: int,
    benign_ratio: float,
    seed: int,
    device: Device = "cpu",
) -> tuple[Iterator[Batch], int]:
    """Endless batches with a fixed share of benign examples, and the number of withheld examples in each (at least one).

    The seed chooses which withheld examples the attacker holds and their order: another seed, another first batch.
    """
    if not data.harmful:
        raise UserError("fine-tuning needs withheld examples and the attack split has none: choose another attack or testbed")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.harmful), generator=generator).tolist()[:harmful_examples]
    harmful = encode(tokenizer, [data.harmful[i] for i in order])
    benign_slots = min(batch_size - 1, round(benign_ratio * batch_size)) if data.benign else 0
    benign = encode(tokenizer, data.benign) if benign_slots else []
    harmful_slots = batch_size - benign_slots
    groups = [(harmful, harmful_slots), (benign, benign_slots)]
    return mixed_stream(groups, pad_id(tokenizer), generator, device), harmful_slots
