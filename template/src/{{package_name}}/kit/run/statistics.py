"""Statistics over a few seeds."""

import numpy as np
from numpy.typing import ArrayLike


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean without the lowest and the highest quarter, each rounded down.

    Args:
      scores: any shape; all numbers count alike, as those of (runs, tasks) do in rliable.
    """
    return float(_trimmed_mean(np.ravel(scores)))


def bootstrap_interval(
    scores: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """An interval for the interquartile mean: stratified bootstrap, percentile method.

    Runs are drawn again with replacement, for each task by itself. With few runs the interval is
    too narrow: that of 8 normally distributed scores holds the true value in about 9 of 10 cases.

    Args:
      scores: (runs,) of one task, or (runs, tasks).
      confidence: the share of cases in which the interval is meant to hold the true value.

    Returns:
      The lower and the upper end.
    """
    table = np.asarray(scores, float)
    table = table.reshape(len(table), -1)
    draws = np.random.default_rng(seed).integers(len(table), size=(resamples, *table.shape))
    means = _trimmed_mean(table[draws, np.arange(table.shape[1])].reshape(resamples, -1))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _trimmed_mean(scores: np.ndarray) -> np.ndarray:
    """Interquartile means over the last axis."""
    ordered = np.sort(scores, axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)
