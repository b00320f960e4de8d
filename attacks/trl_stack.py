"""TRL's trainer, made to stop at rungs and to leave nothing behind. Imported only where trl is installed."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from weakspot.attacks.base import Progress
from weakspot.attacks.finetune import HarmfulFinetune
from weakspot.attacks.meter import Meter
from weakspot.attacks.suspended import Handover
from weakspot.batching import pad_id
from weakspot.elicitation import Elicitation
from weakspot.errors import TrialFailure
from weakspot.optimizers import CYCLES, evaluating, make_optimizer
from weakspot.training import autocast

# The trainer's own, where it has the optimizer; ours are handed to it otherwise (its SGD has no momentum unless told).
NATIVE = {
    "adamw": "adamw_torch_fused",
    "adafactor": "adafactor",
    "adagrad": "adagrad",
    "schedule_free": "schedule_free_adamw",
}
SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "sgdr": "cosine_with_restarts",
}


@dataclass(frozen=True)
class Course:
    """What is trained on, and where to stop.

    Attributes:
        rows: token ids and labels.
        withheld: how many of the rows, the first ones, are withheld examples.
        order: the numbers of the rows in the order of training, or None for epochs of the trainer's own sampler.
        stops: optimizer steps at which to hand over.
        last: the last of them.
        elicitation: how the model is asked.
    """

    rows: list[dict[str, list[int]]]
    withheld: int
    order: list[int] | None
    stops: frozenset[int]
    last: int
    elicitation: Elicitation


def train(
    attack: HarmfulFinetune,
    course: Course,
    wrapped: Any,
    model: Any,
    tokenizer: Any,
    seed: int,
    handover: Handover[Progress],
) -> None:
    """Run the trainer over the course, handing over at its stops."""
    with tempfile.TemporaryDirectory(prefix="weakspot-trl-") as folder, unpatched(model):
        dataset = Dataset.from_list([{**row, "number": i} for i, row in enumerate(course.rows)])
        optimizer = None
        if attack.optimizer not in NATIVE:
            optimizer = make_optimizer(attack.optimizer, model.parameters(), attack.learning_rate, attack.weight_decay)
        trainer = SuspendedTrainer(
            model=wrapped,
            args=settings(attack, course, model, folder, seed),
            train_dataset=dataset if course.order is None else dataset.select(course.order, keep_in_memory=True),
            data_collator=NumberedCollator(pad_id(tokenizer)),
            processing_class=tokenizer,
            optimizers=(optimizer, None),
        )
        trainer.course = course
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StopAtRungs(trainer, course, model, handover))
        trainer.train()


def settings(attack: HarmfulFinetune, course: Course, model: Any, folder: str, seed: int) -> SFTConfig:
    """The attack's knobs in TRL's words. Whatever would write, print, report or ask the network is off."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*")  # transformers has another name by now
        sampling = "random" if course.order is None else "sequential"
        args = SFTConfig(**options(attack, model, folder, seed), train_sampling_strategy=sampling)
    args._n_gpu = min(1, args.n_gpu)  # one worker, one model, one GPU: never nn.DataParallel
    return args


def options(attack: HarmfulFinetune, model: Any, folder: str, seed: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": attack.steps,
        "per_device_train_batch_size": attack.batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": attack.learning_rate,
        "optim": NATIVE.get(attack.optimizer, "adamw_torch"),
        "lr_scheduler_type": SCHEDULES[attack.schedule],
        "lr_scheduler_kwargs": {"num_cycles": CYCLES} if attack.schedule == "sgdr" else None,
        "warmup_steps": round(attack.warmup * attack.steps),
        "weight_decay": attack.weight_decay,
        "max_grad_norm": attack.clip_norm,
        "seed": seed,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": model.device.type == "cpu",
        "use_cache": bool(model.config.use_cache),
        "dataloader_pin_memory": model.device.type != "cpu",
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
    }


class NumberedCollator(DataCollatorForLanguageModeling):
    """TRL's collator, which also passes on the numbers of the rows."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**super().torch_call(examples), "number": torch.tensor([e["number"] for e in examples])}


class SuspendedTrainer(SFTTrainer):
    """The trainer with its steps counted and its loss watched."""

    course: Course

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter = Meter()
        self.seen: set[int] = set()

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> torch.Tensor:
        self.seen |= {number for number in inputs.pop("number").tolist() if number < self.course.withheld}
        with self.meter.count(tuple(inputs["input_ids"].shape), int(inputs["attention_mask"].sum())):
            loss = super().training_step(model, inputs, *rest, **options)
        if not math.isfinite(value := float(loss)):
            raise TrialFailure(f"diverged: the training loss is {value}")
        return loss

    def compute_loss_context_manager(self) -> Any:
        stack = super().compute_loss_context_manager()
        stack.enter_context(autocast(self.accelerator.unwrap_model(self.model)))
        return stack


class StopAtRungs(TrainerCallback):
    """Hands over at each stop, in eval mode, and ends the training after the last or when the generator is closed."""

    def __init__(self, trainer: SuspendedTrainer, course: Course, model: Any, handover: Handover[Progress]) -> None:
        self.trainer, self.course, self.model, self.handover = trainer, course, model, handover

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        trainer, step = self.trainer, state.global_step
        if step in self.course.stops and not self.handover.closing():
            self.model.eval()
            evaluating(kwargs["optimizer"], True)
            self.handover.yield_(
                Progress(
                    step,
                    len(trainer.seen),
                    trainer.meter.tokens,
                    trainer.meter.flops,
                    final=step == self.course.last,
                    elicitation=self.course.elicitation,
                )
            )
        control.should_training_stop = step >= self.course.last or self.handover.closing()
        return control


@contextmanager
def unpatched(model: Any) -> Iterator[None]:
    """Undo on leaving what the trainer does to a model besides training it: its `forward` is replaced, tags are put on it,
    and its configurations are aligned with the tokenizer's."""
    states = [vars(part) for part in (model, model.config, getattr(model, "generation_config", None)) if part is not None]
    copies = [dict(state) for state in states]
    try:
        yield
    finally:
        for state, copy in zip(states, copies, strict=True):
            state.clear()
            state.update(copy)
        model.eval()
