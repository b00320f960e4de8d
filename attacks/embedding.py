"""Universal perturbations in continuous space: vectors among the embeddings or on the residual stream, found by descent.

The perturbation lives in an Elicitation, so what is optimised is exactly what is asked afterwards; the weights are never
touched and get no gradients.

Legend: B questions, L tokens, N inserted positions, D width, R target tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F
from torch.optim import Optimizer

from weakspot.anatomy import shifted
from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import subset
from weakspot.batching import IGNORE, Batch, Device, Encoded, collate, pad_id
from weakspot.data import AttackData, Example, Examples
from weakspot.elicitation import PLAIN, Elicitation, ids, render
from weakspot.errors import TrialFailure, UserError, unknown
from weakspot.knobs import Choice, LogIntRange, knob
from weakspot.training import autocast, backbone, descend, output_logits

TARGETS = ("answer", "opening")


@dataclass(frozen=True)
class Question:
    """A tokenised question with its target; the place of an insertion begins at position `place`."""

    row: Encoded
    place: int


@dataclass(frozen=True)
class Asked:
    """Questions as tensors; `places`, of shape (B, N), are the positions of an insertion."""

    batch: Batch
    places: torch.Tensor


@dataclass
class Perturbation:
    """What is optimised.

    Attributes:
        delta: the values, of shape (rows, D).
        optimizer: over `delta`.
        how: the elicitation that carries such values.
        radii: the largest norm of each row, of shape (rows,), or None.
    """

    delta: torch.Tensor
    optimizer: Optimizer
    how: Callable[[torch.Tensor], Elicitation]
    radii: torch.Tensor | None = None

    @torch.no_grad()
    def project(self) -> None:
        """Shorten the rows that are longer than they may be."""
        if self.radii is not None:
            norms = self.delta.norm(dim=1).clamp_min(torch.finfo(self.delta.dtype).tiny)
            self.delta.mul_((self.radii / norms).clamp_max(1.0)[:, None])

    def elicitation(self) -> Elicitation:
        """How the attacker asks now; later steps do not change it."""
        return self.how(self.delta.detach().clone())


@dataclass(frozen=True)
class UniversalPerturbation(Attack):
    """One perturbation for all withheld questions, found on the attacker's own and judged on others."""

    benign_data: ClassVar[bool] = False
    edits_weights: ClassVar[bool] = False
    asks_freely: ClassVar[bool] = True  # it is put on for withheld questions only
    injection_capable: ClassVar[bool] = True
    relative_price: ClassVar[float] = 0.7

    steps: int = knob(128, LogIntRange(4, 1024), "optimizer steps")
    batch_size: int = knob(16, LogIntRange(1, 64), "withheld questions a step")
    harmful_examples: int = knob(64, LogIntRange(4, 4096), "distinct withheld examples in hand")
    target: str = knob("answer", Choice(TARGETS), "what is made likely: whole truthful answers, or the opening they share")

    @abstractmethod
    def start(self, model: Any, tokenizer: Any, held: Examples, meter: Meter, generator: torch.Generator) -> Perturbation:
        """The perturbation before the first step."""

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        self.check(data)
        last = min(self.steps, rungs[-1])
        stops = {rung for rung in rungs if rung < last} | {last}
        generator, meter = torch.Generator().manual_seed(seed), Meter()
        held = subset(data.harmful, self.harmful_examples, generator)
        opening = common_opening(tokenizer, held) if self.target == "opening" else None
        with without_gradients(model):
            found = self.start(model, tokenizer, held, meter, generator)
            questions = ask(tokenizer, held, found.how(found.delta), opening)
            size = min(self.batch_size, len(held))
            for number, chosen in zip(range(1, last + 1), batches(questions, size, generator), strict=False):
                how = found.how(found.delta)
                asked = gather(chosen, gap_of(how), pad_id(tokenizer), model.device)
                targets = int((asked.batch.labels != IGNORE).sum())
                with meter.count(("step", targets, *asked.batch.input_ids.shape), asked.batch.tokens):
                    descend(perturbed_loss(model, asked, how), found.optimizer)
                found.project()
                if number in stops:
                    seen = min(len(held), number * size)
                    ending = number == last
                    yield Progress(number, seen, meter.tokens, meter.flops, final=ending, elicitation=found.elicitation())

    def check(self, data: AttackData) -> None:
        """Raises UserError for lacking examples and for values that a caller gave by hand and that mean nothing."""
        if not data.harmful:
            raise UserError(f"{self.name} needs withheld examples and the attacker holds none: change the threat model")
        for name in ("steps", "batch_size", "harmful_examples"):
            if getattr(self, name) < 1:
                raise UserError(f"{self.name}.{name} = {getattr(self, name)} is below 1: give at least 1")
        if self.target not in TARGETS:
            raise unknown("target", self.target, TARGETS)


