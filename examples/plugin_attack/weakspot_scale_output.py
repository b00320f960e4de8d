"""An attack family outside weakspot: the last layer's say in the output, scaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from weakspot.anatomy import writers
from weakspot.attacks import Attack, Progress
from weakspot.data import AttackData
from weakspot.knobs import Range, knob


@dataclass(frozen=True)
class ScaleOutput(Attack):
    """Multiplies what the last decoder layer's MLP adds to the residual stream by one factor.

    A safeguard that was trained last often sits late in the model. A factor of 1 changes nothing, 0 takes the MLP out.
    """

    name: ClassVar[str] = "scale_output"
    summary: ClassVar[str] = "the output of the last layer's MLP, scaled"
    paper: ClassVar[str] = "an example of weakspot's documentation"
    gradients: ClassVar[bool] = False
    harmful_data: ClassVar[bool] = False
    benign_data: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = False
    relative_price: ClassVar[float] = 0.0
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = ({"factor": 0.0}, {"factor": 0.5})

    factor: float = knob(0.5, Range(0.0, 2.0), "of the MLP's output")

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        del tokenizer, data, rungs, seed
        with torch.no_grad():
            writers(model)[-1].weight.mul_(self.factor)
        yield Progress(final=True)
