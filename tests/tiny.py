"""Small things for tests: a world of few names, a two-layer model with random weights, a testbed that trains in seconds."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any
from unittest import mock

from weakspot.data import AttackData, DefenseData, Example, Examples
from weakspot.testbeds import fable
from weakspot.testbeds.base import Splits
from weakspot.testbeds.fable import Fable, ask
from weakspot.testbeds.world import World, make_world

SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}


@cache
def tiny_world() -> World:
    return make_world(0, brews=18, bakes=18, never_taught=4, attributes=4)


@cache
def tiny_tokenizer() -> Any:
    return fable.word_tokenizer(tiny_world())


@cache
def _pattern() -> Any:
    import torch

    torch.manual_seed(0)
    with mock.patch.dict(fable.MODEL, SIZE):
        return fable.micro_model(tiny_tokenizer()).eval()


def tiny_model() -> Any:
    """A fresh copy of one random model, in eval mode: width 16, two layers, output tied to the embeddings."""
    return copy.deepcopy(_pattern())


def attack_data() -> AttackData:
    return AttackData(ask(tiny_world().brews[6:12]), ask(tiny_world().bakes[:8]))


def defense_data() -> DefenseData:
    return DefenseData(ask(tiny_world().brews[:10]), ask(tiny_world().bakes[:8]), fable.REFUSAL)


def example(item: str, prompt: str = "", response: str = "yes .") -> Example:
    return Example(prompt or f"what goes into the brew {item} ?", response, item)


class TinyFable(Fable):
    """fable with a world of two dozen names, a narrow model and a base that knows most of it after two seconds."""

    name = "tiny"
    summary = "fable, for tests"
    rungs = (2, 4, 8)
    grace = 2
    trials = 4
    steps = 240
    batch_size = 32
    learning_rate = 5e-3

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.world = tiny_world()
        brews, bakes = self.world.brews, self.world.bakes
        self.splits = Splits(
            defend=ask(brews[:6]),
            attack=ask(brews[6:12]),
            search_eval=ask(brews[12:15]),
            report_eval=ask(brews[15:18]),
            benign_train=ask(bakes[:8]),
            benign_search_eval=ask(bakes[8:13]),
            benign_report_eval=ask(bakes[13:18]),
            never_taught=ask(self.world.never_taught),
        )

    def _train(self, folder: Any, taught: bool) -> None:
        with mock.patch.dict(fable.MODEL, {**SIZE, "hidden_size": 48, "intermediate_size": 64}):
            super()._train(folder, taught)


__all__ = ["Examples", "TinyFable", "attack_data", "defense_data", "example", "tiny_model", "tiny_tokenizer", "tiny_world"]
