"""What an audit could have seen: the smallest harm that it would have called a break, and what a count of zero rules out.

An audit that finds nothing says only that harm is below what it could have seen. That depends on the number of items, on the
number of seeds and on how far scores lie apart, and on nothing that was found.

Confirmations of a known harm are drawn and judged as the verdict judges them, by the interval of evals/statistics.py. Scores
lie in [0, 1], so their spread shrinks towards the ends as sqrt(4 h (1 - h)), h being harm, and is given at h = 1/2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, fsum, lgamma, log, log1p

import numpy as np

from weakspot.evals.statistics import mean_squares, t_quantile

DRAWS, CELLS = 1000, 1_000_000  # confirmations drawn, and scores at most: of large confirmations fewer are drawn
LEAST = 100  # but not fewer
HALVINGS = 9  # of half the range of harm: to 0.001, less than the draws leave open
TYPICAL = 0.05  # deviation between seeds, at least: three that agree better may do so by luck
SHOWN = 0.05  # sum of 4 mean (1 - mean): less, and tables show nothing of how scores vary


@dataclass(frozen=True)
class Spread:
    """Standard deviations at a harm of one half, in units of harm, each in [0, 0.5].

    Attributes:
        seeds: of a run's harm, between runs.
        items: of an item's score, between items; 0.5 is all or nothing.
        left: of one score about what its run and its item make it.
    """

    seeds: float = TYPICAL
    items: float = 0.5
    left: float = 0.0


@dataclass(frozen=True)
class Design:
    """A confirmation.

    Attributes:
        items: scored in each run, at least 2.
        seeds: runs.
        spread: how far scores lie apart.
        threshold: harm from which a safeguard counts as broken, in (0, 1).
        among: confirmed configurations that the best is picked from.

    Raises:
        ValueError: a value out of its range.
    """

    items: int
    seeds: int
    spread: Spread = Spread()
    threshold: float = 0.5
    among: int = 1

    def __post_init__(self) -> None:
        if self.items < 2 or self.seeds < 1 or self.among < 1:
            raise ValueError(f"expected items >= 2, seeds >= 1 and among >= 1, got {self.items}, {self.seeds}, {self.among}")
        s = self.spread
        if not all(0 <= deviation <= 0.5 for deviation in (s.seeds, s.items, s.left)):
            raise ValueError(f"expected deviations in [0, 0.5], got {s}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"expected a threshold in (0, 1), got {self.threshold}")


@lru_cache
def smallest_seen(design: Design, chance: float = 0.8) -> float | None:
    """The smallest true harm that is called a break with this chance; None if not even 1 would be.

    A break is a mean whose interval lies at or above the threshold as a whole (search/confirm.py); its utility is not in doubt
    here, and the search is taken to have found it.
    """
    return _first(lambda harm: called(design, harm, "break") >= chance, design.threshold, 1.0)


@lru_cache
def largest_cleared(design: Design, chance: float = 0.8) -> float | None:
    """The largest true harm whose 95 % upper bound excludes the threshold with this chance; None if not even that of 0 does.

    Between this and `smallest_seen` the likely answer is that the interval spans the threshold: no verdict.
    """
    found = _first(lambda below: called(design, 1.0 - below, "cleared") >= chance, 1.0 - design.threshold, 1.0)
    return None if found is None else 1.0 - found


def called(design: Design, harm: float, word: str) -> float:
    """The chance that a true harm is called a `break` (the whole interval at or above the threshold) or is `cleared` (the
    whole interval below it)."""
    mean, ratio = half_widths(drawn(design, harm), 0.975 ** (1 / design.among) if word == "break" else 0.975)
    t = design.threshold
    beyond = (mean - t) ** 2 >= ratio * t * (1 - t)  # the ends are the two t at which this is an equation
    return float(np.mean(beyond & (mean >= t if word == "break" else mean < t)))


def drawn(design: Design, harm: float) -> np.ndarray:
    """Confirmations of a true harm, the same for the same arguments: scores of shape (draws, seeds, items).

    Runs and items are beta distributed about it. A run below the harm scales all items down, one above it scales down what they
    lack. What is left is the luck of a number of yes-or-no answers an item.
    """
    count = max(LEAST, min(DRAWS, CELLS // (design.seeds * design.items)))
    rng, spread = np.random.default_rng(0), design.spread
    if not 0 < harm < 1:
        return np.full((count, design.seeds, design.items), harm)
    run = _beta(rng, harm, spread.seeds, (count, design.seeds, 1))
    kept = float(np.minimum(run / harm, (1 - run) / (1 - harm)).mean())  # of how items differ, once runs have scaled them
    item = _beta(rng, harm, min(0.5, spread.items / max(kept, 1e-9)), (count, 1, design.items))  # runs of 0 or 1 keep nothing
    scores = np.where(run < harm, item * run / harm, 1 - (1 - item) * (1 - run) / (1 - harm))
    if spread.left < 1e-4:  # next to nothing is left, and so many answers as that would take no generator draws
        return scores
    answers = max(1, round((1 - 4 * spread.items**2) / (4 * spread.left**2)))  # harm (1 - harm) is all the variance there is
    return rng.binomial(answers, np.clip(scores, 0, 1)) / answers


def half_widths(scores: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Means of scores with shape (draws, seeds, items), and `ratio` of `statistics.limits` at this level: both (draws,)."""
    _, seeds, items = scores.shape
    mean = scores.mean(axis=(1, 2))
    by_seed, by_item = scores.mean(axis=2) - mean[:, None], scores.mean(axis=1) - mean[:, None]
    left = scores - mean[:, None, None] - by_seed[:, :, None] - by_item[:, None, :]
    freedom = max(1, seeds - 1)
    of_seeds, of_items = items * (by_seed**2).sum(1) / freedom, seeds * (by_item**2).sum(1) / (items - 1)
    of_error = (left**2).sum((1, 2)) / (freedom * (items - 1))
    t_seeds, t_items = t_quantile(level, seeds - 1) if seeds > 1 else 0.0, t_quantile(level, items - 1)
    squared = (t_seeds**2 * of_seeds + t_items**2 * np.maximum(of_items - of_error, 0.0)) / (seeds * items)
    variance = mean * (1 - mean)
    blind = np.exp(-items * variance)
    return mean, blind * t_items**2 / items + (1 - blind) * squared / np.maximum(variance, 1e-12)


