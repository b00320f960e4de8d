"""Floating-point operations of training, counted from parameters and tokens (Kaplan et al. 2020, arXiv:2001.08361, § 2.1)."""

from __future__ import annotations

from torch import nn


def matmul_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters of linear layers as (all, trainable). Embedding look-ups and norms cost next to nothing and are left out.

    A tied output layer counts, because its matrix product is computed.
    """
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    total = sum(m.weight.numel() for m in linears)
    trainable = sum(m.weight.numel() for m in linears if m.weight.requires_grad)
    return total, trainable


def training_flops(model: nn.Module, tokens: int) -> float:
    """Operations of one forward and backward pass over `tokens` tokens.

    Two per parameter forward, two for the gradient of the activations, two more for the gradient of each trainable weight:
    6 N for full fine-tuning, 4 N + 2 T for an adapter with T trainable parameters. Attention scores are left out (under 2 %
    at the lengths used here).
    """
    total, trainable = matmul_parameters(model)
    return float(tokens) * (4 * total + 2 * trainable)
