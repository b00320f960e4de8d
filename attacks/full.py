"""Full-parameter fine-tuning."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from weakspot.attacks.finetune import HarmfulFinetune, every_parameter
from weakspot.knobs import LogRange, knob


@dataclass(frozen=True)
class FullFinetune(HarmfulFinetune):
    """Every parameter is trained on truthful answers about other withheld items.

    Paper: Qi et al., "Fine-tuning Aligned Language Models Compromises Safety" (arXiv:2310.03693); the range of rates covers
    the 2e-6 to 8e-4 that durability papers used on 8B models and reaches to what ruins a model of 0.4M parameters.
    """

    name: ClassVar[str] = "full_finetune"
    summary: ClassVar[str] = "full-parameter fine-tuning on other withheld items, benign examples mixed in"
    paper: ClassVar[str] = "Qi et al. 2023, arXiv:2310.03693"
    shards: ClassVar[bool] = True
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"learning_rate": 1e-4, "steps": 16, "batch_size": 8},
        {"learning_rate": 7e-4, "steps": 256, "batch_size": 32, "benign_ratio": 0.3, "harmful_examples": 192},
    )

    learning_rate: float = knob(1e-4, LogRange(1e-6, 1e-2), "peak step size")

    def trainable(self, model: Any, seed: int) -> AbstractContextManager[Any]:
        del seed  # nothing is initialised
        return every_parameter(model)
