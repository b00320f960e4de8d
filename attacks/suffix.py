"""Universal suffixes: questions with a place for one, its gradient, and the loss of many candidates at once.

A suffix stands right after the user's words, the same ids for every prompt, and is judged by how likely it makes the
opening of the truthful answers. Only it is learned: the model's weights are never touched.

Legend: B questions, L tokens, S suffix tokens, D width, V vocabulary, C candidate suffixes, R target tokens of a batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.meter import Meter
from weakspot.attacks.mixing import subset
from weakspot.batching import IGNORE, Batch, Encoded, collate, pad_id
from weakspot.data import AttackData, Example, Examples
from weakspot.elicitation import Elicitation, ids, render
from weakspot.errors import TrialFailure, UserError, unknown
from weakspot.knobs import Choice, LogIntRange, knob
from weakspot.training import autocast, backbone, output_logits, response_logits

Suffix = tuple[int, ...]
TARGETS = ("beginning", "answer")
TRIES = 200  # draws for one token of a first suffix before giving up


@dataclass(frozen=True)
class Frame:
    """A batch of questions with `size` positions left for a suffix.

    Attributes:
        batch: right-padded; labels only on what the model is to say.
        places: the positions of the suffix in each row, (B, S).
    """

    batch: Batch
    places: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """What decides the work of a pass."""
        return (*self.batch.input_ids.shape, int((self.batch.labels != IGNORE).sum()))

    def filled(self, suffixes_CS: torch.Tensor) -> Batch:
        """The questions with each suffix in turn: C x B rows, all questions of the first suffix first."""
        count, places = len(suffixes_CS), self.places
        suffixes_CBS = suffixes_CS[:, None, :].expand(-1, len(places), -1)
        ids_CBL = self.batch.input_ids.expand(count, -1, -1).scatter(2, places.expand(count, -1, -1), suffixes_CBS)
        return Batch(ids_CBL.flatten(0, 1), self.batch.attention_mask.repeat(count, 1), self.batch.labels.repeat(count, 1))


def frame(
    tokenizer: Any, examples: Sequence[Example], size: int, target: str, opening_tokens: int, device: torch.device | str = "cpu"
) -> Frame:
    """Questions with room for `size` suffix tokens; the target is each answer's first tokens, or the whole of it.

    Raises:
        UserError: an unknown target.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    pad = pad_id(tokenizer)
    rows, places = [], []
    for e in examples:
        before, after = render(tokenizer, e.prompt, Elicitation(insert=(pad,)))
        response = (*ids(tokenizer, e.response), tokenizer.eos_token_id)
        rows.append(
            Encoded((*before, *(pad,) * size, *after), response[:opening_tokens] if target == "beginning" else response)
        )
        places.append(list(range(len(before), len(before) + size)))
    return Frame(collate(rows, pad, device), torch.tensor(places, device=device, dtype=torch.long))


def suffix_gradient(model: Any, frame: Frame, suffix: Suffix, meter: Meter) -> torch.Tensor:
    """The gradient of the mean target loss with respect to the suffix's one-hot rows, (S, V).

    The embedding of a one-hot row is its product with the embedding matrix, so the gradient of the embedded suffix, times
    that matrix, is the same with one product the fewer. Only the suffix asks for a gradient; no parameter gets one.

    Raises:
        TrialFailure: the loss is not finite.
    """
    table_VD = model.get_input_embeddings().weight.detach()
    suffix_SD = table_VD[torch.tensor(suffix, device=table_VD.device)].requires_grad_()
    with meter.count(("gradient", *frame.shape), frame.batch.tokens):
        embeds_BLD = table_VD[frame.batch.input_ids]
        index_BSD = frame.places[..., None].expand(-1, -1, table_VD.shape[1])
        embeds_BLD = embeds_BLD.scatter(1, index_BSD, suffix_SD.expand(len(embeds_BLD), -1, -1))
        with autocast(model):
            out = backbone(model)(inputs_embeds=embeds_BLD, attention_mask=frame.batch.attention_mask, use_cache=False)
        labels_BL = frame.batch.labels[:, 1:]
        logits_RV = output_logits(model, out.last_hidden_state[:, :-1][labels_BL != IGNORE])
        loss = F.cross_entropy(logits_RV, labels_BL[labels_BL != IGNORE])
        if not math.isfinite(value := float(loss.detach())):
            raise TrialFailure(f"diverged: the loss of the suffix is {value}")
        [grad_SD] = torch.autograd.grad(loss, [suffix_SD])
        return grad_SD @ table_VD.T


