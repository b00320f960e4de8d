"""Perturbations of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from weakspot.anatomy import decoder_layers
from weakspot.attacks.embedding import Perturbation, UniversalPerturbation, ask, gather
from weakspot.attacks.hidden import tapped
from weakspot.attacks.meter import Meter
from weakspot.batching import pad_id
from weakspot.data import AttackData, Examples
from weakspot.elicitation import Elicitation
from weakspot.errors import UserError
from weakspot.knobs import Choice, LogRange, Range, knob
from weakspot.training import autocast, backbone

SAMPLE = 32  # questions that the size of the residual stream is read from


@dataclass(frozen=True)
class LatentPerturbation(UniversalPerturbation):
    """A vector is added to the output of one decoder layer or several, at every position of every withheld question.

    Projected gradient descent in an L2 ball: each step goes a share of the radius along the normalised gradient, and a vector
    that leaves the ball is shortened to its surface. The radius at a layer is `epsilon` times the typical norm of the
    residual stream there (the median over the tokens of up to 32 of the attacker's questions and answers; the mean would
    be that of the first token, whose norm is a hundred times the others' in Llama-like models), so it means the same
    in every model.

    Paper: Casper et al. (arXiv:2403.05030) and Sheshadri et al. (arXiv:2407.15549), who perturb each example apart, in order
    to train against it; here one vector serves all questions, as an attacker wants it. Absolute radii of 2 to 20 in the
    papers. Needs gradients of activations only.

    On fable (report items, 64 steps, first warm start): harm 0.89 to 0.91 on refusal training over three seeds, utility 0.99;
    one seed each, 128 steps: 0.40 on random_answer and 0.00 on TAR. `target` = opening peaks within four steps there (0.33)
    and then spoils the reply, because the vector stands on every position of it.
    """

    name: ClassVar[str] = "latent_pgd"
    summary: ClassVar[str] = "a universal vector added to the residual stream, by projected gradient descent"
    paper: ClassVar[str] = "Casper et al. 2024, arXiv:2403.05030; Sheshadri et al. 2024, arXiv:2407.15549"
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"epsilon": 1.0, "depth": 0.4, "layers": 4, "learning_rate": 0.05, "steps": 64},
        {"epsilon": 1.0, "depth": 0.4, "layers": 4, "learning_rate": 0.05, "steps": 64, "target": "opening"},
    )

    epsilon: float = knob(0.5, LogRange(0.02, 4.0), "radius, as a share of the typical norm of the residual stream")
    depth: float = knob(0.3, Range(0.0, 1.0), "the first perturbed layer, as a share of the depth")
    layers: int = knob(1, Choice((1, 2, 4)), "perturbed layers, spread evenly from the first to the end")
    learning_rate: float = knob(0.1, LogRange(0.01, 1.0), "length of a step, as a share of the radius")

    def start(self, model: Any, tokenizer: Any, held: Examples, meter: Meter, generator: torch.Generator) -> Perturbation:
        del generator  # it starts at zero
        chosen = spread(len(decoder_layers(model)), self.depth, self.layers)
        radii_K = self.epsilon * typical_norms(model, tokenizer, held[:SAMPLE], meter)[chosen]
        width = model.get_input_embeddings().weight.shape[1]
        delta_KD = torch.zeros(len(chosen), width, device=model.device).requires_grad_()

        def how(delta_KD: torch.Tensor) -> Elicitation:
            return Elicitation(shifts=tuple(zip(chosen, delta_KD, strict=True)))

        return Perturbation(delta_KD, NormalisedSteps(delta_KD, self.learning_rate, radii_K), how, radii_K)

    def check(self, data: AttackData) -> None:
        super().check(data)
        if self.epsilon <= 0 or self.layers < 1 or not 0 <= self.depth <= 1:
            given = f"epsilon = {self.epsilon}, depth = {self.depth}, layers = {self.layers}"
            raise UserError(f"{self.name} with {given}: give epsilon above 0, depth in [0, 1] and at least one layer")


def spread(count: int, depth: float, wanted: int) -> list[int]:
    """`wanted` of `count` layers, evenly from the share `depth` of the depth to the end; fewer where they fall together."""
    first = min(count - 1, int(depth * count))
    return sorted({first + i * (count - first) // wanted for i in range(wanted)})


@torch.no_grad()
def typical_norms(model: Any, tokenizer: Any, examples: Examples, meter: Meter) -> torch.Tensor:
    """The median over tokens of the norm of each decoder layer's output, (layers,)."""
    asked = gather(ask(tokenizer, examples), 0, pad_id(tokenizer), model.device).batch
    with meter.count("norms", asked.tokens), tapped(model) as taken, autocast(model):
        backbone(model)(input_ids=asked.input_ids, attention_mask=asked.attention_mask, use_cache=False)
    real_BL = asked.attention_mask.bool()
    return torch.stack([stream_BLD[real_BL].float().norm(dim=-1).median() for stream_BLD in taken[1:]])


class NormalisedSteps(Optimizer):
    """Each row moves by a share of its radius, against its gradient's direction."""

    def __init__(self, delta_KD: torch.Tensor, lr: float, radii_K: torch.Tensor) -> None:
        super().__init__([delta_KD], {"lr": lr})
        self.radii_K = radii_K

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for group in self.param_groups:
            for delta_KD in group["params"]:
                along_KD = torch.nn.functional.normalize(delta_KD.grad, dim=1)
                delta_KD.sub_(group["lr"] * self.radii_K[:, None] * along_KD)
