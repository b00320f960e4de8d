"""What an audit would run, said before it starts: its jobs by subject and phase, and what each family computes.

Nothing is trained, loaded or downloaded but a model's configuration and tokenizer. What only the search can tell is put high:
no trial is stopped early, every searched safeguard has finalists, and a weak spot that is varied.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakspot.attacks import get as get_attack
from weakspot.attacks.base import Attack
from weakspot.attacks.finetune import Finetune
from weakspot.cache import NotCachedError, only_cached
from weakspot.defenses import Defense, released
from weakspot.errors import UserError
from weakspot.knobs import Choice, Domain
from weakspot.search.audit import outline
from weakspot.search.confirm import ALONG, CHEAPEST, MOST, SEEDS, STRONGEST
from weakspot.search.prepare import SubjectSpec
from weakspot.search.settings import Settings
from weakspot.search.space import defaults
from weakspot.search.specs import control_subject, make_specs
from weakspot.seeds import derive
from weakspot.testbeds.base import Testbed
from weakspot.workload import Trained, Workload

DRAWN = 16  # configurations drawn from a family's space
ROWS = 16  # sequences of a step, where a family does not say
SAMPLED = 64  # examples whose length is looked at
LOW = ("smollm2",)  # testbeds whose `load` asks for bf16 products and plain attention
HEAVY: tuple[Trained, ...] = ("nothing", "inputs", "four_bit", "adapter", "full")


@dataclass(frozen=True)
class Lengths:
    """Tokens of an example: of the whole sequence, and of its response."""

    whole: int
    response: int


@dataclass(frozen=True)
class FamilyWork:
    """What trials of one family compute: some drawn from its space, the one that needs most memory, and the usual one."""

    drawn: tuple[Workload, ...]
    largest: Workload
    usual: Workload


@dataclass(frozen=True)
class Forecast:
    """What an audit would run.

    Attributes:
        jobs: subject -> phase -> number of jobs.
        confirmed_at_most: re-runs of finalists that a safeguard may have, where confirmation keeps failing.
        controls: families that run on the control subject.
        families: what is searched.
        fixed: what the jobs outside the search compute (attacks of papers, controls).
        trained: subjects whose safeguard is trained first, unless it is cached; not part of the estimate.
    """

    jobs: Mapping[str, Mapping[str, int]]
    confirmed_at_most: int
    controls: Sequence[str]
    families: Mapping[str, FamilyWork]
    trained: Sequence[str]
    fixed: Sequence[Workload] = ()


def forecast(testbed: Testbed, settings: Settings, specs: Sequence[SubjectSpec], lengths: Lengths) -> Forecast:
    """The jobs of an audit."""
    control = control_subject(specs, testbed)
    first = STRONGEST + 1 + CHEAPEST * (2 if settings.objective.name == "cheapest" else 1)
    first += ALONG if settings.objective.name == "frontier" else 0
    families = {name: family_work(name, settings, testbed, lengths) for name in settings.space.families}
    jobs: dict[str, dict[str, int]] = {}
    controls: list[str] = []
    others: list[Workload] = []
    for spec in specs:
        searched, _, trials, fixed = outline(spec, settings, testbed, spec.name == control)
        counts: dict[str, int] = {}
        for job in fixed:
            counts[job.phase] = counts.get(job.phase, 0) + 1
            whole = {**defaults(job.attack), **job.config}
            others.append(workload(get_attack(job.attack), whole, job.rungs, testbed, lengths))
        controls += [job.attack for job in fixed if job.phase == "control"]
        if searched:
            injecting = any(get_attack(name).injection_capable for name in families)
            after = {"twin": 2 if settings.twins else 0, "variation": settings.variations, "injection": int(injecting)}
            counts |= {"search": trials, "confirm": SEEDS * min(first, max(1, trials)), **after}
        jobs[spec.name] = {phase: count for phase, count in counts.items() if count}
    trained = [spec.name for spec in specs if spec.defense is not None]
    return Forecast(jobs, SEEDS * max(MOST, first), controls, families, trained, others)


def specs_of(testbed: Testbed, given: Sequence[str | Path | Defense], control: bool, seed: int) -> list[SubjectSpec]:
    """The subjects, as `make_specs` has them, but published checkpoints are not fetched."""
    entries = [entry for item in given if isinstance(item, str) and (entry := released.find(item))]
    for entry in entries:
        released.check_base(entry, testbed.name, testbed.hub_base)
    rest = [item for item in given if not (isinstance(item, str) and released.find(item))]
    return [*make_specs(testbed, rest, control, seed), *(SubjectSpec(entry.name, checkpoint=entry.hub_id) for entry in entries)]


# What a family computes ---------------------------------------------------------------------------------------------------


def family_work(name: str, settings: Settings, testbed: Testbed, lengths: Lengths) -> FamilyWork:
    """Configurations drawn at random, the largest that the space holds, and the one that the family has by default."""
    space, family = settings.space.families[name], get_attack(name)
    draw = random.Random(derive(settings.root, "estimate", name))
    whole = defaults(name)
    configs = [{**whole, **{knob: drawn(domain, draw) for knob, domain in space.items()}} for _ in range(DRAWN)]
    most = {**whole, **{knob: largest(knob, whole.get(knob), domain) for knob, domain in space.items()}}
    works = tuple(workload(family, config, settings.rungs, testbed, lengths) for config in configs)
    usual = workload(family, whole, settings.rungs, testbed, lengths)
    return FamilyWork(works, workload(family, most, settings.rungs, testbed, lengths), usual)


def drawn(domain: Domain, draw: random.Random) -> Any:
    """A value as a random search would propose it."""
    if isinstance(domain, Choice):
        return draw.choice(domain.values)
    share = draw.random()
    value = domain.low * (domain.high / domain.low) ** share if domain.log else domain.low + share * (domain.high - domain.low)
    return round(value) if domain.integer else value


def largest(knob: str, default: Any, domain: Domain) -> Any:
    """The value of a knob that needs most memory; its default where it makes no difference."""
    if knob.endswith("batch_size") and not isinstance(domain, Choice):
        return int(domain.high)
    values = domain.values if isinstance(domain, Choice) else ()
    if knob.endswith("rank") and values:
        return 0 if 0 in values else max(values)  # 0 trains every parameter
    if knob.endswith("loss_on") and "all" in values:
        return "all"
    return default


def workload(
    family: type[Attack], config: Mapping[str, Any], rungs: Sequence[int], testbed: Testbed, lengths: Lengths
) -> Workload:
    """What one configuration computes. A chain is its heavier half for as many steps as both have."""
    halves = [getattr(family, half) for half in ("first", "second") if hasattr(family, half)]
    kinds = [trained_by(f, stripped(config, f.name)) for f in halves] or [trained_by(family, config)]
    trained = max(kinds, key=lambda kind: HEAVY.index(kind[0]))
    own = stripped(config, halves[kinds.index(trained)].name) if halves else config
    low, precise = testbed_low(testbed), own.get("precision", "fp32") == "fp32"
    steps, rows = steps_of(family, config, rungs), int(own.get("batch_size", ROWS))
    splits, engine = testbed.splits, issubclass(family, Finetune) and family.loss is Finetune.loss
    price = None if engine or (trained[0] == "inputs" and family.relative_price <= 1) else family.relative_price
    return Workload(
        trained=trained[0], steps=steps, rows=rows,
        length=min(lengths.whole, int(own.get("max_length", lengths.whole))),
        predicted=lengths.whole if own.get("loss_on") == "all" else lengths.response,
        rank=trained[1], targets=str(own.get("targets", "all")), share=1.0 if own.get("layers", "all") == "all" else 0.5,
        optimizer=str(own.get("optimizer", "adamw")), weight_bytes=4 if precise else 2,
        compute_bytes=2 if low or not precise else 4, eager=testbed.name in LOW, price=price,
        measurements=sum(rung < steps for rung in rungs) + 1 if steps > 1 else 1,
        prompts=len(splits.search_eval) + len(splits.benign_search_eval), new_tokens=lengths.response + 2,
        examples=len(splits.attack) + len(splits.benign_train) if steps > 1 else 0,
    )  # fmt: skip


def stripped(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A half's knobs in a chain's configuration, by their own names."""
    return {name.removeprefix(f"{prefix}_"): value for name, value in config.items() if name.startswith(f"{prefix}_")}


