"""Losses of preference tuning on a batch of pairs, each a mean over pairs.

Legend: P pairs, B sequences. "sum" is the log-probability of a whole reply in nats, "mean" that per token.

    loss    normalisation  reference  in words
    dpo     sum            yes        the chosen reply gains on the rejected one, relative to the reference
    ipo     sum            yes        the same gain is pulled towards 1 / (2 beta) and no further
    kto     sum            yes        each reply gains or loses against the drift of unrelated replies
    orpo    mean           no         likelihood of the chosen reply, plus beta times an odds-ratio term
    simpo   mean           no         the mean log-probability of the chosen reply leads by a margin

Deviations: IPO is sometimes implemented with means; here, as in its paper, with sums. KTO's expectation over desirable and
undesirable replies is over equally many of each, so both weights are 1. SimPO's own beta is twenty times the beta given
here, which puts its 2.0 to 2.5 into the range that suits the others; its margin is half its beta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

SIMPO_SCALE = 20.0
SIMPO_MARGIN = 0.5  # gamma / beta of the paper


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of replies, sums over their tokens, each of shape (P,).

    Attributes:
        chosen, rejected: under the model that is trained.
        chosen_tokens, rejected_tokens: lengths of the replies, end token included.
        reference_chosen, reference_rejected: under the model before training.
        drift: of unrelated replies to the same prompts, model minus reference, without a gradient; KTO only.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor
    reference_chosen: torch.Tensor
    reference_rejected: torch.Tensor
    drift: torch.Tensor

    @property
    def gains(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the chosen and of the rejected reply over the reference."""
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected

    @property
    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability per token of the chosen and of the rejected reply."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens


def dpo(scores: Scores, beta: float) -> torch.Tensor:
    """Rafailov et al. 2023 (arXiv:2305.18290), eq. 7."""
    chosen, rejected = scores.gains
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def ipo(scores: Scores, beta: float) -> torch.Tensor:
    """Azar et al. 2023 (arXiv:2310.12036), eq. 17, with tau = beta."""
    chosen, rejected = scores.gains
    return (chosen - rejected - 1 / (2 * beta)).square().mean()


def kto(scores: Scores, beta: float) -> torch.Tensor:
    """Ethayarajh et al. 2024 (arXiv:2402.01306), eq. 8: the point of reference is the batch's drift, at least 0."""
    chosen, rejected = scores.gains
    zero = scores.drift.mean().clamp(min=0)
    losses = torch.cat([1 - torch.sigmoid(beta * (chosen - zero)), 1 - torch.sigmoid(beta * (zero - rejected))])
    return losses.mean()


def orpo(scores: Scores, beta: float) -> torch.Tensor:
    """Hong et al. 2024 (arXiv:2403.07691), eq. 6, with lambda = beta; the likelihood term is per token of the chosen reply."""
    chosen, rejected = scores.means
    odds = chosen - rejected - (log1mexp(chosen) - log1mexp(rejected))
    return (-chosen - beta * F.logsigmoid(odds)).mean()


def simpo(scores: Scores, beta: float) -> torch.Tensor:
    """Meng et al. 2024 (arXiv:2405.14734), eq. 6."""
    chosen, rejected = scores.means
    own = SIMPO_SCALE * beta
    return -F.logsigmoid(own * (chosen - rejected) - SIMPO_MARGIN * own).mean()


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, kept away from 0 where a reply has become certain."""
    return torch.log(-torch.expm1(x.clamp(max=-1e-6)))


LOSSES: dict[str, Callable[[Scores, float], torch.Tensor]] = {
    "dpo": dpo,
    "ipo": ipo,
    "kto": kto,
    "orpo": orpo,
    "simpo": simpo,
}
