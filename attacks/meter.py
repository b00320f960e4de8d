"""What an attack has spent: tokens, and floating-point operations by torch's own counter."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Meter:
    """Counts the work of a block the first time its shape is seen, and knows it from then on.

    `torch.utils.flop_counter` sees matrix products forward and backward, with the padding they are really computed on, and
    only for what truly needs a gradient, so adapters, frozen layers and hooks are priced as they run. It roughly doubles the
    time of a small step, hence once per shape. Attention scores are counted where torch knows the kernel (not the fused one
    on the CPU). Element-wise work, the optimizer's too, is left out, as everywhere in the literature.

    Attributes:
        tokens: processed in training or calibration, padding left out.
        flops: floating-point operations.
    """

    tokens: int = 0
    flops: float = 0.0
    known: dict[Hashable, float] = field(default_factory=dict)

    @contextmanager
    def count(self, shape: Hashable, tokens: int) -> Iterator[None]:
        """Add the work of the block. Blocks of equal `shape` must do equal work."""
        if shape in self.known:
            yield
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            self.known[shape] = float(counter.get_total_flops())
        self.flops += self.known[shape]
        self.tokens += tokens
