"""Low-rank adapters on a base of four bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import nn

from weakspot.anatomy import layer_linears
from weakspot.attacks.lora import Lora
from weakspot.knobs import Choice, knob


@dataclass(frozen=True)
class QLora(Lora):
    """LoRA while the linear layers of the decoder are held in 4 bits (bitsandbytes), as an attacker with one small GPU does.

    Paper: Dettmers et al., "QLoRA" (arXiv:2305.14314). Rounding to 4 bits alone changes what a safeguard weighs, and the
    adapter is trained on, and measured with, the rounded base. Embeddings and output layer keep their precision, as in the
    paper; DoRA works on the dequantised weights. Deviation: the model arrives in full precision and is rounded here, and
    its own weights wait on the CPU, so what is saved is GPU memory only. Needs a GPU and bitsandbytes.

    Unmeasured on a GPU: none was at hand. With bitsandbytes 0.50 on the CPU the whole course ran on a model of width 64 (DoRA
    too) and left the model bit for bit as it was. Its CPU kernels fail where a layer's inputs are no multiple of 64, as on
    fable (96), so the family is refused without a GPU.
    """

    name: ClassVar[str] = "qlora"
    summary: ClassVar[str] = "LoRA on a base rounded to 4 bits (bitsandbytes, GPU only)"
    paper: ClassVar[str] = "Dettmers et al. 2023, arXiv:2305.14314"
    relative_price: ClassVar[float] = 0.8

    quant_type: str = knob("nf4", Choice(("nf4", "fp4")), "the 16 values of a 4-bit weight")
    double_quant: bool = knob(True, None, "round the scales of the blocks, too")

    @classmethod
    def unavailable(cls) -> str:
        if not torch.cuda.is_available():
            return "needs a GPU and this machine has none: run it where torch.cuda.is_available()"
        if find_spec("bitsandbytes") is None:
            return "needs bitsandbytes, which is not installed: pip install 'weakspot[qlora]'"
        return ""

    @contextmanager
    def trainable(self, model: Any, seed: int) -> Iterator[Any]:
        with replaced(model, self.four_bit), super().trainable(model, seed) as wrapped:
            yield wrapped

    def four_bit(self, linear: nn.Linear) -> nn.Module:
        """The layer rounded to 4 bits, on its own device, multiplying in the type of its weights."""
        import bitsandbytes as bnb  # pyright: ignore[reportMissingImports]

        layer = bnb.nn.Linear4bit(
            linear.in_features, linear.out_features, linear.bias is not None, compute_dtype=linear.weight.dtype,
            compress_statistics=self.double_quant, quant_type=self.quant_type, device="meta",
        )  # fmt: skip
        weight = linear.weight.detach().clone().cpu()  # rounded when it is moved to the device
        layer.weight = bnb.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=self.double_quant, quant_type=self.quant_type, module=layer
        )
        if linear.bias is not None:
            layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        return layer.to(linear.weight.device)


@contextmanager
def replaced(model: Any, build: Callable[[nn.Linear], nn.Module]) -> Iterator[None]:
    """Other modules in the place of the decoder's linear layers. On leaving, the very same modules are back.

    Meanwhile their weights are on the CPU, so that both sets never lie on a GPU together.
    """
    device, own = model.device, layer_linears(model)
    try:
        for name, linear in own.items():
            model.set_submodule(name, build(linear))
            move(linear, "cpu")
        yield
    finally:
        for name, linear in own.items():
            move(linear, device)
            model.set_submodule(name, linear)


def move(module: nn.Module, device: torch.device | str) -> None:
    """Move a module's values and keep its Parameter objects: whoever restores weights holds on to those."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device)