def spread_of(tables: Sequence[Sequence[Sequence[float]]]) -> Spread:
    """What tables of shape (seeds, items) show together, each counting by how much it can show: 4 mean (1 - mean).

    Components of the two-way analysis of variance (Searle, Casella and McCulloch 1992, "Variance Components", ch. 4). That of
    seeds is not believed below TYPICAL. Tables of (almost) nothing but 0 or 1 show nothing: the default.
    """
    parts, scale = np.zeros(3), 0.0
    for table in (np.clip(np.asarray(t, dtype=float), 0.0, 1.0) for t in tables):
        seeds, items = table.shape
        if items < 2:
            continue
        of_seeds, of_items, left = mean_squares(table)
        parts += [max(0.0, of_seeds - left) / items if seeds > 1 else 0.0, max(0.0, of_items - left) / seeds, left]
        scale += 4 * float(table.mean()) * (1 - float(table.mean()))
    if scale < SHOWN:
        return Spread()
    shown = [min(0.5, float(part)) for part in (parts / scale) ** 0.5]
    return Spread(max(TYPICAL, shown[0]), shown[1], shown[2])


def upper_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound on a probability after so many successes in independent trials.

    That of Clopper and Pearson (1934), never too low: the probability at which so few successes or fewer have a chance of
    1 - confidence. After none in n trials it is 1 - (1 - confidence)^(1 / n), about 3 / n at 95 % ("the rule of three": Hanley
    and Lippman-Hand 1983).

    Raises:
        ValueError: counts or a confidence that mean nothing.
    """
    if not (0 <= successes <= trials and trials > 0 and 0 < confidence < 1):
        raise ValueError(f"expected 0 <= successes <= trials and confidence in (0, 1), got {successes}, {trials}, {confidence}")
    if successes == trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):  # to the last digit of a float
        middle = (low + high) / 2
        low, high = (low, middle) if at_most(successes, trials, middle) < 1 - confidence else (middle, high)
    return high


def at_most(successes: int, trials: int, probability: float) -> float:
    """The chance of so many successes or fewer."""
    if probability <= 0 or probability >= 1:
        return float(probability <= 0 or successes == trials)
    ways = (lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1) for k in range(successes + 1))
    logs = (way + k * log(probability) + (trials - k) * log1p(-probability) for k, way in enumerate(ways))
    return min(1.0, fsum(map(exp, logs)))


def _beta(rng: np.random.Generator, mean: float, deviation: float, shape: tuple[int, ...]) -> np.ndarray:
    """Draws with this mean in (0, 1), whose deviation would be `deviation` were the mean one half."""
    if deviation <= 0:
        return np.full(shape, mean)
    both = 0.25 / deviation**2 - 1
    return (rng.random(shape) < mean).astype(float) if both < 1e-3 else rng.beta(mean * both, (1 - mean) * both, shape)


def _first(true_from: Callable[[float], bool], low: float, high: float) -> float | None:
    """Where a predicate that is false below and true above some number of [low, high] turns true; None if it never does."""
    if not true_from(high):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if true_from(middle) else (middle, high)
    return high
