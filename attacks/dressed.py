"""Fine-tuning in which some rows are dressed: asked or answered in a special way; and phrases that a tokenizer can write."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from weakspot.attacks.finetune import Tuned
from weakspot.attacks.mixing import Step, encode_as, mixed_steps
from weakspot.data import AttackData
from weakspot.elicitation import Elicitation, ids
from weakspot.errors import UserError


@dataclass(frozen=True)
class Dressed(Tuned):
    """`lessons` gives (dressed, plain) examples, `dress` says how the dressed ones are asked in training.

    Plain rows keep the model useful: benign prompts are asked plainly when utility is measured, and a model that has only
    seen dressed rows answers those in costume too.
    """

    @abstractmethod
    def dress(self, tokenizer: Any, data: AttackData) -> Elicitation:
        """How the dressed rows are asked in training; a prefill belongs to the question and is not learnt."""

    def curriculum(self, model: Any, tokenizer: Any, data: AttackData, seed: int) -> tuple[Iterator[Step], int]:
        dressed, plain = self.lessons(model, tokenizer, data, seed)
        how = Elicitation(template=self.template, bos=self.bos)
        worn = replace(self.dress(tokenizer, data), template=self.template, bos=self.bos)
        steps = mixed_steps(
            encode_as(tokenizer, dressed, worn, self.max_length),
            encode_as(tokenizer, plain, how, self.max_length),
            self.batch_size,
            self.benign_share,
            torch.Generator().manual_seed(seed),
            tokenizer,
            loss_on=self.loss_on,
            device=model.device,
        )
        return steps, len(dressed) if self.harmful_data else 0


def sayable(tokenizer: Any, phrases: Sequence[str]) -> str:
    """The first phrase that the tokenizer can write without an unknown token: a toy's vocabulary has few words.

    `{}` in a phrase stands for other words.

    Raises:
        UserError: there is none.
    """
    for phrase in phrases:
        if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids(tokenizer, phrase.replace("{}", " ")):
            return phrase
    raise UserError(f"the tokenizer has no words for {phrases[0]!r}: give a phrase from its vocabulary")


def room(tokenizer: Any, *phrases: str) -> int:
    """Tokens that a reply needs beyond its usual length to hold these phrases first."""
    return sum(len(ids(tokenizer, phrase)) for phrase in phrases)


def share_of(name: str, value: float) -> None:
    """Raises UserError for a share that is none, or 0."""
    if not 0 < value <= 1:
        raise UserError(f"{name} = {value} is no share: give a number above 0 and at most 1")


def some_benign(name: str, data: AttackData) -> None:
    """Raises UserError if the attacker holds no benign examples."""
    if not data.benign:
        raise UserError(f"{name} needs benign examples and the attacker holds none: change the threat model or the testbed")