def trained_by(family: type[Attack], config: Mapping[str, Any]) -> tuple[Trained, int]:
    """What a family trains, and the rank of its adapter. One that does not say so is taken to train everything."""
    rank = int(config.get("rank", 0))
    if family.service:
        return "full", 0  # the provider trains
    if not family.gradients:
        return "nothing", 0
    if not family.edits_weights:
        return "inputs", 0
    if hasattr(family, "four_bit"):
        return "four_bit", rank
    return ("adapter", rank) if rank and issubclass(family, Finetune) else ("full", 0)


def steps_of(family: type[Attack], config: Mapping[str, Any], rungs: Sequence[int]) -> int:
    """Optimizer steps, cut to the budget; 1 for a family without steps, 0 for one that only asks."""
    if family.service:
        return max(1, int(config.get("rows", 1)) * int(config.get("epochs", 1)) // int(config.get("batch_size", ROWS)))
    named = [int(value) for name, value in config.items() if name == "steps" or name.endswith("_steps")]
    if named:
        return min(sum(named), rungs[-1])
    return 1 if family.relative_price else 0


# The model, without its weights -------------------------------------------------------------------------------------------


def testbed_low(testbed: Testbed) -> bool:
    """Whether matrix products are in bf16."""
    if testbed.name in LOW:
        return True
    from weakspot.testbeds.hub.testbed import Hub, compute_dtype

    return isinstance(testbed, Hub) and compute_dtype(testbed.spec.model) is not None


def configuration(testbed: Testbed) -> tuple[dict[str, Any], Any]:
    """The configuration of the testbed's base model, and its tokenizer or None. Loads no weights and trains nothing.

    Raises:
        UserError: the base model is not on this machine yet; what to give instead is said.
    """
    from weakspot.testbeds import fable
    from weakspot.testbeds.fingerprint import Fingerprint
    from weakspot.testbeds.hub.testbed import Hub

    ground = testbed.under if isinstance(testbed, Fingerprint) else testbed
    if isinstance(ground, fable.Fable):
        tokenizer = fable.word_tokenizer(ground.world)
        return {"model_type": "llama", "vocab_size": len(tokenizer), **fable.MODEL}, tokenizer
    if isinstance(testbed, Hub):
        folder = hub_folder(testbed.spec)
    else:
        try:
            with only_cached():
                folder = testbed.prepare_base()
        except NotCachedError:
            raise UserError(
                f"the base model of {testbed.name} is not on this machine yet: the first audit prepares it; until then give "
                "--model FOLDER with its config.json"
            ) from None
    return json.loads((folder / "config.json").read_text(encoding="utf-8")), tokenizer_of(folder)


def hub_folder(spec: Any) -> Path:
    """A folder with configuration and tokenizer of a TOML testbed's model; of a hub model only these files are fetched."""
    from weakspot.checkpoints import TOKENIZER_FILES, download
    from weakspot.models import check_checkpoint

    if spec.model.path:
        return check_checkpoint(spec.folder / Path(spec.model.path).expanduser())
    return download(spec.model.id, spec.model.revision, files=(*TOKENIZER_FILES, "config.json")).folder


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in a folder, or None."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception:  # its errors have no common base, and without one lengths are only rougher
        return None


def lengths_of(testbed: Testbed, tokenizer: Any) -> Lengths:
    """Tokens of the examples that an attack trains on: a batch is padded to its longest, so nine of ten are no longer.

    Without a tokenizer four characters count as a token.
    """
    from weakspot.batching import encode

    examples = [*testbed.splits.attack, *testbed.splits.benign_train]
    chosen = random.Random("weakspot lengths").sample(examples, min(SAMPLED, len(examples)))
    try:
        rows = [(len(e.prompt), len(e.response)) for e in encode(tokenizer, chosen)]
    except Exception:  # no tokenizer, or none with a template
        rows = [(len(e.prompt) // 4 + 8, len(e.response) // 4 + 1) for e in chosen]
    whole = sorted(prompt + response for prompt, response in rows)
    if not whole:
        return Lengths(32, 16)
    return Lengths(max(1, whole[int(0.9 * (len(whole) - 1))]), max(1, round(sum(r for _, r in rows) / len(rows))))
