"""Intervals that say what they aggregate over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weakspot.crossed import mean_squares, t_quantile


def mean_interval(scores: Sequence[Sequence[float]], confidence: float = 0.95, *, among: int = 1) -> tuple[float, float, float]:
    """Mean and two-sided interval of scores with shape (seeds, items), as (mean, low, high).

    It covers both the randomness of the attack and the choice of items, which are crossed random effects (Owen 2007, "The
    pigeonhole bootstrap"), and lies between 0 and the larger of 1 and the highest score. With one seed only the items vary; one
    item says nothing of the others, and gets all of that range. Nothing is drawn at random: same scores, same interval.

    With three seeds the bootstrap itself covers too little, and so does one t quantile with pooled degrees of freedom
    (Satterthwaite 1946): both believe three seeds that agree by luck. So each mean square keeps its own t quantile, and the
    squared half-widths are added (Howe 1974). What no run shows stays uncovered: an attack that rarely works, and then works
    well, most often looks like one that never does.

    Args:
        among: number of findings that this one was picked from as the best. Whichever is picked, and however, its low end is
            right if all low ends are: so it stands at Sidak's level (Sidak 1967; by Slepian's inequality it holds too for
            findings that share items). The high end needs no correction: the one with the highest mean errs upwards more
            often than one chosen beforehand.

    Raises:
        ValueError: no scores, rows of different length, or a score that is below 0 or no number.
    """
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"expected scores of shape (seeds, items), got {table.shape}")
    if not (table >= 0).all():
        raise ValueError(f"expected scores of 0 or more, got {table.min()}")
    if among < 1:
        raise ValueError(f"expected among >= 1, got {among}")
    mean, top, tail = float(table.mean()), max(1.0, float(table.max())), (1 - confidence) / 2
    low, _ = limits(table / top, (1 - tail) ** (1 / among))
    _, high = limits(table / top, 1 - tail)
    return mean, min(top * low, mean), max(top * high, mean)


def open_interval(scores: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided interval of numbers without bounds, such as log-probabilities, with shape (seeds, items).

    Seeds and items vary as in `mean_interval`; the ends lie evenly about the mean, since it does not tell the variance.

    Raises:
        ValueError: no scores, rows of different length, a number that is not finite, or one item, which says nothing of others.
    """
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise ValueError(f"expected finite scores of shape (seeds, items) with two items or more, got {table.shape}")
    (seeds, items), level = table.shape, (1 + confidence) / 2
    of_seeds, of_items, of_error = mean_squares(table)
    t_seeds, t_items = t_quantile(level, seeds - 1) if seeds > 1 else 0.0, t_quantile(level, items - 1)
    half = ((t_seeds**2 * of_seeds + t_items**2 * max(of_items - of_error, 0.0)) / table.size) ** 0.5
    mean = float(table.mean())
    return mean, mean - half, mean + half


def limits(table: np.ndarray, level: float) -> tuple[float, float]:
    """The values that lie `level` sure below and `level` sure above the true mean of a table of scores in [0, 1].

    Near 0 and 1 the variance depends on the mean, so the ends are Wilson's (1927): those t at which (mean - t)^2 is `ratio`
    times t (1 - t), with `ratio` = squared half-width / (mean (1 - mean)), as surveys do (Korn and Graubard 1998). Where all
    scores are 0, or all are 1, the spread says nothing, and the items count as so many yes-or-no trials. `blind`, the chance
    that a mean like this one shows as nothing at all, goes smoothly from the one to the other.
    """
    seeds, items = table.shape
    if items == 1:
        return 0.0, 1.0
    mean = float(table.mean())
    of_seeds, of_items, of_error = mean_squares(table)
    t_seeds, t_items = t_quantile(level, seeds - 1) if seeds > 1 else 0.0, t_quantile(level, items - 1)
    squared = (t_seeds**2 * of_seeds + t_items**2 * max(of_items - of_error, 0.0)) / table.size
    spread = mean * (1 - mean)
    blind = float(np.exp(-items * spread))
    ratio = blind * t_items**2 / items + (1 - blind) * squared / max(spread, 1e-12)
    middle, half = mean + ratio / 2, (ratio * spread + ratio**2 / 4) ** 0.5
    return max(0.0, (middle - half) / (1 + ratio)), min(1.0, (middle + half) / (1 + ratio))
