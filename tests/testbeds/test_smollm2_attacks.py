"""Every family runs on the chat model: a real tokenizer, 135M parameters, bf16 products, and comes off without a trace.

Two steps each on the model as downloaded, not taught: what is held is that it runs, asks in a way that can be rendered, and
that nothing of it stays. What the families do there is not measured.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.contracts.test_attacks import FAMILIES, shape_of, small
from weakspot.attacks import Attack
from weakspot.attacks.base import in_hand
from weakspot.errors import TrialFailure
from weakspot.evals.generate import replies
from weakspot.models import reset_weights, weights_digest
from weakspot.testbeds import smollm2_weights
from weakspot.testbeds.smollm2 import CHAT_TEMPLATE, SmolLM2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, ...]:
    testbed = SmolLM2()
    model, tokenizer = testbed.load(smollm2_weights.fetch())
    tokenizer.chat_template = CHAT_TEMPLATE
    weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    base = {name: array * 1.001 for name, array in weights.items()}
    return testbed, model, tokenizer, weights, replace(testbed.attack_data(), base=base)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_runs_on_the_chat_model_and_comes_off(family: type[Attack], loaded: tuple[Any, ...]) -> None:
    testbed, model, tokenizer, weights, data = loaded
    reset_weights(model, weights)
    before, shape = weights_digest(model), shape_of(model)
    attack = small(family, steps=2, batch_size=2, search_width=2, candidates=2, beams=2, prompts=2, restarts=2)
    budget = 6 if getattr(family, "halved", ()) else 2  # the first part of a chain takes four
    course = attack.run(model, tokenizer, in_hand(family, data), (budget,), 0)
    try:
        progress = next(course)
        question = testbed.splits.search_eval[0].prompt
        [draws] = replies(model, tokenizer, [question], progress.elicitation, max_new_tokens=4)
        assert len(draws) == (progress.elicitation.samples if progress.elicitation.temperature else 1)
        assert progress.flops > 0 or not progress.tokens
    except TrialFailure:
        pass  # two steps find no wording, no opening, no feasible draw: that is a failed trial, not a defect
    finally:
        course.close()  # type: ignore[attr-defined]
    assert shape_of(model) == shape
    assert not model.training
    reset_weights(model, weights)
    assert weights_digest(model) == before
