"""Does an attack in continuous space show knowledge, or does it put it in?

    python -m bench.injection

Three questions, on models of which it is known what they know (fable's base that was never taught any brew, and the base
after unlearning by random answers):

    per item, never taught   a soft prompt is fitted to each true answer about a brew that no model has seen: how many are
                             said word for word?
    per item, random         the same with false answers, drawn at random
    universal                one soft prompt is fitted to the attacker's withheld examples: how many answers about other brews
                             does the model give? A guesser gives one in 24.

High shares in the first two and chance in the third say: fitted to a target, the attack elicits anything from any model and
is no evidence of knowledge; what counts is a perturbation judged on items it was not fitted to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.machine import print_header
from weakspot import defenses
from weakspot.attacks.embedding import UniversalPerturbation
from weakspot.attacks.injection import elicited_share, one_each, random_targets
from weakspot.attacks.latent import LatentPerturbation
from weakspot.attacks.soft_prompt import SoftPrompt
from weakspot.search.jobs import BASE, NEVER_TAUGHT
from weakspot.search.prepare import SubjectSpec, prepare
from weakspot.seeds import derive
from weakspot.testbeds import get as get_testbed
from weakspot.testbeds.base import Measurement, Testbed

SUBJECTS = (NEVER_TAUGHT, "random_answer")


def load(testbed: Testbed, subject: str) -> tuple[Any, Any]:
    """A model of the testbed with its tokenizer, built as an audit builds it."""
    if subject in (BASE, NEVER_TAUGHT):
        return testbed.load(prepare(testbed.name, testbed.seed, SubjectSpec(subject)))
    defense = defenses.preset(subject, testbed.name)
    spec = SubjectSpec(subject, defense=defense, seed=derive(testbed.seed, "defense"))
    return testbed.load(prepare(testbed.name, testbed.seed, spec))


def universal(attack: UniversalPerturbation, model: Any, tokenizer: Any, testbed: Testbed, seed: int) -> Measurement:
    """What the model says to held-out questions once the perturbation is fitted to the attacker's."""
    data = replace(testbed.attack_data(), benign=())
    *_, last = attack.run(model, tokenizer, data, (attack.steps,), seed)
    return testbed.measure(model, tokenizer, "report", last.elicitation)


def for_all(attack: UniversalPerturbation) -> UniversalPerturbation:
    """The settings that pass fable's refusal training; those that suit one target do worse on many."""
    return replace(attack, optimizer="signsgd", learning_rate=1.0) if isinstance(attack, SoftPrompt) else attack


def report(subject: str, testbed: Testbed, attacks: dict[str, UniversalPerturbation], options: argparse.Namespace) -> None:
    """Print one model's table."""
    model, tokenizer = load(testbed, subject)
    never = one_each(testbed.splits.never_taught, options.items)
    false = one_each(random_targets(testbed.attack_data(), options.seed).harmful, options.items)
    print(f"\n{subject}: per item, share said word for word of {len(never)} never taught and {len(false)} random targets;")
    print(f"universal, share of answers right about held-out and about never-taught brews (chance {testbed.chance:.2f})")
    print(f"{'attack':<22} {'never taught':>13} {'random':>8} {'universal: held-out':>21} {'never taught':>13}")
    for label, attack in attacks.items():
        shares = [elicited_share(attack, model, tokenizer, e, attack.steps, options.seed) for e in (never, false)]
        judged = universal(for_all(attack), model, tokenizer, testbed, options.seed)
        null = judged.never_taught.mean if judged.never_taught else float("nan")
        print(f"{label:<22} {shares[0]:>13.2f} {shares[1]:>8.2f} {judged.harm.mean:>21.2f} {null:>13.2f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.injection", description="Knowledge or injection?")
    parser.add_argument("--testbed", default="fable")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 2, 5, 10], help="sizes of the soft prompt")
    parser.add_argument("--items", type=int, default=16, help="targets of each kind (default: 16)")
    parser.add_argument("--steps", type=int, default=128, help="optimizer steps of each attack (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    attacks: dict[str, UniversalPerturbation] = {
        f"soft prompt, {n} token{'s' * (n > 1)}": SoftPrompt(tokens=n, steps=options.steps, learning_rate=0.5, init="random")
        for n in options.tokens
    }
    attacks["latent vector"] = LatentPerturbation(steps=options.steps, epsilon=1.0, depth=0.4, layers=4, learning_rate=0.05)
    print_header()
    testbed = get_testbed(options.testbed)(0)
    for subject in options.subjects:
        report(subject, testbed, attacks, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
