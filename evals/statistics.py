"""Intervals that say what they aggregate over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def mean_interval(scores: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided bootstrap interval of scores with shape (seeds, items), as (mean, low, high).

    Seeds and items are resampled together (the pigeonhole bootstrap of Owen 2007, for crossed random effects), so the interval
    covers both the randomness of the attack and the choice of items. The resampling seed is fixed: same scores, same interval.
    With one seed only the items vary.

    Raises:
        ValueError: no scores, or rows of different length.
    """
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"expected scores of shape (seeds, items), got {table.shape}")
    seeds, items = table.shape
    rng = np.random.default_rng(0)
    picked_seeds = rng.integers(seeds, size=(RESAMPLES, seeds))
    picked_items = rng.integers(items, size=(RESAMPLES, items))
    means = table[picked_seeds[:, :, None], picked_items[:, None, :]].mean(axis=(1, 2))
    tail = (1 - confidence) / 2
    mean = float(table.mean())
    low, high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
    return mean, min(low, mean), max(high, mean)