@torch.no_grad()
def suffix_losses(model: Any, frame: Frame, suffixes: Sequence[Suffix], meter: Meter, rows: int = 256) -> torch.Tensor:
    """The mean target loss under each suffix, (C,), in forward passes of at most `rows` sequences."""
    count, losses = max(1, rows // len(frame.places)), []
    suffixes_CS = torch.tensor(suffixes, device=frame.places.device)
    for part_CS in suffixes_CS.split(count):
        batch = frame.filled(part_CS)
        with meter.count(("losses", len(part_CS), *frame.shape), batch.tokens):
            logits_RV, targets_R = response_logits(model, batch)
        losses.append(F.cross_entropy(logits_RV, targets_R, reduction="none").view(len(part_CS), -1).mean(1))
    return torch.cat(losses)


def usable_tokens(model: Any, tokenizer: Any) -> torch.Tensor:
    """Ids that may stand in a suffix, ascending: not special, and the same after a round trip through text."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    known = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    ordinary = [i for i in range(known) if i not in special]
    texts = tokenizer.batch_decode([[i] for i in ordinary], clean_up_tokenization_spaces=False)
    again = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return torch.tensor([i for i, back in zip(ordinary, again, strict=True) if list(back) == [i]])


def survives(tokenizer: Any, suffix: Sequence[int]) -> bool:
    """Whether a suffix, written as text and read again, is the same tokens: else nobody could type it."""
    return ids(tokenizer, tokenizer.decode(list(suffix), clean_up_tokenization_spaces=False)) == tuple(suffix)


def first_suffix(tokenizer: Any, usable: torch.Tensor, size: int, generator: torch.Generator) -> Suffix:
    """`size` random tokens that survive as text. Raises TrialFailure if none are found."""
    suffix: Suffix = ()
    for _ in range(size):
        drawn = usable[torch.randint(len(usable), (TRIES,), generator=generator)].tolist()
        token = next((i for i in drawn if survives(tokenizer, (*suffix, i))), None)
        if token is None:
            raise TrialFailure(f"no suffix of {size} tokens survives being written as text: give fewer suffix_tokens")
        suffix = (*suffix, token)
    return suffix


@dataclass(frozen=True)
class SuffixAttack(Attack):
    """What the attacks on a universal suffix share: the questions it is judged on and how rungs are reported."""

    gradients: ClassVar[bool] = True
    benign_data: ClassVar[bool] = False
    edits_weights: ClassVar[bool] = False
    asks_freely: ClassVar[bool] = True
    relative_price: ClassVar[float] = 10.0

    steps: int = knob(64, LogIntRange(4, 512), "optimizer steps")
    batch_size: int = knob(8, LogIntRange(1, 64), "training prompts that a step's suffixes are judged on")
    harmful_examples: int = knob(64, LogIntRange(4, 4096), "distinct withheld examples in hand")
    target: str = knob("answer", Choice(TARGETS), "what is made likely: the first tokens of the true answers, or all of them")
    opening_tokens: int = knob(3, None, "length of an opening")
    rows: int = knob(256, None, "sequences of one forward pass")

    @abstractmethod
    def suffixes(
        self, model: Any, tokenizer: Any, batches: Iterator[Examples], meter: Meter, generator: torch.Generator
    ) -> Iterator[Suffix]:
        """The suffix held after each optimizer step, for ever."""

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        self.check(data)
        last = min(self.steps, rungs[-1])
        stops = {rung for rung in rungs if rung < last} | {last}
        generator, meter = torch.Generator().manual_seed(seed), Meter()
        held = subset(data.harmful, self.harmful_examples, generator)
        drawn = Drawn(held, min(self.batch_size, len(held)), generator)
        course = self.suffixes(model, tokenizer, drawn, meter, generator)
        for number in range(1, last + 1):
            suffix = next(course)
            if number in stops:
                how = Elicitation(insert=suffix)
                yield Progress(number, drawn.seen, meter.tokens, meter.flops, final=number == last, elicitation=how)

    def frame(self, model: Any, tokenizer: Any, examples: Examples, size: int) -> Frame:
        return frame(tokenizer, examples, size, self.target, self.opening_tokens, model.device)

    def check(self, data: AttackData) -> None:
        """Raises UserError for lacking examples and for values that mean nothing."""
        if not data.harmful:
            raise UserError(f"{self.name} needs withheld examples and the attacker holds none: change the threat model")
        for name in ("steps", "batch_size", "opening_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{self.name}.{name} = {getattr(self, name)} is below 1: give at least 1")


@dataclass(frozen=True)
class SwapAttack(SuffixAttack):
    """A suffix of fixed length, improved by swapping tokens that the gradient of the one-hot rows points to.

    It starts from the best of as many random suffixes as a step tries swaps: a bad start is a local minimum that swaps of
    one token do not leave.
    """

    suffix_tokens: int = knob(4, LogIntRange(2, 40), "length of the suffix; 20 in the papers, on models of 7B")

    @property
    @abstractmethod
    def tried(self) -> int:
        """Candidates evaluated at a step."""

    @abstractmethod
    def swaps(
        self, suffix: Suffix, gradient_SV: torch.Tensor, usable: torch.Tensor, generator: torch.Generator
    ) -> list[Suffix]:
        """Candidates, one token of the suffix replaced in each, by the gradient over the usable tokens."""

    def suffixes(
        self, model: Any, tokenizer: Any, batches: Iterator[Examples], meter: Meter, generator: torch.Generator
    ) -> Iterator[Suffix]:
        usable = usable_tokens(model, tokenizer)
        starts = [first_suffix(tokenizer, usable, self.suffix_tokens, generator) for _ in range(self.tried)]
        suffix = self.best(model, tokenizer, next(batches), starts, meter)
        while True:
            examples = next(batches)
            frame = self.frame(model, tokenizer, examples, len(suffix))
            gradient_SV = suffix_gradient(model, frame, suffix, meter).cpu()[:, usable]
            swapped = self.swaps(suffix, gradient_SV, usable, generator)
            typed = [s for s in dict.fromkeys(swapped) if s != suffix and survives(tokenizer, s)]
            suffix = self.best(model, tokenizer, self.judging(examples, batches), [suffix, *typed], meter)
            yield suffix

    def judging(self, examples: Examples, batches: Iterator[Examples]) -> Examples:
        """The prompts that candidates are judged on, where the gradient was taken on `examples`."""
        del batches
        return examples

    def best(self, model: Any, tokenizer: Any, examples: Examples, suffixes: Sequence[Suffix], meter: Meter) -> Suffix:
        frame = self.frame(model, tokenizer, examples, len(suffixes[0]))
        return suffixes[int(suffix_losses(model, frame, suffixes, meter, self.rows).argmin())]


class Drawn(Iterator[Examples]):
    """Endless batches of the examples in hand, in a fresh random order each epoch.

    Attributes:
        seen: distinct examples drawn so far.
    """

    def __init__(self, held: Examples, size: int, generator: torch.Generator) -> None:
        self.held, self.size, self.generator = held, size, generator
        self.left: list[int] = []
        self.seen = 0

    def __next__(self) -> Examples:
        while len(self.left) < self.size:
            self.left += torch.randperm(len(self.held), generator=self.generator).tolist()
        chosen, self.left = self.left[: self.size], self.left[self.size :]
        self.seen = min(len(self.held), self.seen + self.size)
        return tuple(self.held[i] for i in chosen)
