"""A small forest of randomised regression trees, and how much it loses when one of its inputs is shuffled.

Permutation importance on the rows that a tree did not see (Breiman, Machine Learning 45:5, 2001, doi:10.1023/A:1010933404324);
a split tries one random threshold an input and takes the best (Geurts et al., Machine Learning 63:3, 2006,
doi:10.1007/s10994-006-6226-1). Written here because a report must not need scikit-learn for a few hundred rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

TREES = 50
LEAF = 3  # least rows of a leaf
SHUFFLES = 8


@dataclass(frozen=True)
class Importance:
    """What the forest says.

    Attributes:
        explained: share of the variance of unseen rows that it explains (1 - squared error / variance); below 0 it is worse
            than the mean.
        losses: a row an input, a column a shuffle: how far the share falls when that input is shuffled.
    """

    explained: float
    losses: tuple[tuple[float, ...], ...]


def importance(x_NF: NDArray[Any], y_N: NDArray[Any], words_F: list[bool], seed: int) -> Importance:
    """Fit a forest and shuffle one input at a time.

    Args:
        x_NF: inputs; a column of words holds their numbers 0, 1, ..., which each tree puts into an order of its own.
        y_N: what is to be explained.
        words_F: which columns are words.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    count, width = x_NF.shape
    variance = float(np.var(y_N))
    if variance == 0:
        return Importance(0.0, tuple((0.0,) * SHUFFLES for _ in range(width)))
    orders = np.stack([rng.permutation(count) for _ in range(SHUFFLES)])
    total_N, seen_N = np.zeros(count), np.zeros(count)
    shuffled_FSN = np.zeros((width, SHUFFLES, count))
    for _ in range(TREES):
        drawn = rng.integers(0, count, count)
        out = np.setdiff1d(np.arange(count), drawn)
        mixed_NF = _reordered(x_NF, words_F, rng)
        tree = _grow(mixed_NF[drawn], y_N[drawn], rng)
        seen_N[out] += 1
        total_N[out] += _predict(tree, mixed_NF[out])
        for feature in range(width):
            changed = np.repeat(mixed_NF[out], SHUFFLES, axis=0)
            changed[:, feature] = mixed_NF[orders[:, out].T.ravel(), feature]
            shuffled_FSN[feature][:, out] += _predict(tree, changed).reshape(len(out), SHUFFLES).T
    asked = seen_N > 0
    plain = _explained(total_N[asked] / seen_N[asked], y_N[asked])
    losses = [[plain - _explained(row[asked] / seen_N[asked], y_N[asked]) for row in rows] for rows in shuffled_FSN]
    return Importance(plain, tuple(tuple(row) for row in losses))


def _explained(told: NDArray[Any], true: NDArray[Any]) -> float:
    spread = float(((true - true.mean()) ** 2).mean())
    return 1 - float(((told - true) ** 2).mean()) / spread if spread else 0.0


def _reordered(x_NF: NDArray[Any], words_F: list[bool], rng: Any) -> NDArray[Any]:
    """The rows with the words of each column in a random order, so that a threshold parts any words from any others."""
    mixed = x_NF.copy()
    for feature, is_word in enumerate(words_F):
        if is_word:
            mixed[:, feature] = rng.permutation(int(x_NF[:, feature].max()) + 1)[x_NF[:, feature].astype(int)]
    return mixed


def _grow(x_NF: NDArray[Any], y_N: NDArray[Any], rng: Any) -> NDArray[Any]:
    """A tree as rows (feature or -1, threshold, left, right, value); children come after their parent."""
    import numpy as np

    nodes: list[list[float]] = []
    pending = [(np.arange(len(y_N)), -1, 0)]
    while pending:
        rows, parent, side = pending.pop()
        if parent >= 0:
            nodes[parent][2 + side] = len(nodes)
        here, target = x_NF[rows], y_N[rows]
        nodes.append([-1.0, 0.0, 0.0, 0.0, float(target.mean())])
        if len(rows) < 2 * LEAF or np.ptp(target) == 0:
            continue
        low_F, high_F = here.min(axis=0), here.max(axis=0)
        cut_F = low_F + (high_F - low_F) * rng.random(len(low_F))
        left_NF = here <= cut_F
        size_F = left_NF.sum(axis=0)
        usable_F = (size_F >= LEAF) & (len(rows) - size_F >= LEAF)
        if not usable_F.any():
            continue
        sum_F, total = target @ left_NF, target.sum()
        gain_F = np.where(
            usable_F, sum_F**2 / np.maximum(size_F, 1) + (total - sum_F) ** 2 / np.maximum(len(rows) - size_F, 1), -1
        )
        best = int(gain_F.argmax())
        nodes[-1][:2] = [float(best), float(cut_F[best])]
        at, goes_left = len(nodes) - 1, left_NF[:, best]
        pending += [(rows[~goes_left], at, 1), (rows[goes_left], at, 0)]
    return np.array(nodes)


def _predict(tree: NDArray[Any], x_NF: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    at = np.zeros(len(x_NF), dtype=int)
    every = np.arange(len(x_NF))
    while True:
        feature = tree[at, 0].astype(int)
        inner = feature >= 0
        if not inner.any():
            return tree[at, 4]
        goes_left = x_NF[every, np.maximum(feature, 0)] <= tree[at, 1]
        at = np.where(inner, np.where(goes_left, tree[at, 2], tree[at, 3]).astype(int), at)
