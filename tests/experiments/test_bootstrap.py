"""The paired bootstrap and the interval over seeds: against scipy's, and their own promise of coverage."""

import numpy as np
import pytest
from scipy import stats

from ssdh.experiments import bootstrap as statistics
from ssdh.experiments.bootstrap import over_seeds, paired_bootstrap, verdict


def aps(shift: float, queries: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Average precisions that differ much between queries and little between the two experiments."""
    rng = np.random.default_rng(seed)
    first = rng.beta(1, 2, queries)
    return first, np.clip(first + shift + 0.02 * rng.standard_normal(queries), 0, 1)


def test_interval_is_scipys() -> None:
    first, second = aps(0.003)
    result = paired_bootstrap(first, second)
    assert (result.first, result.second) == (pytest.approx(first.mean()), pytest.approx(second.mean()))
    assert result.difference == pytest.approx(np.mean(second - first))
    expected = stats.bootstrap((second - first,), np.mean, method="percentile", n_resamples=10_000, rng=1)
    assert (result.low, result.high) == pytest.approx(expected.confidence_interval, abs=1e-4)
    half = stats.norm.ppf(0.975) * np.std(second - first) / np.sqrt(len(first))
    assert (result.high - result.low) / 2 == pytest.approx(half, rel=0.05)


def test_pairing_sees_what_two_separate_intervals_would_not() -> None:
    first, second = aps(0.003)
    assert paired_bootstrap(first, second).beyond_noise
    assert not paired_bootstrap(first, np.random.default_rng(3).permutation(second)).beyond_noise


def test_intervals_cover_the_truth_as_often_as_promised() -> None:
    inside = 0
    for seed in range(300):
        first, second = aps(0.0, queries=150, seed=seed)
        inside += not paired_bootstrap(first, second, confidence=0.8, resamples=600, seed=seed).beyond_noise
    assert 0.72 < inside / 300 < 0.88  # 0.8 ± 3.5 standard errors


def seeds_of(
    rng: np.random.Generator, seeds: int, training: float, *, same_queries: bool
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Rows, first and second of seeds that differ by `training` deviations of the mean of 100 queries; the truth: 0."""
    by_query = rng.standard_normal((1 if same_queries else seeds, 100))
    second = by_query + training / 10 * rng.standard_normal((seeds, 1)) + 0.5 * rng.standard_normal((seeds, 100))
    rows = [np.arange(100) + (0 if same_queries else 100 * seed) for seed in range(seeds)]
    return rows, np.zeros((seeds, 100)), second


def test_interval_over_seeds_is_students() -> None:
    rows, first, second = seeds_of(np.random.default_rng(0), 5, 1, same_queries=False)
    result = over_seeds(rows, first, second, confidence=0.9)
    means = second.mean(axis=1)
    expected = stats.ttest_rel(means, first.mean(axis=1)).confidence_interval(0.9)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert (result.difference, result.num_seeds, result.num_queries) == (pytest.approx(means.mean()), 5, 500)
    # the order of a seed's queries is no part of it where all answer the same
    mixed = [np.random.default_rng(seed).permutation(100) for seed in range(5)]
    whole = over_seeds([rows[0]] * 5, first, second)
    values = [each[order] for each, order in zip(second, mixed, strict=True)]
    again = over_seeds([rows[0][order] for order in mixed], first, values)
    assert (again.low, again.high) == pytest.approx((whole.low, whole.high))
    assert whole.high - whole.low > result.high - result.low


@pytest.mark.parametrize(("training", "same_queries"), [(0, False), (4, False), (0, True), (4, True)])
def test_intervals_over_seeds_cover_the_truth_whatever_differs(training: float, same_queries: bool) -> None:
    """As all seeds' queries in one bootstrap do not: that holds it two times in five where trainings differ by 4."""
    rng = np.random.default_rng(0)
    inside = [
        not over_seeds(*seeds_of(rng, 3, training, same_queries=same_queries), confidence=0.9).beyond_noise
        for _ in range(1000)
    ]
    assert 0.87 < np.mean(inside) < (1.0 if same_queries else 0.93)  # 0.9 ± 3 standard errors; squares add a little


def test_the_order_of_the_two_changes_only_signs() -> None:
    first, second = aps(0.01)
    there, back = paired_bootstrap(first, second), paired_bootstrap(second, first)
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))


def test_blocks_draw_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = aps(0.01)
    whole = paired_bootstrap(first, second, resamples=500)
    monkeypatch.setattr(statistics, "BLOCK_DRAWS", 3000)  # seven resamples at a time
    assert paired_bootstrap(first, second, resamples=500) == whole


def test_words() -> None:
    first, second = aps(0.05)
    better = verdict(paired_bootstrap(first, second), "A", "B", "mAP@5000")
    assert better.startswith("mAP@5000 0.")
    assert "B is better than A by 0.0" in better
    assert "more than the noise" in better
    worse = verdict(paired_bootstrap(second, first), "A", "B")
    assert "A is better than B by 0.0" in worse
    noise = verdict(paired_bootstrap(*aps(0.0)), "A", "B")
    assert "no more than the noise" in noise
    assert "there is no difference" in verdict(paired_bootstrap(first, first), "A", "B")
    rows, *both = seeds_of(np.random.default_rng(0), 4, 0, same_queries=False)
    several = verdict(over_seeds(rows, *both), "A", "B")
    assert "for B, the means of 4 seeds." in several
    assert several.endswith("is no more than the noise of seeds and queries: 0 lies inside; more seeds narrow it.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1], [0.1, 0.2]), r"got \(1,\) and \(2,\)"),
        (([], []), "at least 1"),
        (([0.1, np.nan], [0.1, 0.2]), "finite"),
    ],
)
def test_what_cannot_be_paired_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(*arguments)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\)"):
        paired_bootstrap([0.1], [0.2], confidence=1.0)
    with pytest.raises(ValueError, match="at least two seeds, got 1"):
        over_seeds([[0]], [[0.1]], [[0.2]])
