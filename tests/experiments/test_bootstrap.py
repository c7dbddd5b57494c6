"""The paired bootstrap, against scipy's, the normal approximation, and its own promise of coverage."""

import numpy as np
import pytest
from scipy import stats

from ssdh.experiments import bootstrap as statistics
from ssdh.experiments.bootstrap import paired_bootstrap, verdict


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
