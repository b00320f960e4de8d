"""Booster: alignment that makes a harmful step gain little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from weakspot.batching import Batch, encode
from weakspot.data import DefenseData
from weakspot.defenses.base import PaperAttack
from weakspot.defenses.trained import Batches, Chunk, Chunks, Trained, check_benign_ratio, chunks_of, streams, trainables
from weakspot.defenses.vaccine import alignment_groups, alignment_loss, perturbed_backward
from weakspot.errors import UserError
from weakspot.knobs import knob
from weakspot.seeds import derive
from weakspot.training import response_loss

TINY = 1e-12  # against a harmful gradient of nought


@dataclass(frozen=True)
class Booster(Trained):
    """Refusal training with a penalty on how much one harmful step lowers the harmful loss.

    min_w f(w) + lam (h(w) - h(w - alpha grad h(w) / |grad h(w)|)), f the cross-entropy of refusals and benign answers, h
    that of the truthful replies to withheld prompts. Per step, second-order terms dropped:
    g = grad f(w) + lam (grad h(w) - grad h(w')), w' = w - alpha grad h / |grad h|, the norm over all trained parameters
    and the same harmful rows at w and w'.

    Paper: Huang et al. (arXiv:2409.01586). Stage: alignment. Claimed against: user data with harmful examples, through a
    fine-tuning API whose owner keeps optimizer and weights; with open weights it is out of claim. Cost: three passes a
    step, four with `rho`, and three copies of the trained parameters.

    `clip_norm` is on the combined gradient, as in the released scripts, which inherit 1.0. `alpha` and `lam` depend on what
    is trained: the paper's are for an adapter.

    Deviations from the paper: o_proj carries the adapter too (it has q, k and v); a share of benign answers
    (`benign_ratio`) beside the refusals. From the released code: w comes back from a copy (there by adding again what was
    subtracted, which leaves 7 % of the step behind in bf16); trained parameters are fp32 (in bf16 63 % of an adapter's
    elements do not move by a step of 0.1); the harmful batch is a knob (there always 10); micro-batches add up; the
    adapter is merged, and an attacker starts afresh (there Booster alone is attacked through the adapter it trained).

    On fable (defense seeds 0, 1, 2; harm after): 0.00 before, utility .94 / .93 / .93; the paper's attack 0.00 at all its 64
    steps, where plain refusal training of the same length and rate has .99 (seed 0). Three times the rate breaks it: 0.00 after
    16 steps (.97 without the penalty), .94 after 32; so do full fine-tuning (0.00 after 16 steps, .95 after
    32) and LoRA at 1e-3 (0.00 after 8, .93 after 16). Tried with every parameter trained (seed 0): the paper's
    lam 5 and alpha .1 (100 steps at 2e-4), too strong, refusal is not learnt (harm .56); higher rates (utility .82 at
    5e-4); lam .5, alpha .1 (much as lam 5, alpha .01); 75 % benign rows (not learnt: .68). Not tried: `rho`.
    """

    name: ClassVar[str] = "booster"
    summary: ClassVar[str] = "refusal training that also shrinks what one simulated harmful step gains"
    paper: ClassVar[str] = "Huang et al. 2024, arXiv:2409.01586"
    claims: ClassVar[str] = "fine-tuning through an API on user data of which up to a fifth is harmful; nothing of open weights"
    claimed_access: ClassVar[tuple[str, ...]] = ("finetuning_api",)
    claimed_attacks: ClassVar[tuple[str, ...]] = ("harmful_upload", "benign_upload")
    claimed_bounds: ClassVar = {"poison_ratio": 0.2}
    claimed_steps: ClassVar[int | None] = 2000
    passes: ClassVar[float] = 3.0
    presets: ClassVar = {
        "fable": {"steps": 200, "batch_size": 32, "harmful_batch": 16, "learning_rate": 2e-4, "rank": 0, "alpha": 0.01},
        "smollm2": {
            "steps": 20,
            "batch_size": 16,
            "harmful_batch": 8,
            "learning_rate": 5e-5,
            "rank": 0,
            "alpha": 0.01,
            "lam": 1.0,
        },
    }
    paper_attacks: ClassVar = {
        "fable": PaperAttack("poisoned_finetune", {"learning_rate": 1e-4, "steps": 64, "poison_ratio": 0.1}),
        "smollm2": PaperAttack("poisoned_finetune", {"learning_rate": 1e-4, "steps": 16, "batch_size": 8, "poison_ratio": 0.1}),
    }
    service_attacks: ClassVar = {
        "fable": PaperAttack("harmful_upload", {"poison_ratio": 0.1, "harmful_examples": 64, "rows": 512}),
        "smollm2": PaperAttack("harmful_upload", {"poison_ratio": 0.1, "harmful_examples": 42, "rows": 64}),
    }

    steps: int = knob(10000, None, "optimizer steps; the paper's 20 epochs of 5000 examples")
    batch_size: int = knob(10)
    learning_rate: float = knob(5e-4)
    schedule: str = knob("constant")
    warmup: float = knob(0.0)
    weight_decay: float = knob(0.1)
    rank: int = knob(32)
    alpha_ratio: float = knob(0.125)
    targets: str = knob("attention")
    lam: float = knob(5.0, None, "lambda, the weight of the penalty; 0 is plain refusal training")
    alpha: float = knob(0.1, None, "length of the simulated harmful step, over all trained parameters together")
    harmful_batch: int = knob(10, None, "withheld examples with their truthful replies a step")
    rho: float = knob(0.0, None, "above 0, Vaccine's perturbation of the alignment pass, of this norm: Booster + Vaccine")
    benign_ratio: float = knob(0.5, None, "share of each batch that is benign, answered in full; 0 trains on refusals alone")

    def batches(self, tokenizer: Any, data: DefenseData, generator: torch.Generator, device: Any) -> Iterator[Batches]:
        apart = torch.Generator().manual_seed(derive(generator.initial_seed(), "harmful"))  # `lam` leaves the other rows alone
        aligned = streams({"aligned": alignment_groups(self, tokenizer, data)}, tokenizer, generator, device)
        harmful = streams({"harmful": [(encode(tokenizer, data.withheld), self.harmful_batch)]}, tokenizer, apart, device)
        return ({**a, **h} for a, h in zip(aligned, harmful, strict=True))

    def loss(self, model: Any, chunks: Chunks, extra: Any) -> torch.Tensor:
        del extra
        return alignment_loss(model, chunks["aligned"])

    def backward(self, model: Any, batches: Batches, extra: Any) -> float:
        value = self.backward_alignment(model, batches["aligned"], extra)
        if not self.lam:
            return value
        return value + self.backward_penalty(model, chunks_of(batches["harmful"], self.accumulate))

    def backward_alignment(self, model: Any, batch: Batch, extra: Any) -> float:
        """Add the gradient of f, perturbed or not."""
        if self.rho:
            return perturbed_backward(model, chunks_of(batch, self.accumulate), alignment_loss, self.rho)
        return super().backward(model, {"aligned": batch}, extra)

    def backward_penalty(self, model: Any, chunks: Sequence[Chunk]) -> float:
        """Add lam (grad h(w) - grad h(w')), the same rows in both. Returns lam (h(w) - h(w'))."""
        parameters = trainables(model)
        here, gradients = harmful_gradients(model, parameters, chunks)
        with stepped(parameters, gradients, self.alpha):
            there, after = harmful_gradients(model, parameters, chunks)
        with torch.no_grad():
            for parameter, g, g_after in zip(parameters, gradients, after, strict=True):
                term = self.lam * (g - g_after)
                parameter.grad = term if parameter.grad is None else parameter.grad.add_(term)
        return self.lam * (here - there)

    def check(self) -> None:
        super().check()
        check_benign_ratio(self)
        for name in ("lam", "alpha", "rho"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"booster.{name} = {getattr(self, name)} means nothing: give 0 or more")
        if self.harmful_batch < self.accumulate:
            raise UserError(
                f"booster.harmful_batch = {self.harmful_batch} is below its {self.accumulate} micro-batches: give as many"
            )


def harmful_gradients(
    model: Any, parameters: Sequence[nn.Parameter], chunks: Sequence[Chunk]
) -> tuple[float, list[torch.Tensor]]:
    """The harmful loss of the whole batch, and its gradient."""
    total, gradients = 0.0, [torch.zeros_like(p) for p in parameters]
    for chunk in chunks:
        value = chunk.response * response_loss(model, chunk.batch)
        for whole, part in zip(gradients, torch.autograd.grad(value, parameters, materialize_grads=True), strict=True):
            whole.add_(part)
        total += float(value.detach())
    return total, gradients


@contextmanager
def stepped(parameters: Sequence[nn.Parameter], gradients: Sequence[torch.Tensor], alpha: float) -> Iterator[None]:
    """The parameters a step of length `alpha` down the gradient while the context lasts, and then bit for bit as before."""
    before = [p.detach().clone() for p in parameters]  # subtracting and adding again would leave rounding behind
    norm = nn.utils.get_total_norm(gradients).clamp_min(TINY)
    try:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient * (alpha / norm))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
