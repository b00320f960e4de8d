"""A testbed that a TOML file describes: somebody's model, somebody's data, a policy, and how harm and utility are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from weakspot.cache import content_key
from weakspot.data import Examples
from weakspot.elicitation import PLAIN, Elicitation
from weakspot.errors import UserError
from weakspot.testbeds.base import SPLITS, Measurement, Splits, Stage, Testbed
from weakspot.testbeds.hub.measure import Reader, guesser
from weakspot.testbeds.hub.schema import ModelSource
from weakspot.testbeds.hub.sources import Collected, Row, collect
from weakspot.testbeds.hub.spec import Spec

if TYPE_CHECKING:
    from weakspot.evals.judges.base import Judge
    from weakspot.evals.knowledge import Knowledge

MEASURED_BY = (  # whose change means another measurement
    "weakspot.testbeds.hub.measure", "weakspot.testbeds.hub.sources", "weakspot.evals.choice", "weakspot.evals.likelihood",
)  # fmt: skip


class Hub(Testbed):
    """A testbed from a file; `weakspot.testbeds.hub.get` makes the class of a file, with its spec and its name.

    There is a null control where the file names a model that never saw the withheld facts (`[never_taught_model]`) and what
    to ask it (`[data.never_taught]`); with the data alone, attacks are still seen through when they inject.

    Attributes:
        spec: the file's content.
        collected: the rows of every split, with the options that examples have no place for.
    """

    paper = ""
    spec: ClassVar[Spec]

    def __init__(self, seed: int = 0) -> None:
        spec = self.spec
        self.seed = seed
        self.policy = spec.head.policy
        self.paper = spec.head.paper
        self.refusal = spec.head.refusal
        self.rungs = tuple(sorted(spec.budget.rungs))
        self.grace, self.trials, self.variations = spec.budget.grace, spec.budget.trials, spec.budget.variations
        self.workers, self.threads_per_worker = spec.budget.workers, spec.budget.threads
        self.hub_base = spec.model.id or None
        self.has_null_control = spec.never_taught_model is not None
        self.collected: Collected = collect(spec.data, spec.folder, seed)
        rows = self.collected.rows
        self.splits = Splits(**{name: examples(rows.get(name, ())) for name in (*SPLITS, "never_taught")})
        self._rows: dict[Any, Row] = {row.example: row for own in rows.values() for row in own}
        self._judges: dict[str, Judge] = {}
        forms = sorted({name.partition("-")[0] for name in spec.choice.variants}) or ["letter", "cloze"]
        self.chance = guesser(rows["search_eval"], spec.head.measure, spec.choice.scale, forms)

    @property
    def weights_gib(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride] -- known once the model is here
        from weakspot.testbeds.hub.fetch import located, weights_gib

        return weights_gib(located(self.spec.model, self.spec.folder)[0])

    def identity(self) -> Mapping[str, Any]:
        judges = {stage: judge.identity() for stage, judge in self.judges().items()}
        content = {key: value for key, value in self.spec.content().items() if key not in ("data", "judges")}
        return {
            "testbed": "hub",
            "seed": self.seed,
            "content": content,
            "data": self.collected.digest(),
            "judges": judges,
            "code": content_key(*MEASURED_BY),
        }

    def pins(self) -> dict[str, str]:
        """Digest of all data as it is used, of each source's files, and what pins the judges and the code that measures."""
        from weakspot.testbeds.hub.fetch import data_pin

        found = {"data": self.collected.digest(), "measure": content_key(*MEASURED_BY)}
        for name, sources in sorted(self.spec.data.items()):
            for number, source in enumerate(sources):
                label = f"data.{name}" if len(sources) == 1 else f"data.{name}.{number}"
                found[label] = data_pin(source, self.spec.folder)
        for stage, judge in self.judges().items():
            found[f"judge.{stage}"] = " ".join(judge.identity().values())
        return found

    def judges(self) -> Mapping[Stage, Judge]:
        stages: tuple[Stage, ...] = ("search", "report")
        return {stage: self.judge(stage) for stage in stages} if self.spec.judges else {}

    def judge(self, stage: Stage) -> Judge:
        """The judge of a stage, made once.

        Raises:
            UserError: it cannot be made; the message says why.
        """
        from weakspot.evals.judges import get

        if stage not in self._judges:
            assert self.spec.judges is not None, f"{self.name} has no judges"
            name, weights = getattr(self.spec.judges, stage), getattr(self.spec.judges, f"{stage}_weights")
            here = self.spec.folder / Path(weights).expanduser()
            kind: Any = get(name)
            self._judges[stage] = kind(here if here.is_dir() else weights) if weights else kind()
        return self._judges[stage]

    def prepare_base(self, taught: bool = True) -> Path:
        from weakspot.testbeds.hub.fetch import base_folder

        source = self.spec.model if taught else self.spec.never_taught_model
        if source is None:
            raise UserError(f"{self.name} has no [never_taught_model]: name one, or leave out the null control")
        return base_folder(source, self.spec.folder)

    def load(self, folder: Path) -> tuple[Any, Any]:
        from weakspot.models import load_pretrained

        model, tokenizer = load_pretrained(folder)
        if (dtype := compute_dtype(self.spec.model)) is not None:
            model.weakspot_compute_dtype = dtype
        return model, tokenizer

    def measure(self, model: Any, tokenizer: Any, stage: Stage, how: Elicitation = PLAIN) -> Measurement:
        from weakspot.training import autocast

        with autocast(model):
            return Reader(self, model, tokenizer, stage, how).measurement()

    def knowledge(self, model: Any, tokenizer: Any, how: Elicitation = PLAIN) -> Knowledge:
        from weakspot.testbeds.hub.knowledge import hub_knowledge
        from weakspot.training import autocast

        with autocast(model):
            return hub_knowledge(self, model, tokenizer, how)

    def rows_of(self, split: str) -> tuple[Row, ...]:
        """The rows behind a split's examples: fewer than were collected where a part of the testbed is asked."""
        return tuple(self._rows[example] for example in getattr(self.splits, split))


def examples(rows: Sequence[Row]) -> Examples:
    return tuple(row.example for row in rows)


def compute_dtype(source: ModelSource) -> Any:
    """The type of matrix products, or None for the parameters' own. The GPU path is unmeasured: no GPU was at hand."""
    import torch

    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if source.compute == "bfloat16" or (source.compute == "auto" and on_gpu) else None
