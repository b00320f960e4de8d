"""Ablation of whole layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from weakspot.anatomy import writers
from weakspot.attacks.base import Attack, Progress
from weakspot.data import AttackData
from weakspot.errors import UserError, unknown
from weakspot.knobs import Choice, IntRange, Range, knob

PARTS = ("both", "attention", "mlp")


@dataclass(frozen=True)
class LayerAblation(Attack):
    """What a block of consecutive layers adds to the residual stream is halved or left out.

    Source: layer-wise safety analysis beside head ablation (Zhou et al., arXiv:2410.13708; layer excision,
    arXiv:2508.19697). The matrices that write (attention's output, MLP's down projection) are scaled, so a scale of 0 skips the
    block without a change of structure. Needs nothing and computes nothing; the search finds the block.

    On fable: nothing is broken. No setting recovers more than .02 of what plain refusal withholds at a utility of .9 (all
    30 of one and two layers tried): with three layers every one of them is needed for the answer.
    """

    name: ClassVar[str] = "layer_ablation"
    summary: ClassVar[str] = "the contribution of a block of layers scaled down or skipped"
    paper: ClassVar[str] = "Zhou et al. 2024, arXiv:2410.13708; arXiv:2508.19697 (excision)"
    gradients: ClassVar[bool] = False
    harmful_data: ClassVar[bool] = False
    benign_data: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = False
    relative_price: ClassVar[float] = 0.01
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = ({"start": 0.9, "length": 1, "scale": 0.0, "part": "both"},)

    start: float = knob(0.5, Range(0.0, 1.0), "first layer of the block, as a share of the depth")
    length: int = knob(1, IntRange(1, 8), "layers in the block; it ends with the decoder")
    scale: float = knob(0.5, Choice((0.0, 0.5)), "share of the contribution that is kept")
    part: str = knob("both", Choice(PARTS), "of the layer that is scaled")

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        del tokenizer, data, rungs, seed
        for writer in self.chosen(model):
            scale_down(writer, self.scale)
        yield Progress(final=True)

    def chosen(self, model: Any) -> list[nn.Linear]:
        """The matrices through which the chosen part of the block writes."""
        if self.part not in PARTS:
            raise unknown("part of a layer", self.part, PARTS)
        if self.length < 1:
            raise UserError(f"{self.name}.length = {self.length} is below 1: give at least one layer")
        every = writers(model)
        pairs = list(zip(every[::2], every[1::2], strict=True))  # attention's and the MLP's of each layer
        first = min(int(self.start * len(pairs)), len(pairs) - 1)
        kept = {"both": slice(0, 2), "attention": slice(0, 1), "mlp": slice(1, 2)}[self.part]
        return [writer for pair in pairs[first : first + self.length] for writer in pair[kept]]


@torch.no_grad()
def scale_down(writer: nn.Linear, scale: float) -> None:
    writer.weight.mul_(scale)
    if writer.bias is not None:
        writer.bias.mul_(scale)
