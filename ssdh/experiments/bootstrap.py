"""Is a difference of two mAPs more than noise? The paired bootstrap over queries.

Both experiments answer the same queries, so what is resampled is each query's difference of average precision: hard
queries are hard for both, and pairing takes that out. It tells how far the difference depends on which queries were
drawn; training with another seed is another source of noise, seen by comparing several seeds.

Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13 (percentile intervals).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_DRAWS = 4_000_000


@dataclass(frozen=True)
class PairedDifference:
    """Means over queries, their difference second − first, and its bootstrap interval [low, high]."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    num_queries: int
    confidence: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """The mean of second − first over queries, with its percentile interval over resampled queries.

    first, second: (q,) average precision of the same queries in the same order; confidence: of the interval, between 0
    and 1. Raises ValueError where the shapes differ, there is no query, or a value is not finite.

    >>> paired_bootstrap([0.25, 0.5, 0.75], [0.25, 0.5, 0.75]).beyond_noise
    False
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"first and second must be (q,) with q of at least 1, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("first and second must hold finite numbers")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence must be in (0, 1) and resamples at least 1, got {confidence} and {resamples}")
    difference = b - a
    means = _resampled_means(difference, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        num_queries=len(a),
        confidence=confidence,
    )


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of `resamples` draws with replacement of as many values as there are; (resamples,)."""
    means = np.empty(resamples)
    step = max(1, BLOCK_DRAWS // len(values))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        means[start : start + count] = values[rng.integers(0, len(values), (count, len(values)))].mean(axis=1)
    return means


def verdict(result: PairedDifference, first: str, second: str, metric: str = "mAP") -> str:
    """The result in words, two sentences.

    first, second: names of the two experiments; metric: what the means are called.
    """
    percent = f"{100 * result.confidence:g}%"
    interval = f"{percent} interval {result.low:+.4f} to {result.high:+.4f}"
    numbers = f"{metric} {result.first:.4f} for {first}, {result.second:.4f} for {second}, over the same {{}} queries"
    lines = [numbers.format(result.num_queries) + "."]
    if result.low == result.high == 0:
        lines.append("Every query has the same average precision in both: there is no difference.")
    elif result.beyond_noise:
        better, worse = (second, first) if result.difference > 0 else (first, second)
        lines.append(
            f"{better} is better than {worse} by {abs(result.difference):.4f} ({interval} for {second} − {first}): "
            "more than the noise of which queries were drawn."
        )
    else:
        lines.append(
            f"The difference {second} − {first} of {result.difference:+.4f} ({interval}) is no more than the noise of "
            "which queries were drawn: 0 lies inside."
        )
    return "\n".join(lines)
