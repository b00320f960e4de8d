"""Low-rank adapters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.attacks.finetune import Finetune
from weakspot.errors import UserError
from weakspot.knobs import Choice, LogRange, knob

TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


@dataclass(frozen=True)
class Lora(Finetune):
    """Adapters W + (alpha / r) B A are trained and the model's own weights stay as they are.

    Paper: Hu et al., "LoRA" (arXiv:2106.09685). TAR's authors concede that adapters were outside the adversaries it was
    trained against (reference/tar.md § 3.6), which makes this family the first to try on any weight-space defense.
    """

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "LoRA fine-tuning on other withheld items, benign examples mixed in"
    paper: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    relative_price: ClassVar[float] = 0.7
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"learning_rate": 1e-3, "steps": 64, "batch_size": 16, "rank": 16, "harmful_examples": 192},
        {"learning_rate": 1e-2, "steps": 256, "batch_size": 32, "benign_ratio": 0.3, "rank": 4, "harmful_examples": 192},
        {"learning_rate": 3e-3, "steps": 256, "batch_size": 16, "benign_ratio": 0.6, "rank": 16, "harmful_examples": 192},
    )

    learning_rate: float = knob(5e-4, LogRange(1e-5, 5e-2), "peak step size; adapters take about ten times a full rate")
    rank: int = knob(16, Choice((1, 2, 4, 8, 16, 32, 64)))
    alpha_ratio: float = knob(2.0, Choice((1.0, 2.0, 4.0)), "alpha / rank")
    targets: str = knob("all", Choice(tuple(TARGETS)), "linear layers that get an adapter")
    dropout: float = knob(0.0)

    @contextmanager
    def trainable(self, model: Any, seed: int) -> Iterator[Any]:
        from peft import LoraConfig, get_peft_model

        width = min(m.weight.shape[i] for n, m in model.named_modules() for i in (0, 1) if n.endswith(TARGETS[self.targets]))
        if self.rank > width:
            raise UserError(f"lora.rank = {self.rank} exceeds the width {width} of the adapted layers: give at most {width}")
        torch.manual_seed(seed)  # A is drawn at random
        config = LoraConfig(
            r=self.rank, lora_alpha=round(self.alpha_ratio * self.rank), lora_dropout=self.dropout,
            target_modules=list(TARGETS[self.targets]), bias="none", task_type="CAUSAL_LM",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*peft_config.*")  # a model attacked before is attacked again
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft asks transformers the old way
            adapted = get_peft_model(model, config)
        try:
            yield adapted
        finally:
            adapted.unload()
            if hasattr(model, "peft_config"):
                del model.peft_config
