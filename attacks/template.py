"""Another chat format than the one the model was aligned in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from weakspot.attacks.base import Attack, Progress
from weakspot.data import AttackData
from weakspot.elicitation import TEMPLATES, Elicitation
from weakspot.knobs import Choice, knob


@dataclass(frozen=True)
class Template(Attack):
    """The bare prompt, Alpaca's frame, or the request in the assistant's own turn, in place of the model's chat template.

    Alignment is trained in one format, which only well-meaning users keep to. Needs no data and costs nothing.

    Paper: Jiang et al., "ChatBug: A Common Vulnerability of Aligned LLMs Induced by Chat Templates" (arXiv:2406.12935). Its
    format mismatch is `plain`; its message overflow, the first words of the reply, is the family `prefill`.

    On fable: at most 0.03 on refusal, 0.07 on random_answer, 0.04 on tar. The undefended model itself answers 0.21 to 0.31
    there: of this size it knows its facts in one format only.
    """

    name: ClassVar[str] = "template"
    summary: ClassVar[str] = "the question in another chat format than the model's own"
    paper: ClassVar[str] = "Jiang et al. 2024, arXiv:2406.12935"
    gradients: ClassVar[bool] = False
    harmful_data: ClassVar[bool] = False
    benign_data: ClassVar[bool] = False
    edits_weights: ClassVar[bool] = False
    asks_freely: ClassVar[bool] = True
    seeded: ClassVar[bool] = False
    needs_null_control: ClassVar[bool] = False
    relative_price: ClassVar[float] = 0.0
    warm_starts: ClassVar[tuple[dict[str, Any], ...]] = ({"template": "assistant"}, {"template": "plain"})

    template: str = knob("plain", Choice(TEMPLATES), "chat: the model's own; plain: none; assistant: the assistant asks")
    bos: bool = knob(False, Choice((False, True)), "a beginning token first")

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        del model, tokenizer, data, rungs, seed
        yield Progress(final=True, elicitation=Elicitation(template=self.template, bos=self.bos))
