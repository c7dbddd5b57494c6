"""Ranking metrics under ties, against averages over every order, exact fractions and scikit-learn."""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from ssdh.hashing import ranking

Groups = list[tuple[int, int]]  # (items, relevant ones) by ascending distance


def arrays(groups: Groups) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.array([[n for n, _ in groups]]), np.array([[r for _, r in groups]])


def average_precision_of(flags: list[int], topk: int | None) -> float:
    ranks = [rank for rank, flag in enumerate(flags[:topk], start=1) if flag]
    return sum(i / rank for i, rank in enumerate(ranks, start=1)) / len(ranks) if ranks else 0.0


def every_order(groups: Groups) -> list[list[int]]:
    """Every distinct ranking: all placements of each group's relevant items, equally likely."""
    placements = []
    for n, r in groups:
        spots = itertools.combinations(range(n), r)
        placements.append([[int(i in chosen) for i in range(n)] for chosen in spots])
    return [[*itertools.chain(*parts)] for parts in itertools.product(*placements)]


GROUPS = st.lists(st.integers(0, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=4)


@settings(max_examples=150)
@given(GROUPS, st.one_of(st.none(), st.integers(1, 22)))
def test_average_precision_is_the_mean_over_every_order(groups: Groups, topk: int | None) -> None:
    expected = np.mean([average_precision_of(flags, topk) for flags in every_order(groups)])
    assert ranking.average_precision(*arrays(groups), topk)[0] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100)
@given(GROUPS.filter(lambda groups: any(n for n, _ in groups)), st.data())
def test_precision_at_n_is_the_mean_over_every_order(groups: Groups, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, sum(size for size, _ in groups)))
    expected = np.mean([sum(flags[:n]) / n for flags in every_order(groups)])
    assert ranking.precision_at(*arrays(groups), n)[0] == pytest.approx(expected, abs=1e-12)


def exact_average_precision(groups: Groups, topk: int) -> float:
    """The two formulas (whole groups; cut group by the hypergeometric number kept) in rational numbers."""

    def inner(P: int, N: int, n: int, r: int) -> Fraction:
        slope = Fraction(r - 1, n - 1) if n > 1 else Fraction(0)
        return Fraction(r, n) * sum((P + 1 + (j - 1) * slope) / (N + j) for j in range(1, n + 1))

    N = P = 0
    total = Fraction(0)
    for n, r in groups:
        if N + n <= topk:
            total += inner(P, N, n, r) if r else 0
            N, P = N + n, P + r
            continue
        c = topk - N
        expected = Fraction(0)
        for h in range(max(0, c - (n - r)), min(r, c) + 1):
            if c and P + h:
                weight = Fraction(comb(r, h) * comb(n - r, c - h), comb(n, c))
                expected += weight * (total + (inner(P, N, c, h) if h else 0)) / (P + h)
        return float(expected if c else (total / P if P else 0))
    return float(total / P) if P else 0.0


@pytest.mark.parametrize(
    "groups",
    [
        [(3, 1), (40, 11), (200, 37)],
        [(0, 0), (1, 1), (300, 4), (10, 0)],
        [(150, 150), (60, 0)],
        [(5, 0), (400, 1)],
        [(2, 1), (120, 119)],
    ],
)
@pytest.mark.parametrize("topk", [1, 2, 3, 17, 63, 151, 10_000])
def test_larger_groups_agree_with_exact_fractions(groups: Groups, topk: int) -> None:
    expected = exact_average_precision(groups, topk)
    assert ranking.average_precision(*arrays(groups), topk)[0] == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_many_queries_with_thousands_of_ties_agree_with_random_orders() -> None:
    rng = np.random.default_rng(0)
    total = rng.multinomial(20_000, [0.02, 0.05, 0.13, 0.3, 0.5], size=3)
    relevant = rng.binomial(total, [0.5, 0.3, 0.2, 0.1, 0.02])
    result = ranking.average_precision(total, relevant, 3000)
    for row in range(len(total)):
        groups = [np.arange(n) < r for n, r in zip(total[row], relevant[row], strict=True)]
        sample = [average_precision_of(list(np.concatenate([*map(rng.permutation, groups)])), 3000) for _ in range(300)]
        assert abs(result[row] - np.mean(sample)) < 5 * np.std(sample) / np.sqrt(len(sample))


@given(st.lists(st.booleans(), min_size=1, max_size=60).filter(any))
def test_without_ties_it_is_scikit_learns(flags: list[bool]) -> None:
    relevant = np.array([flags], np.int64)
    expected = average_precision_score(flags, -np.arange(len(flags)))
    assert ranking.average_precision(np.ones_like(relevant), relevant)[0] == pytest.approx(expected, abs=1e-12)


def test_a_million_items_keep_their_digits() -> None:
    """Every item relevant: the precision is 1 at each rank, wherever the ties and the cut-off lie."""
    total = np.array([[1, 10, 1000, 999_999, 7]])
    for topk in (1, 5, 500, 5000, 900_000, None):
        assert ranking.average_precision(total, total, topk)[0] == pytest.approx(1.0, abs=1e-9)


def test_no_relevant_item_counts_zero() -> None:
    total, relevant = np.array([[5, 5], [5, 5]]), np.array([[0, 0], [0, 2]])
    assert ranking.average_precision(total, relevant)[0] == 0
    assert ranking.average_precision(total, relevant, 5).tolist() == [0, 0]
    assert ranking.average_precision(np.zeros((1, 3), int), np.zeros((1, 3), int)).tolist() == [0]


def test_precision_within_a_radius_is_zero_where_nothing_is_found() -> None:
    total, relevant = np.array([[0, 0, 4], [1, 3, 0]]), np.array([[0, 0, 1], [1, 1, 0]])
    assert ranking.precision_within(total, relevant, 1).tolist() == [0, 2 / 4]
    assert ranking.precision_within(total, relevant, 9).tolist() == [1 / 4, 2 / 4]


def test_precision_and_recall_pool_all_pairs() -> None:
    precision, recall, retrieved = ranking.precision_recall(
        np.array([[0, 1, 1], [0, 2, 0]]), np.array([[0, 1, 1], [0, 1, 0]])
    )
    assert np.isnan(precision[0])
    assert precision[1:].tolist() == [2 / 3, 3 / 4]
    assert recall.tolist() == [0, 2 / 3, 1]
    assert retrieved.tolist() == [0, 3, 4]


def test_shapes_and_cutoffs_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must both be \(q, G\), got \(1, 2\) and \(1, 3\)"):
        ranking.average_precision(np.ones((1, 2)), np.ones((1, 3)))
    for n in (0, 5):
        with pytest.raises(ValueError, match=f"between 1 and the number of database items, got {n}"):
            ranking.precision_at(np.array([[2, 2]]), np.array([[1, 1]]), n)
