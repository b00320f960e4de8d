"""Two audits compared on the same items and seeds: what one safeguard lets through and the other does not.

Items differ in difficulty, and more than safeguards do. Paired, item by item, that falls out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weakspot import crossed

EXACT = 14  # items, up to which all sign flips are tried
FLIPS = 9999  # drawn beyond that: the smallest p is 1 in 10,000

Table = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Comparison:
    """The first less the second.

    Attributes:
        difference: of the means, in units of the scores.
        low, high: its interval, for items and seeds as drawn from many.
        p: two-sided, of the sign flips: for other items, given these very runs. It says nothing about other seeds.
        discordant: items on which the two differ.
    """

    difference: float
    low: float
    high: float
    p: float
    discordant: int


def compare(first: Table, second: Table, confidence: float = 0.95) -> Comparison:
    """Compare two tables of scores of shape (seeds, items), item i and seed s being the same in both.

    The interval is that of crossed random effects on the differences, as in evals/statistics.py (Owen 2007; each mean square
    with a t quantile of its own, squared half-widths added: Howe 1974), and lies within the largest difference that two scores
    can have. Where all differences are alike it is as wide as if one item in the rule of three might differ.

    The test flips the signs of the items' differences, which is exact if neither of the two safeguards is worse on any item
    (Fisher 1935; Good 2005, ch. 3). Beyond EXACT items FLIPS are drawn, always the same, and what was seen counts as one of
    them (Phipson and Smyth 2010).

    Raises:
        ValueError: tables of different shape, without rows, with fewer than two items, or with what is no finite number.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 2 or a.shape != b.shape or a.size == 0 or a.shape[1] < 2:
        raise ValueError(f"expected two tables of one shape (seeds, items >= 2), got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite scores")
    table, most = a - b, max(1.0, float(np.abs(a).max()), float(np.abs(b).max()))
    mean, half = float(table.mean()), half_width(table, confidence)
    return Comparison(
        difference=mean,
        low=max(-most, mean - half),
        high=min(most, mean + half),
        p=sign_flips(table.mean(axis=0)),
        discordant=int((table != 0).any(axis=0).sum()),
    )


def half_width(table: np.ndarray, confidence: float) -> float:
    """Of the interval of the mean of differences with shape (seeds, items)."""
    return crossed.half_width(table, (1 + confidence) / 2)


def sign_flips(differences: np.ndarray) -> float:
    """The two-sided p of the sum of differences with shape (items,), under flips of their signs."""
    kept = differences[differences != 0]  # flipping a zero changes nothing
    if kept.size <= EXACT:
        signs = 1.0 - 2.0 * (np.arange(2**kept.size)[:, None] >> np.arange(kept.size) & 1)
        return float(np.mean(reaches(signs @ kept, kept)))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(FLIPS, kept.size))
    return float((1 + reaches(signs @ kept, kept).sum()) / (1 + FLIPS))


def reaches(sums: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """Which sums are as far from 0 as that of the differences; those equal but for rounding are."""
    return np.abs(sums) >= abs(float(differences.sum())) - 1e-9 * float(np.abs(differences).sum())


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p that one of two is right more often than the other, on the same items, asked once each.

    Of the items on which they differ each is right on one half, were they equally good: a binomial test (McNemar 1947; exact as
    in Fay 2010, "Two-sided exact tests"). For several seeds use `compare`: answers to one item are not independent.

    Raises:
        ValueError: not as many in the one as in the other, or none.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"expected two lists of one length, 1 or more, got {len(first)} and {len(second)}")
    only_first = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    differ, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(differ, k) for k in range(fewer + 1)) / 2**differ)
