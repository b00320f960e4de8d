"""Soft prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.optim import Adam, Optimizer

from weakspot.attacks.embedding import Perturbation, UniversalPerturbation
from weakspot.attacks.meter import Meter
from weakspot.data import AttackData, Examples
from weakspot.elicitation import Elicitation, ids
from weakspot.errors import UserError, unknown
from weakspot.knobs import Choice, LogRange, knob

OPTIMIZERS = ("signsgd", "adam")
INITS = ("random", "mean", "words")


@dataclass(frozen=True)
class SoftPrompt(UniversalPerturbation):
    """Embeddings that stand for no word are inserted right after the user's words, the same for every withheld question.

    They are optimised on the attacker's own withheld questions and judged on others. `target` = opening makes likely only
    the opening that the truthful responses share: what follows is the model's own, which is fair evidence that a refusal was
    passed. `target` = answer trains on whole answers.

    Paper: Schwinn et al. (arXiv:2402.09063, 2310.19737; the signed gradient is theirs). Chen et al. (arXiv:2502.15836) show
    that a soft prompt fitted to one target elicits any string from any model, hence `injection_capable` and the controls of
    attacks/injection.py. Deviations: one prompt for all questions where the papers mostly fit one each, and a step size in
    units of the model's own embedding entries (their root mean square) where the papers' are absolute, because entries are
    ten times larger in a small model than in one of 8B. Needs gradients of the input only; a step costs about two thirds
    of a full fine-tuning step. The prompt is not bounded in norm.

    On fable (report items, 64 steps, first warm start): harm 0.97 to 0.99 on refusal training over three seeds, utility 0.99;
    one seed each, 128 steps: 0.35 on random_answer and 0.04 (chance) on TAR.
    """

    name: ClassVar[str] = "soft_prompt"
    summary: ClassVar[str] = "universal continuous embeddings after the user's words"
    paper: ClassVar[str] = "Schwinn et al. 2024, arXiv:2402.09063"
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = (
        {"tokens": 2, "learning_rate": 1.0, "optimizer": "signsgd", "init": "random", "steps": 64},
        {"tokens": 5, "learning_rate": 0.1, "optimizer": "adam", "init": "words", "steps": 128, "target": "opening"},
    )

    tokens: int = knob(5, Choice((1, 2, 5, 10, 20)), "inserted embeddings")
    learning_rate: float = knob(0.1, LogRange(5e-3, 2.0), "step size, in units of a typical embedding entry")
    optimizer: str = knob("adam", Choice(OPTIMIZERS))
    init: str = knob("words", Choice(INITS), "Gaussian of the embeddings' size, their mean, or random words of the answers")

    def start(self, model: Any, tokenizer: Any, held: Examples, meter: Meter, generator: torch.Generator) -> Perturbation:
        del meter  # no work of the model
        table_VD = model.get_input_embeddings().weight.detach().float()
        size = table_VD.pow(2).mean().sqrt()
        if self.init == "random":
            first_ND = size * torch.randn(self.tokens, table_VD.shape[1], generator=generator).to(table_VD)
        elif self.init == "mean":
            first_ND = table_VD.mean(0).repeat(self.tokens, 1)
        else:
            words = torch.tensor(sorted({i for e in held for i in ids(tokenizer, e.response)}))
            first_ND = table_VD[words[torch.randint(len(words), (self.tokens,), generator=generator)].to(table_VD.device)]
        delta_ND = first_ND.clone().requires_grad_()
        kind = Adam if self.optimizer == "adam" else SignSGD
        return Perturbation(delta_ND, kind([delta_ND], lr=self.learning_rate * float(size)), soft)

    def check(self, data: AttackData) -> None:
        super().check(data)
        if self.tokens < 1:
            raise UserError(f"{self.name}.tokens = {self.tokens} is below 1: give at least 1")
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer of a soft prompt", self.optimizer, OPTIMIZERS)
        if self.init not in INITS:
            raise unknown("init of a soft prompt", self.init, INITS)


def soft(delta_ND: torch.Tensor) -> Elicitation:
    return Elicitation(soft_prompt=delta_ND)


class SignSGD(Optimizer):
    """Every entry moves by the same step, against the sign of its gradient."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())