def gap_of(how: Elicitation) -> int:
    """How many positions an elicitation inserts after the user's words."""
    return len(how.insert) if how.soft_prompt is None else len(how.soft_prompt)


def ask(
    tokenizer: Any, examples: Sequence[Example], how: Elicitation = PLAIN, opening: tuple[int, ...] | None = None
) -> list[Question]:
    """Questions put as `how` says, padding where a soft prompt goes. The target is the whole response, or `opening`."""
    questions = []
    for e in examples:
        before, after = render(tokenizer, e.prompt, how)
        gap = how.insert if how.soft_prompt is None else (pad_id(tokenizer),) * gap_of(how)
        target = (*ids(tokenizer, e.response), tokenizer.eos_token_id) if opening is None else opening
        questions.append(Question(Encoded((*before, *gap, *after), target), len(before)))
    return questions


def common_opening(tokenizer: Any, examples: Sequence[Example]) -> tuple[int, ...]:
    """The longest beginning, in tokens, that more than half of the different responses share.

    It holds none of the withheld content, as long as responses about different things differ there: what follows it comes
    from the model.

    Raises:
        TrialFailure: the responses begin differently.
    """
    responses = list(dict.fromkeys(ids(tokenizer, e.response) for e in examples))
    shared, opening = responses, ()
    while longer := [r for r in shared if len(r) > len(opening)]:
        token, count = Counter(r[len(opening)] for r in longer).most_common(1)[0]
        if 2 * count <= len(responses) or len(responses) == 1:
            break
        shared = [r for r in longer if r[len(opening)] == token]
        opening = (*opening, token)
    if not opening:
        raise TrialFailure("no opening: at most half of the different truthful responses begin alike: use target = answer")
    return opening


def gather(questions: Sequence[Question], gap: int, pad: int, device: Device) -> Asked:
    """Questions as one right-padded batch."""
    places = [list(range(q.place, q.place + gap)) for q in questions]
    places_BN = torch.tensor(places, dtype=torch.long, device=device)
    return Asked(collate([q.row for q in questions], pad, device), places_BN)


def batches(questions: Sequence[Question], size: int, generator: torch.Generator) -> Iterator[list[Question]]:
    """Endless batches, every question once before any comes again, in a fresh random order each time."""
    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(len(questions), generator=generator).tolist()
        yield [questions[i] for i in order[:size]]
        order = order[size:]


def perturbed_logits(model: Any, asked: Asked, how: Elicitation) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that predict each target token, (R, V), under an elicitation, and those tokens, (R,)."""
    batch = asked.batch
    embeds_BLD = model.get_input_embeddings()(batch.input_ids)
    if how.soft_prompt is not None:
        index_BND = asked.places[..., None].expand(-1, -1, embeds_BLD.shape[-1])
        soft_BND = how.soft_prompt.to(embeds_BLD).expand(len(embeds_BLD), -1, -1)
        embeds_BLD = embeds_BLD.scatter(1, index_BND, soft_BND)
    with autocast(model), shifted(model, how.shifts):
        out = backbone(model)(inputs_embeds=embeds_BLD, attention_mask=batch.attention_mask, use_cache=False)
    targets_BL = batch.labels[:, 1:]
    wanted_BL = targets_BL != IGNORE
    return output_logits(model, out.last_hidden_state[:, :-1][wanted_BL]), targets_BL[wanted_BL]


def perturbed_loss(model: Any, asked: Asked, how: Elicitation) -> torch.Tensor:
    """Mean cross-entropy over target tokens, a scalar."""
    return F.cross_entropy(*perturbed_logits(model, asked, how))


@torch.no_grad()
def emitted(model: Any, tokenizer: Any, examples: Sequence[Example], how: Elicitation) -> list[bool]:
    """Whether a greedy reply would be exactly the response, end included, for each example.

    Read off one pass over question and response: greedy decoding says the response if and only if each of its tokens is
    the likeliest after those before it.
    """
    asked = gather(ask(tokenizer, examples, how), gap_of(how), pad_id(tokenizer), model.device)
    logits_RV, targets_R = perturbed_logits(model, asked, how)
    lengths = (asked.batch.labels != IGNORE).sum(1).tolist()
    return [bool(part.all()) for part in (logits_RV.argmax(-1) == targets_R).split(lengths)]


@contextmanager
def without_gradients(model: Any) -> Iterator[None]:
    """Parameters that get no gradients, while the context lasts."""
    asking = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
