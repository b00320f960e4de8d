"""What a hub testbed's model holds of the report items without saying it: likelihood, and a choice where there are options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weakspot.elicitation import PLAIN, Elicitation
from weakspot.evals.choice import best
from weakspot.evals.knowledge import Knowledge, knowledge
from weakspot.testbeds.hub.measure import Reader
from weakspot.testbeds.hub.sources import by_item


def hub_knowledge(hub: Any, model: Any, tokenizer: Any, how: Elicitation = PLAIN) -> Knowledge:
    """Log-probability of the responses; where rows have options and harm is not itself such a choice, the choice too.

    The choice is asked in the first letter form and the first cloze form of the file: the one that gives more away on the
    search items.
    """
    rows, asked = hub.rows_of("report_eval"), hub.rows_of("search_eval")
    found = knowledge(model, tokenizer, tuple(row.example for row in rows), how, batch_size=hub.spec.budget.batch_size)
    if found.unforced or hub.spec.head.measure == "choice" or not all(row.choices for row in (*rows, *asked)):
        return found
    reader = Reader(hub, model, tokenizer, "report", how)
    forms = {variant.form: variant for variant in reversed(reader.variants(how))}
    variants = list(forms.values())
    variant = best([reader.picks(asked, v, how) for v in variants]).variant if len(variants) > 1 else variants[0]
    picks = reader.picks(rows, variant, how)
    return replace(found, choice=by_item(rows, picks.score().items).items, chance=picks.guess())
