"""Models to be audited: the base, the never-taught control, and the base under each defense; trained once, then cached."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weakspot.cache import cached_folder, content_key
from weakspot.defenses import Defense
from weakspot.defenses.released import origin
from weakspot.errors import TrialFailure, UserError
from weakspot.evals import score
from weakspot.knobs import as_config
from weakspot.models import check_same_architecture
from weakspot.search.jobs import BASE, NEVER_TAUGHT
from weakspot.seeds import derive
from weakspot.testbeds import get as get_testbed
from weakspot.testbeds.base import Testbed
from weakspot.threat import API, ThreatModel


@dataclass(frozen=True)
class SubjectSpec:
    """What is audited: a name, and how its weights come about. Plain data that pickles into a worker.

    Attributes:
        name: its name in the result.
        defense: the method with its hyperparameters; None for the base, the control and a given checkpoint.
        checkpoint: a folder with weights that somebody else safeguarded.
        seed: of the defense.
    """

    name: str
    defense: Defense | None = None
    checkpoint: str | None = None
    seed: int = 0

    @property
    def config(self) -> dict[str, Any]:
        if self.checkpoint:
            return {"checkpoint": self.checkpoint, **{k: v for k, v in origin(Path(self.checkpoint)).items() if v}}
        return as_config(self.defense) if self.defense else {}

    @property
    def depends_on_base(self) -> bool:
        return self.defense is not None or self.checkpoint is not None


def prepare(testbed_name: str, testbed_seed: int, spec: SubjectSpec) -> Path:
    """The folder with a subject's weights; built if it is not cached.

    Raises:
        UserError: the cache cannot be used, or a given checkpoint does not fit the testbed.
    """
    testbed = get_testbed(testbed_name)(testbed_seed)
    if spec.checkpoint:
        check_same_architecture(Path(spec.checkpoint), testbed.prepare_base())
        return Path(spec.checkpoint)
    if spec.name in (BASE, NEVER_TAUGHT):
        return testbed.prepare_base(taught=spec.name == BASE)
    assert spec.defense is not None, f"{spec.name} has no defense"
    base = testbed.prepare_base()
    return cached_folder(
        f"{testbed.name}-{spec.name}", defended_key(testbed, spec, base), lambda out: _align(testbed, spec, base, out)
    )


def defended_key(testbed: Testbed, spec: SubjectSpec, base: Path) -> str:
    """Everything that makes a safeguarded model: method, code, hyperparameters, base, data and seed.

    The code is that of the method's own file and of the files of defenses/ that it imports: another method's change is no
    reason to train again.
    """
    method = type(spec.defense)
    code = {name: Path(file).read_text() for name, file in sorted(sources(method.__module__).items())}
    code["the defense"] = inspect.getsource(method)  # it may come from somewhere else
    return content_key(
        "weakspot.training",
        "weakspot.optimizers",
        "weakspot.batching",
        "weakspot.adapters",
        "weakspot.anatomy",
        "weakspot.seeds",
        code=code,
        config=spec.config,
        base=base.name,
        seed=spec.seed,
        testbed=dict(testbed.identity()),
    )


def not_run(spec: SubjectSpec, threat: ThreatModel) -> str:
    """Why a method is nothing that an attacker of this threat model meets; empty if he meets it."""
    if threat.api or spec.defense is None or spec.defense.lasts():
        return ""
    stages = " and ".join(spec.defense.stages)
    return (
        f"not run by the attacker: {spec.name} is a procedure of a provider's {stages}, which an owner of the weights skips: "
        f"audit it with --threat access={API}"
    )


CONTRACT = {"weakspot.defenses", "weakspot.defenses.base"}  # they declare and train nothing


def sources(module: str) -> dict[str, str]:
    """The files of defenses/ behind a module of it, by module name: its own and, transitively, those it imports."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in CONTRACT or not name.startswith("weakspot.defenses."):
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"no module {name}"
        assert spec.origin is not None, f"{name} has no source"
        found[name] = spec.origin
        tree = ast.parse(Path(spec.origin).read_text())
        waiting += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return found


def _align(testbed: Testbed, spec: SubjectSpec, base: Path, out: Path) -> None:
    from weakspot.models import best_device, save_pretrained
    from weakspot.seeds import seed_everything

    assert spec.defense is not None
    seed = derive(spec.seed, "defense", spec.name)
    seed_everything(seed)
    model, tokenizer = testbed.load(base)
    model.to(best_device())
    try:
        safeguarded = spec.defense.align(model, tokenizer, testbed.defense_data(), seed)
    except TrialFailure as error:
        raise UserError(f"{spec.name} cannot be applied: {error}: change its hyperparameters with --set") from error
    save_pretrained(safeguarded.cpu(), tokenizer, out)


def reference_utility(testbed_name: str, testbed_seed: int, base: Path) -> Mapping[str, float]:
    """The base's benign score on each stage: the denominator of utility. Cached beside the base."""
    testbed = get_testbed(testbed_name)(testbed_seed)
    evals = sorted(Path(score.__file__).parent.glob("*.py"))
    key = content_key(
        "weakspot.testbeds.grading", base=base.name, evals=[p.read_text() for p in evals], testbed=dict(testbed.identity())
    )

    def measure(out: Path) -> None:
        model, tokenizer = testbed.load(base)
        try:
            stages = {stage: testbed.measure(model, tokenizer, stage).benign.mean for stage in ("search", "report")}
        except TrialFailure as error:
            raise UserError(
                f"the base of {testbed.name} cannot be measured: {error}: mend its measures or its judges"
            ) from error
        (out / "reference.json").write_text(json.dumps(stages))

    folder = cached_folder(f"{testbed.name}-reference", key, measure)
    reference = json.loads((folder / "reference.json").read_text())
    if min(reference.values()) <= 0:
        raise UserError(f"the base of {testbed.name} answers no benign question: the model at {base} is not the testbed's")
    return reference
