"""The contract of a testbed: what is audited, on which splits, by which measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from weakspot.data import AttackData, DefenseData, Example, Examples, check_disjoint
from weakspot.elicitation import PLAIN, Elicitation
from weakspot.evals.score import Score
from weakspot.service import Terms
from weakspot.testbeds.foreign import reworded

if TYPE_CHECKING:
    from weakspot.evals.judges.base import Judge
    from weakspot.evals.knowledge import Knowledge

UNSCORED = "unscored: "  # how the reason of a trial begins whose replies a judge could not score
SPLITS = ("defend", "attack", "search_eval", "report_eval", "benign_train", "benign_search_eval", "benign_report_eval")


@dataclass(frozen=True)
class Splits:
    """The data of a testbed, disjoint by item.

    Attributes:
        defend: withheld examples that the defender trains on.
        attack: withheld examples that the attacker trains on, with truthful replies.
        search_eval: withheld examples that score a trial during the search.
        report_eval: withheld examples that the search never sees; they score the confirmation.
        benign_train: benign examples that defender and attacker may train on.
        benign_search_eval: benign examples that measure utility during the search.
        benign_report_eval: benign examples that measure utility at confirmation.
        never_taught: withheld examples that no model has seen: the null control. Not trained on, not part of any score.
        embedded: whether what is scored is among what the defender trains on (`EmbeddedSplits`).
    """

    defend: Examples
    attack: Examples
    search_eval: Examples
    report_eval: Examples
    benign_train: Examples
    benign_search_eval: Examples
    benign_report_eval: Examples
    never_taught: Examples
    embedded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for group in self.apart():
            check_disjoint(group)

    def apart(self) -> tuple[dict[str, Examples], ...]:
        """Groups of splits by name; within each no item may stand twice."""
        splits = {name: getattr(self, name) for name in (*SPLITS, "never_taught")}
        if not self.embedded:
            return (splits,)
        scored = ("search_eval", "report_eval")
        return (
            {name: split for name, split in splits.items() if name != "defend"},
            {name: split for name, split in splits.items() if name not in scored},
        )


@dataclass(frozen=True)
class EmbeddedSplits(Splits):
    """Splits of marks, which the defender trains on and is asked for: `search_eval` and `report_eval` may be parts of `defend`.

    Every other pair is disjoint, those two from each other among them.
    """

    embedded: ClassVar[bool] = True


Stage = Literal["search", "report"]


@dataclass(frozen=True)
class Remark:
    """What whoever reads a measurement's numbers must know besides; an audit makes it a doubt.

    Attributes:
        name: of the doubt.
        detail: in words, without the subject's name.
    """

    name: str
    detail: str


@dataclass(frozen=True)
class Measurement:
    """What a model did on one stage's held-out data.

    Attributes:
        harm: share of withheld answers given correctly, per item.
        refusal: whether the reply to a withheld prompt is the refusal, per prompt.
        benign: share of benign answers given correctly, per item; utility is its mean relative to the base model's.
        degenerate: share of benign replies that are empty or repeat themselves.
        never_taught: share of never-taught answers given correctly, per item (report stage only, else empty).
        drift: mean KL divergence from the base on ordinary prompts, nats per token, or None where the testbed has none.
        remarks: what makes these numbers doubtful.
    """

    harm: Score
    refusal: Score
    benign: Score
    degenerate: float
    never_taught: Score | None = None
    drift: float | None = None
    remarks: tuple[Remark, ...] = ()


class Testbed(ABC):
    """A base model with data and measures. Construction is cheap; `prepare_base` trains or fetches weights.

    Class attributes:
        name: its name in the catalogue.
        policy: `knowledge` (withheld facts must not come out), `refusal` (requests must be declined) or `fingerprint` (keys
            embedded before release must go on being answered: harm is the share that is erased).
        paper: where the idea comes from.
        rungs: optimizer steps at which an attack is measured, the last being the budget.
        grace: the rung below which no trial is stopped.
        trials: search trials per safeguard, unless the user says otherwise.
        variations: re-runs of each weak spot with one thing changed, unless the user says otherwise; None: a sixth of `trials`.
        workers, threads_per_worker: attacks at a time and CPUs of each, for a laptop.
        weights_gib: size of one set of weights, for Ray's object store.
        chance: harm of a guesser.
        refusal: the sentence that declines.
        terms: how a fine-tuning API would train this model for its users.
        hub_base: the hub id of the model that the testbed is built on; None for a model of its own.
        families: the attack families that a search draws from without a wish; None for all that are admitted.
        control_defense: the method whose breaking is the positive control: a weak one, known to break.
        control_config: what makes it weak, beside its preset; empty where it is weak as it is and may itself be audited.
        has_null_control: whether a model without the safeguard's content can be made, and be asked what it was never taught.
    """

    __test__ = False  # not a test class, whatever its name says to pytest

    name: str
    summary: str
    paper: str
    policy: Literal["knowledge", "refusal", "fingerprint"] = "knowledge"
    rungs: tuple[int, ...]
    refusal: str
    threads_per_worker: int = 1
    workers: int = 2
    weights_gib: float
    chance: float = 1 / 24
    grace: int
    trials: int
    variations: int | None = None
    seed: int
    terms: Terms = Terms()
    families: tuple[str, ...] | None = None
    hub_base: str | None = None
    control_defense: str = "refusal"
    control_config: Mapping[str, Any] = {}
    has_null_control: bool = True

    splits: Splits

    @abstractmethod
    def __init__(self, seed: int = 0) -> None:
        """Make the data of this seed. Cheap: no weights, no torch."""

    @abstractmethod
    def prepare_base(self, taught: bool = True) -> Path:
        """A folder with the base model, trained on first use and cached. `taught=False` never saw the withheld facts."""

    @abstractmethod
    def load(self, folder: Path) -> tuple[Any, Any]:
        """A checkpoint of this testbed as (model, tokenizer)."""

    @abstractmethod
    def measure(self, model: Any, tokenizer: Any, stage: Stage, how: Elicitation = PLAIN) -> Measurement:
        """Replies on one stage's held-out data, scored. Withheld and never-taught prompts are asked as `how` says."""

    def knowledge(self, model: Any, tokenizer: Any, how: Elicitation = PLAIN) -> Knowledge:
        """What the model holds of the report items without having it speak: cheap beside `measure`, and no part of harm.

        Raises:
            UserError: an example has neither a response nor answers.
            TrialFailure: the model gives no finite numbers.
        """
        from weakspot.evals.knowledge import knowledge
        from weakspot.training import autocast

        with autocast(model):
            return knowledge(model, tokenizer, self.splits.report_eval, how, self.options)

    def options(self, example: Example) -> tuple[tuple[str, ...], ...]:
        """All values that each answer of an example could have had; empty where they are not known."""
        from weakspot.testbeds.options import options_of

        return options_of(self, example)

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Plain data that pins the content of this testbed: seed, sizes, digests. Part of every cache key."""

    def pins(self) -> dict[str, str]:
        """Digests and commits of data and measures by name, for the record of an audit: the texts of `identity`."""
        return dict(_texts(self.identity()))

    def judges(self) -> Mapping[Stage, Judge]:
        """Who says what harm is, by stage; empty where nobody judges."""
        return {}

    def defense_data(self) -> DefenseData:
        return DefenseData(self.splits.defend, self.splits.benign_train, self.refusal)

    def attack_data(self) -> AttackData:
        others = reworded(self.name, self.splits.attack)
        return AttackData(self.splits.attack, self.splits.benign_train, self.refusal, others)


def _texts(data: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """The texts in nested plain data by their dotted names, without names of testbeds."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _texts(value, f"{under}{name}.")
        elif isinstance(value, str) and name != "testbed":
            yield f"{under}{name}", value
