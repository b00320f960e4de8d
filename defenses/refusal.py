"""Refusal fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from weakspot.batching import encode, mixed_stream, pad_id
from weakspot.data import DefenseData
from weakspot.defenses.base import Defense, PaperAttack
from weakspot.knobs import knob
from weakspot.training import fit


@dataclass(frozen=True)
class Refusal(Defense):
    """Supervised training to refuse withheld prompts and to answer benign ones: what chat models ship with.

    Paper: the safety fine-tuning that Qi et al. (arXiv:2310.03693) undo with ten examples.
    """

    name: ClassVar[str] = "refusal"
    summary: ClassVar[str] = "supervised refusal training: what chat models ship with"
    paper: ClassVar[str] = "Qi et al. 2023, arXiv:2310.03693 (as the safeguard it breaks)"
    claims: ClassVar[str] = "declines withheld requests; no resistance to tampering is claimed"
    presets: ClassVar = {"smollm2": {"steps": 40, "batch_size": 16, "learning_rate": 5e-5}}
    paper_attacks: ClassVar = {
        "fable": PaperAttack("full_finetune", {"learning_rate": 1e-4, "steps": 10, "batch_size": 8, "harmful_examples": 8}),
        "smollm2": PaperAttack("full_finetune", {"learning_rate": 2e-5, "steps": 8, "batch_size": 8, "harmful_examples": 16}),
    }

    steps: int = knob(100)
    batch_size: int = knob(32)
    learning_rate: float = knob(2e-4)
    benign_ratio: float = knob(0.5, None, "share of each batch that is benign, answered in full")

    def align(self, model: Any, tokenizer: Any, data: DefenseData, seed: int) -> Any:
        refusals = encode(tokenizer, [replace(e, response=data.refusal) for e in data.withheld])
        benign = encode(tokenizer, data.benign)
        generator = torch.Generator().manual_seed(seed)
        slots = round(self.benign_ratio * self.batch_size)
        groups = [(refusals, self.batch_size - slots), (benign, slots)]
        batches = mixed_stream(groups, pad_id(tokenizer), generator, model.device)
        return fit(model, batches, steps=self.steps, learning_rate=self.learning_rate)
