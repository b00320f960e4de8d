"""Two families one after the other: the second starts from what the first left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass
from typing import Any, ClassVar

from weakspot.attacks.base import NEEDS, Attack, Progress, in_hand
from weakspot.data import AttackData
from weakspot.elicitation import PLAIN
from weakspot.errors import UserError
from weakspot.seeds import derive


@dataclass(frozen=True)
class Chain(Attack):
    """The first family runs to its end and stays in place while the second runs; costs and needs add up.

    Depth ends at two: compositions of strip, ablate, quantise, prune, repair and fine-tune are what has been seen to pay
    (reference/attacks.md § 3, remarks). Knobs carry the name of their family in front, `quantize_bits`, `lora_rank`.

    The budget is one: steps of the first count. The threat model lets the first have half of them at most (`halved`), so that
    the second has its turn; how long it runs never depends on the rungs, so that a re-run at one rung is the same attack.

    Attributes:
        first, second: the families.
        fixed: knobs of the first that the chain decides.
        halved: knobs of the first that count steps.
    """

    first: ClassVar[type[Attack]]
    second: ClassVar[type[Attack]]
    fixed: ClassVar[Mapping[str, Any]] = {}
    halved: ClassVar[tuple[str, ...]] = ()

    def part(self, family: type[Attack], fixed: Mapping[str, Any]) -> Any:
        """One of the two attacks with its share of the knobs."""
        prefix = f"{family.name}_"
        given = {f.name.removeprefix(prefix): getattr(self, f.name) for f in fields(self) if f.name.startswith(prefix)}
        return family(**given, **fixed)

    def run(self, model: Any, tokenizer: Any, data: AttackData, rungs: Sequence[int], seed: int) -> Iterator[Progress]:
        opening, closing = self.part(self.first, self.fixed), self.part(self.second, {})
        for part in (opening, closing):
            if getattr(part, "steps", 1) < 1:
                raise UserError(f"{self.name}.{part.name}_steps = {part.steps} is below 1: give at least one optimizer step")
        own = getattr(opening, "steps", 1)
        later = [rung - own for rung in rungs if rung > own]
        if not later:
            raise UserError(f"{self.name}: {opening.name} alone takes {own} of {rungs[-1]} steps: give it at most half of them")
        before = opening.run(model, tokenizer, in_hand(self.first, data), (own,), derive(seed, "first"))
        try:
            spent = next(p for p in before if p.final)  # suspended: what it attached stays
            later = [rung - spent.step for rung in rungs if rung > spent.step]
            after = closing.run(model, tokenizer, in_hand(self.second, data), later, derive(seed, "second"))
            try:
                for progress in after:
                    yield joined(spent, progress)
            finally:
                after.close()
        finally:
            before.close()


def joined(spent: Progress, progress: Progress) -> Progress:
    """Progress of the second part, with what the first has cost. Examples add up: the parts draw their own."""
    return Progress(
        step=spent.step + progress.step,
        examples=spent.examples + progress.examples,
        tokens=spent.tokens + progress.tokens,
        flops=spent.flops + progress.flops,
        final=progress.final,
        elicitation=progress.elicitation if progress.elicitation != PLAIN else spent.elicitation,
    )


def chain(
    name: str,
    first: type[Attack],
    second: type[Attack],
    *,
    summary: str,
    paper: str,
    fixed: Mapping[str, Any] | None = None,
    warm_starts: tuple[dict[str, Any], ...] = (),
) -> type[Chain]:
    """A family made of two. Assign it to a module-level name in CamelCase of `name`: it pickles by that reference."""
    knobs: list[Any] = [
        (f"{family.name}_{f.name}", f.type, dataclasses.field(default=f.default, metadata=f.metadata))
        for family in (first, second)
        for f in fields(family)
        if not (family is first and f.name in (fixed or {}))
    ]
    declared = {need: getattr(first, need) or getattr(second, need) for need in (*NEEDS, "seeded", "injection_capable")}
    title = "".join(word.capitalize() for word in name.split("_"))
    return make_dataclass(
        title,
        knobs,
        bases=(Chain,),
        frozen=True,
        namespace={
            **declared,
            "__doc__": f"{summary}. {Chain.__doc__}",
            "__module__": "weakspot.attacks.chains",
            "name": name,
            "summary": summary,
            "paper": paper,
            "first": first,
            "second": second,
            "fixed": dict(fixed or {}),
            "halved": tuple(name for name, *_ in knobs if name.startswith(first.name) and name.endswith("steps")),
            "relative_price": first.relative_price + second.relative_price,
            "warm_starts": warm_starts,
            "unavailable": classmethod(lambda cls: first.unavailable() or second.unavailable()),
        },
    )
