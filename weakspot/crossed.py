"""Means of tables whose rows are seeds and whose columns are items: what both add to the uncertainty, and that of a difference.

Seeds and items are crossed random effects (Owen 2007, "The pigeonhole bootstrap"): each seed meets each item.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ANGLES = np.linspace(0, np.pi / 2, 20001)  # grid for the t distribution: its quantiles are right to six digits
TAIL = 0.025  # on each side of a 95 % interval

Triple = tuple[float, float, float]


def mean_squares(table: np.ndarray) -> Triple:
    """Those of seeds, of items and of what is left, in the two-way analysis of variance; with one seed only that of items."""
    seeds, items = table.shape
    by_seed = table.mean(axis=1, keepdims=True) - table.mean()
    by_item = table.mean(axis=0, keepdims=True) - table.mean()
    left = table - table.mean() - by_seed - by_item
    freedom = max(1, seeds - 1)
    of_seeds, of_items = items * (by_seed**2).sum() / freedom, seeds * (by_item**2).sum() / (items - 1)
    return float(of_seeds), float(of_items), float((left**2).sum() / (freedom * (items - 1)))


@lru_cache
def t_quantile(level: float, freedom: int) -> float:
    """Student's t at a level of at least a half: sqrt(freedom) tan(angle), with cos^(freedom - 1) as the angle's density."""
    density = np.cos(ANGLES) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(freedom**0.5 * np.tan(np.interp(2 * level - 1, below / below[-1], ANGLES)))


def half_width(table: np.ndarray, level: float) -> float:
    """From the mean of differences with shape (seeds, items) to the end that lies `level` sure beyond the true one.

    Each mean square has a t quantile of its own, and squared half-widths are added (Howe 1974). Where all differences are
    alike, most often 0, it is as wide as if one item in the rule of three might differ.
    """
    seeds, items = table.shape
    if np.ptp(table) == 0:
        return 1 - (1 - level) ** (1 / items)
    of_seeds, of_items, of_error = mean_squares(table)
    t_seeds, t_items = t_quantile(level, seeds - 1) if seeds > 1 else 0.0, t_quantile(level, items - 1)
    return ((t_seeds**2 * of_seeds + t_items**2 * max(of_items - of_error, 0.0)) / table.size) ** 0.5


def paired_difference(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], among: tuple[int, int] = (1, 1)
) -> Triple:
    """Mean difference of two tables of shares, with its 95 % interval: (first less second, low, high).

    Item i and seed s are the same in both, so that how hard an item is falls out.

    Args:
        among: of how many findings each table is the best. The best of many is too good, which lifts the difference for the
            first and lowers it for the second: so the low end stands at the first's Sidak level, the high end at the second's
            (as in evals/statistics.py).
    """
    table = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    mean = float(table.mean())
    below, above = (half_width(table, (1 - TAIL) ** (1 / count)) for count in among)
    return mean, max(-1.0, mean - below), min(1.0, mean + above)


def unpaired_difference(first: Triple, second: Triple) -> Triple:
    """Difference of two independent means of which each has its 95 % interval: (first less second, low, high).

    The distances from each mean to its own ends are added in squares (Zou and Donner 2008, "Construction of confidence limits
    about effect measures"), which keeps intervals lopsided where they are. Where the two share items, and so rise and fall
    together, it is wider than it need be.

    Args:
        first, second: as (mean, low, high).
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    below = ((a - a_low) ** 2 + (b_high - b) ** 2) ** 0.5
    above = ((a_high - a) ** 2 + (b - b_low) ** 2) ** 0.5
    return a - b, max(-1.0, a - b - below), min(1.0, a - b + above)
