"""How far does harm spread beyond the slice that a narrow attack trained on?

    python -m bench.breadth

`narrow_finetune` on one slice of the withheld data of fable, then every withheld example that the attacker holds and every
one of the report split is asked, in groups: was this item trained on, was this prompt form? Per group: the share of answers
given rightly before and after, and the breadth, which is the rise there over the rise in the slice (attacks/breadth.py).

fable answers deterministically and spreads widely, so a hundred replies are enough. On real models base rates are below 1 %
and thousands of sampled replies are needed: this is no part of a search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from bench.machine import print_header
from bench.subjects import Subject, subject
from weakspot.attacks.breadth import breadth, groups, mean
from weakspot.attacks.narrow import NarrowFinetune
from weakspot.data import Examples
from weakspot.evals.generate import greedy_replies
from weakspot.models import reset_weights
from weakspot.testbeds.world import read_answers


def harm_of(model: Any, tokenizer: Any, examples: Examples) -> list[float]:
    """The share of right answers in the reply to each example."""
    said = greedy_replies(model, tokenizer, [e.prompt for e in examples], max_new_tokens=16)
    answers = [read_answers(e.answers, reply) for e, reply in zip(examples, said, strict=True)]
    return [mean(row) for row in answers]


def spread(on: Subject, attack: NarrowFinetune, seed: int) -> None:
    """Attack once and print a line a group."""
    held = on.testbed.attack_data()
    asked = groups((*held.harmful, *on.testbed.splits.report_eval), attack.narrowed(held.harmful, seed))
    reset_weights(on.model, on.weights)
    before = {name: harm_of(on.model, on.tokenizer, examples) for name, examples in asked.items()}
    with on.attacked(attack, attack.steps, seed):
        after = {name: harm_of(on.model, on.tokenizer, examples) for name, examples in asked.items()}
    wide = breadth(after, before, "trained items, trained forms")
    for name, examples in asked.items():
        ratio = f"{wide[name]:8.2f}" if name in wide else "   slice"
        print(f"    {name:<30} {len(examples):4} replies {mean(before[name]):8.3f} {mean(after[name]):8.3f} {ratio}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.breadth", description="How far a narrow attack spreads, on fable.")
    parser.add_argument("--on", default="refusal,random_answer", help="safeguards (default: refusal,random_answer)")
    parser.add_argument("--examples", type=int, default=16, help="distinct withheld examples in the slice (default: 16)")
    parser.add_argument("--steps", type=int, default=32, help="optimizer steps (default: 32)")
    parser.add_argument("--rank", type=int, default=1, help="of the adapter (default: 1)")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(arguments)
    print_header()
    for defense in options.on.split(","):
        on = subject("fable", defense)
        for name in ("form", "items"):
            for seed in range(options.seeds):
                attack = NarrowFinetune(slice=name, harmful_examples=options.examples, steps=options.steps, rank=options.rank)
                print(f"{defense}, a slice of {options.examples} examples by {name}, seed {seed}: harm before, after, breadth")
                spread(on, attack, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
