"""The default searcher: known configurations, then a bandit over families with local search inside each.

The space is a tree: a family, then its knobs. A sampler that treats the family as one more categorical knob needs many trials
to learn that a branch does not pay; a search per family never learns it. Here a family is drawn with a weight that grows with
its best score and with how often it has lately beaten itself, and falls with what its trials cost the attacker. What a family
has reached says little about what it will reach (a weak spot can be narrow, and others can look better until it is found), and
a family that goes on rising deserves its turns: so the second factor counts as much as the first. These are the rising bandits
of Li et al. 2020, as weights instead of eliminations, because a plateau is often left again. Once something broke, the question
is no longer where, but how badly: then most draws go to the families that are nearly as good as the best.

Inside a family, known configurations come first, then random draws, then children of the elite: knobs of two parents, a few of
them moved. Most random draws have full length: a long attack is measured at every rung below its end, and the scheduler
cuts those that bring nothing.

Every so often a promising configuration is repeated on a fresh seed, so that one lucky run does not lead the search: a
configuration counts by the mean of its runs. And a trial that the scheduler stopped, the best of them, is now and then run to
its end: a cheap rung is evidence, not a sentence.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, ClassVar

from weakspot.knobs import Choice, Range, Space
from weakspot.search.objectives import MARGIN
from weakspot.search.searchers.base import Proposal, Searcher, Tried
from weakspot.search.searchers.memory import Known, Memory, Record, text
from weakspot.search.unit import draw, draw_one, moved
from weakspot.seeds import derive


class Adaptive(Searcher):
    """A bandit over families, evolution within them."""

    name: ClassVar[str] = "adaptive"
    summary: ClassVar[str] = "known configurations, a bandit over families, local search within each"
    paper: ClassVar[str] = "Li et al. 2020 (AAAI, rising bandits); Real et al. 2019 (arXiv:1802.01548, regularised evolution)"

    LATELY: ClassVar[int] = 12  # trials of a family over which its rise is counted
    GAIN: ClassVar[float] = 0.02  # by how much it must beat itself
    LEVEL: ClassVar[float] = 0.6  # by how much a best score must be behind to weigh a factor e less
    SHARP: ClassVar[float] = 0.1  # the same, in the share FOCUS of the draws once something broke
    FOCUS: ClassVar[float] = 0.6
    THRIFT: ClassVar[float] = 0.15  # power of the cost that a weight falls with
    FREE: ClassVar[float] = 0.02  # share of the dearest family's cost below which a family is no cheaper
    LEAST: ClassVar[float] = 0.02  # the rise that a family is always granted
    DRAWN: ClassVar[int] = 4  # configurations of a family before it has children
    FRESH: ClassVar[float] = 0.15  # share of random draws from then on
    LONG: ClassVar[float] = 0.7  # share of those that have full length
    EAGER: ClassVar[float] = 1.2  # how fast the chance to be a parent falls along the elite
    CROSSED: ClassVar[float] = 0.3  # share of knobs that come from the second parent
    MOVED: ClassVar[float] = 0.4  # share of knobs that are moved
    RENEWED: ClassVar[float] = 0.2  # share of those that are drawn anew; of a choice, all
    STEP: ClassVar[float] = 0.25  # first step of the others, on the unit interval
    SHRINK: ClassVar[float] = 8.0  # configurations of a family after which the step is 1/sqrt(2) of that
    REPEAT_EVERY: ClassVar[int] = 6
    DOUBT: ClassVar[float] = 1.0  # further repeats of the best for every factor of ten in configurations
    REVIVE_EVERY: ClassVar[int] = 9
    WINDOW: ClassVar[int] = 1000  # latest trials that are looked at where every proposal scores them anew

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.memory = Memory(self.objective, self.GAIN)

    def propose(self, history: Sequence[Tried], number: int) -> Proposal:
        if (start := self.start(number)) is not None:
            return start
        if len(self.objective.directions) > 1:
            memory = Memory(self.objective, self.GAIN, draw=number).absorb(history[-self.WINDOW :])
        else:
            memory = self.memory.absorb(history)
        rng = random.Random(derive(self.seed, "adaptive", number))
        if number % self.REPEAT_EVERY == self.REPEAT_EVERY - 1 and (again := self.repeat(memory)):
            return again
        if number % self.REVIVE_EVERY == self.REVIVE_EVERY - 1 and (back := memory.best_stopped()):
            return Proposal(back.family, back.config, "revive", back.number)
        family = self.choose_family(memory, rng)
        return self.configure(family, memory.families[family], rng)

    def repeat(self, memory: Memory) -> Proposal | None:
        """The best configuration that is not settled, on a fresh seed; None where the best three are.

        Two runs settle what does not break. The best of many that do is the luckier the more there are: it takes more.
        """
        more = math.floor(self.DOUBT * math.log10(1 + len(memory.known)))
        ready = (known for known in memory.best(3) if not known.stopped and known.score > 0)
        best = next((known for known in ready if known.runs < (2 + more if self.breaks(known.score) else 2)), None)
        return Proposal(best.family, best.config, "repeat", best.number) if best else None

    def breaks(self, score: float) -> bool:
        """Whether a score is more than a lucky run below the threshold."""
        return score >= self.objective.threshold + MARGIN

    def choose_family(self, memory: Memory, rng: random.Random) -> str:
        """A family, by weight. A trial under way counts as one that brought nothing: so workers do not all draw the same."""
        tried = {family: record for family, record in memory.families.items() if record.runs}
        top = max((r.best for r in tried.values()), default=0.0)
        middle = sum(r.best for r in tried.values()) / len(tried) if tried else 0.0  # expected of a family without a trial
        level = self.SHARP if self.breaks(top) and rng.random() < self.FOCUS else self.LEVEL
        price = {family: r.flops / r.runs for family, r in tried.items()}
        dear = max(price.values(), default=0.0)

        def weight(family: str) -> float:
            record = tried.get(family, Record(best=middle))
            lately = record.rises[-self.LATELY :]
            rise = self.LEAST + (1 + sum(lately)) / (1 + len(lately) + memory.pending.get(family, 0))
            cheap = ((1 + dear) / (1 + max(price.get(family, dear), self.FREE * dear))) ** self.THRIFT
            return rise * math.exp((record.best - top) / level) * cheap

        names = sorted(self.space.families)
        return rng.choices(names, [weight(name) for name in names])[0]

    def configure(self, family: str, record: Record, rng: random.Random) -> Proposal:
        """Knobs: a known configuration while there is one, then a random draw, then a child of the elite."""
        space = self.space.families[family]
        for strong in self.strong.get(family, ()):
            if text(family, strong.config) not in record.asked:
                return strong
        useful = record.elite[0].score > 0 if record.elite else False
        if not useful or len(record.elite) < self.DRAWN or rng.random() < self.FRESH:
            return Proposal(family, self.drawn(space, rng))
        return Proposal(family, self.child(space, record.elite, rng))

    def drawn(self, space: Space, rng: random.Random) -> dict[str, Any]:
        """Knobs at random, mostly at full length."""
        config, length = draw(space, rng), space.get("steps")
        if isinstance(length, Range) and rng.random() < self.LONG:
            config["steps"] = int(length.high)
        return config

    def child(self, space: Space, elite: Sequence[Known], rng: random.Random) -> dict[str, Any]:
        """Knobs of two parents, some of them moved, at least one."""
        parents = [elite[self.pick(elite, rng)].config for _ in range(2)]
        scale = self.STEP / math.sqrt(1 + len(elite) / self.SHRINK)
        sure = rng.choice(list(space))
        config = {}
        for knob, domain in space.items():
            value = parents[rng.random() < self.CROSSED][knob]
            if knob == sure or rng.random() < self.MOVED:
                if isinstance(domain, Choice) or rng.random() < self.RENEWED:
                    value = draw_one(domain, rng)
                else:
                    value = moved(domain, value, rng, scale)
            config[knob] = value
        return config

    def pick(self, elite: Sequence[Known], rng: random.Random) -> int:
        """The place of a parent: the best most often, never one that was worth nothing."""
        place = min(int(rng.expovariate(self.EAGER)), len(elite) - 1)
        return place if elite[place].score > 0 else 0
