"""Is a difference of two mAPs more than noise? The paired bootstrap over queries, and Student's interval over seeds.

Both experiments answer the same queries, so what is resampled is each query's difference of average precision: hard
queries are hard for both, and pairing takes that out. It tells how far the difference depends on which queries were
drawn; training with another seed is another source of noise, seen by comparing several seeds.

Queries of one seed share its training, so that all seeds' queries as one draw say too little, and two to five seeds are
too few to resample (docs/decisions.md has the numbers). Seeds' mean differences are independent of each other: they
have Student's interval.

Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13 (percentile intervals). Student, *The
Probable Error of a Mean*, Biometrika 6, 1908.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

BLOCK_DRAWS = 4_000_000


@dataclass(frozen=True)
class PairedDifference:
    """Means over queries, or over seeds of these; their difference second − first, and its interval [low, high].

    num_queries: of all seeds together.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    num_queries: int
    confidence: float
    num_seeds: int = 1

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


def over_seeds(
    rows: Sequence[ArrayLike], first: Sequence[ArrayLike], second: Sequence[ArrayLike], *, confidence: float = 0.95
) -> PairedDifference:
    """The mean over seeds of the mean of second − first over queries, with an interval for noise of seeds and queries.

    rows: of each seed, (q,) which queries it has; first, second: (q,) their average precisions. The interval is
    m ± t·s/√S by Student's t of S − 1 degrees of freedom, s the deviation of the S seeds' means: each seed draws its
    own queries, weights and batches, so that their spread holds the noise of all. Where all seeds answer the same
    queries, as some protocols list them, it holds none of theirs, and half a normal interval of the mean over queries
    is added in squares. Raises ValueError for fewer than two seeds.

    >>> over_seeds([[1, 2], [3, 4]], [[0.5, 0.5], [0.5, 0.5]], [[0.5, 1.0], [0.75, 0.75]]).difference
    0.25
    """
    if len(rows) < 2:
        raise ValueError(f"needs at least two seeds, got {len(rows)}")
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(first, second, strict=True)]
    means = np.array([[a.mean(), b.mean()] for a, b in pairs])  # (S, 2)
    a, b = means.mean(axis=0)
    level = (1 + confidence) / 2
    half = student_half(means[:, 1] - means[:, 0], confidence)
    orders = [np.argsort(each) for each in rows]
    queries = [np.asarray(each)[order] for each, order in zip(rows, orders, strict=True)]
    if all(np.array_equal(each, queries[0]) for each in queries):
        by_query = np.mean([(b - a)[order] for (a, b), order in zip(pairs, orders, strict=True)], axis=0)
        half = np.hypot(half, ndtri(level) * by_query.std() / np.sqrt(len(by_query)))
    return PairedDifference(
        first=float(a),
        second=float(b),
        difference=float(b - a),
        low=float(b - a - half),
        high=float(b - a + half),
        num_queries=sum(map(len, queries)),
        confidence=confidence,
        num_seeds=len(means),
    )


def student_half(differences: ArrayLike, confidence: float) -> float:
    """Half the width of Student's interval of a mean, from two or more independent differences (S,): t·s/√S."""
    values = np.asarray(differences, np.float64)
    quantile = stdtrit(len(values) - 1, (1 + confidence) / 2)
    return float(quantile * np.std(values, ddof=1) / np.sqrt(len(values)))


def verdict(result: PairedDifference, first: str, second: str, metric: str = "mAP") -> str:
    """The result in words, two sentences.

    first, second: names of the two experiments; metric: what the means are called.
    """
    interval = f"{100 * result.confidence:g}% interval {result.low:+.4f} to {result.high:+.4f}"
    several = result.num_seeds > 1
    over = f"the means of {result.num_seeds} seeds" if several else f"over the same {result.num_queries} queries"
    noise = "of seeds and queries" if several else "of which queries were drawn"
    lines = [f"{metric} {result.first:.4f} for {first}, {result.second:.4f} for {second}, {over}."]
    if result.low == result.high == 0:
        lines.append("Every query has the same average precision in both: there is no difference.")
    elif result.beyond_noise:
        better, worse = (second, first) if result.difference > 0 else (first, second)
        lines.append(
            f"{better} is better than {worse} by {abs(result.difference):.4f} ({interval} for {second} − {first}): "
            f"more than the noise {noise}."
        )
    else:
        lines.append(
            f"The difference {second} − {first} of {result.difference:+.4f} ({interval}) is no more than the noise "
            f"{noise}: 0 lies inside{'; more seeds narrow it' if several else ''}."
        )
    return "\n".join(lines)
