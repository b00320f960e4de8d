"""No attack: the safeguarded model as released, measured with the same harness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from weakspot.attacks.base import Attack, Progress
from weakspot.data import AttackData


@dataclass(frozen=True)
class NoOp(Attack):
    """Yields once, at step 0, and changes nothing. The baseline of every table."""

    name: ClassVar[str] = "noop"
    summary: ClassVar[str] = "no attack: the baseline"
    paper: ClassVar[str] = ""
    gradients: ClassVar[bool] = False
    harmful_data: ClassVar[bool] = False
    benign_data: ClassVar[bool] = False
    edits_weights: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = False
    relative_price: ClassVar[float] = 0.0

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        del model, tokenizer, data, rungs, seed
        yield Progress(final=True)
