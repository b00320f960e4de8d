"""Attacks through a fine-tuning API: the attacker composes a file of rows, the provider trains on it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from weakspot.attacks.base import Attack, Progress
from weakspot.attacks.dressed import Dressed
from weakspot.attacks.finetune import Finetune
from weakspot.attacks.mixing import encode_as
from weakspot.batching import Encoded
from weakspot.data import AttackData, Examples
from weakspot.elicitation import PLAIN
from weakspot.errors import UserError
from weakspot.knobs import Choice, LogIntRange, LogRange, knob
from weakspot.models import count_parameters
from weakspot.service import Request

PASSES = 6.0  # operations per parameter and token of a training step: two forward, four backward


@dataclass(frozen=True)
class Upload(Attack):
    """A family says what the rows are: those of a fine-tuning family (`recipe`), of which it keeps the knobs on data.

    The provider's chat template, trainer, defense and post-processing are his (defenses/service.py). The last three knobs are
    searched only where the threat model leaves them to users. One request runs to its end, so there are no rungs in between:
    the budget in steps limits the number of epochs.

    Cost: what is billed, 6 N operations per token trained on, N the number of parameters; what the provider's defense costs
    him is not the attacker's.
    """

    gradients: ClassVar[bool] = False
    service: ClassVar[bool] = True
    black_box: ClassVar[bool] = True

    rows: int = knob(256, LogIntRange(32, 4096), "rows in the file")
    epochs: int = knob(0, Choice((0, 1, 2, 4, 8, 16)), "passes over the file; 0 leaves them to the provider")
    learning_rate_multiplier: float = knob(1.0, LogRange(0.1, 10.0), "on the provider's rate")
    batch_size: int = knob(0, Choice((0, 4, 8, 16, 32)), "sequences a step; 0 leaves it to the provider")

    @abstractmethod
    def recipe(self) -> Finetune:
        """The fine-tuning family whose data is sent, with this attack's knobs."""

    def share(self) -> float:
        """The share of rows that are not plain benign ones."""
        return 1.0 - self.recipe().benign_share(0)

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        if data.service is None:
            raise UserError(f"{self.name} needs a fine-tuning API and there is none: set --threat access=finetuning_api")
        recipe = self.recipe()
        recipe.check()
        rows, withheld = self.file(recipe, tokenizer, data, seed)
        request = Request(rows, self.epochs, self.batch_size, self.learning_rate_multiplier, rungs[-1])
        receipt = data.service.finetune(model, tokenizer, request, seed)
        examples = len(set(rows[: receipt.rows]) & withheld)
        flops = PASSES * count_parameters(model) * receipt.tokens
        how = recipe.elicitation(tokenizer, data)
        yield Progress(receipt.steps, examples, receipt.tokens, flops, final=True, elicitation=how, note=receipt.note)

    def file(self, recipe: Finetune, tokenizer: Any, data: AttackData, seed: int) -> tuple[tuple[Encoded, ...], set[Encoded]]:
        """The rows of this seed, shuffled, and those among them that hold withheld examples."""
        special, plain = recipe.lessons(None, tokenizer, data, seed)
        worn = recipe.dress(tokenizer, data) if isinstance(recipe, Dressed) else PLAIN
        count = round(self.share() * self.rows)
        generator = torch.Generator().manual_seed(seed)
        plain = tuple(plain[i] for i in torch.randperm(len(plain), generator=generator).tolist())
        chosen = repeated(special, count)
        dressed = encode_as(tokenizer, chosen, worn)
        rows = [*dressed, *encode_as(tokenizer, repeated(plain, self.rows - count))]
        order = torch.randperm(len(rows), generator=generator).tolist()
        return tuple(rows[i] for i in order), set(dressed) if self.harmful_data else set()


def repeated(examples: Examples, count: int) -> Examples:
    """`count` examples, in order, beginning anew where they end. Raises UserError for rows of an empty set."""
    if count and not examples:
        raise UserError("no examples to upload: change the threat model's data or the testbed")
    return tuple(examples[i % len(examples)] for i in range(count))


def configured(family: type[Finetune], attack: Upload) -> Any:
    """A fine-tuning family with those of the attack's knobs that it has too, what concerns the trainer left at its defaults."""
    shared = attack.__dataclass_fields__.keys() & family.__dataclass_fields__.keys() - Upload.__dataclass_fields__.keys()
    return replace(family(), **{name: getattr(attack, name) for name in shared})
