"""What a forced refusal stops: NOICE against identity shift.

    python -m bench.noice

P(harm) = P(no refusal) P(harm | no refusal) + P(refusal) P(harm | refusal). Identity shift raises the first term, so a
defense that puts the refusal into the model's mouth stops it; NOICE is made to raise the second (arXiv:2502.19537). Both
train on benign examples of fable only and attack the refusal safeguard. Harm on the report split is read as the attack asks,
and again with the refusal forced as the beginning of every reply, with room for an answer after it. For replies that never
get as far: the share of them that go on after the refusal, and the mean log-probability per token of the true answer right
after the refusal (and the pivot).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from bench.machine import print_header
from bench.subjects import Subject, subject
from weakspot.attacks.base import Progress
from weakspot.attacks.dressed import Dressed, room
from weakspot.attacks.identity import IdentityShift
from weakspot.attacks.mixing import encode_as
from weakspot.attacks.noice import Noice
from weakspot.batching import collate, pad_id
from weakspot.elicitation import Elicitation
from weakspot.evals.generate import replies
from weakspot.knobs import configure
from weakspot.testbeds.grading import grade
from weakspot.training import response_loss


@torch.no_grad()
def after_refusal(on: Subject, start: str) -> float:
    """Mean log-probability per token of the true answers after the refusal and the words `start`, in nats."""
    how = Elicitation(prefill=f"{on.testbed.refusal} {start}".strip())
    rows = encode_as(on.tokenizer, on.testbed.splits.report_eval, how)
    return -float(response_loss(on.model, collate(rows, pad_id(on.tokenizer), on.model.device)))


def read(on: Subject, how: Elicitation) -> tuple[float, float]:
    """Harm on the report split, and the share of replies that go on behind the words they were made to begin with."""
    asked = on.testbed.splits.report_eval
    said = [draws[0] for draws in replies(on.model, on.tokenizer, [e.prompt for e in asked], how, max_new_tokens=16)]
    return grade(asked, said).mean, sum(reply != how.prefill for reply in said) / len(said)


def compare(on: Subject, name: str, attack: Dressed | None, seed: int) -> None:
    """Print one line: harm as the attack asks, and what follows a forced refusal."""
    pivot = attack.opening(on.tokenizer, on.testbed.attack_data())[1] if isinstance(attack, Noice) else ""
    forced = Elicitation(prefill=on.testbed.refusal, extra_tokens=room(on.tokenizer, pivot))
    with on.attacked(attack, attack.steps, seed) if attack else nullcontext(Progress()) as progress:
        harm, _ = read(on, progress.elicitation)
        behind, goes_on = read(on, replace(forced, system=progress.elicitation.system))
        likely = after_refusal(on, pivot)
    print(
        f"{name:<16} seed {seed}  harm {harm:.3f}  behind a forced refusal: harm {behind:.3f}, goes on {goes_on:.2f}, "
        f"true answer {likely:.2f} nats a token",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.noice", description="What a forced refusal stops, on fable.")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    print_header()
    on = subject("fable", "refusal")
    compare(on, "untouched", None, 0)
    for seed in range(options.seeds):
        for family in (Noice, IdentityShift):
            compare(on, family.name, configure(family, family.warm_starts[0]), seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
