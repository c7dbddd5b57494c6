"""The range of average precision over the orders of ties, against every order written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdh.hashing import ranking, tie_range
from ssdh.hashing.tie_range import average_precision_range
from tests.hashing.test_ranking import GROUPS, Groups, arrays, average_precision_of, every_order


@settings(max_examples=300)
@given(GROUPS, st.one_of(st.none(), st.integers(1, 22)))
def test_the_range_is_that_of_every_order(groups: Groups, topk: int | None) -> None:
    expected = [average_precision_of(flags, topk) for flags in every_order(groups)]
    lowest, highest = average_precision_range(*arrays(groups), topk)
    assert lowest[0] == pytest.approx(min(expected), abs=1e-12)
    assert highest[0] == pytest.approx(max(expected), abs=1e-12)


def test_a_late_relevant_item_may_lower_the_precision() -> None:
    """One relevant, then two of three with one relevant: 1 without it or with it first, (1 + 2/3)/2 with it last."""
    lowest, highest = average_precision_range(np.array([[1, 3]]), np.array([[1, 1]]), 3)
    assert (lowest[0], highest[0]) == (pytest.approx(5 / 6), pytest.approx(1))


def test_many_queries_with_large_groups_hold_the_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    total = rng.integers(0, 400, (40, 12))
    relevant = rng.binomial(total, 0.1)
    lowest, highest = average_precision_range(total, relevant, 1000)
    expected = ranking.average_precision(total, relevant, 1000)
    assert (lowest < expected).all()
    assert (expected < highest).all()
    monkeypatch.setattr(tie_range, "_CELLS", 1000)  # a few queries at a time
    again = average_precision_range(total, relevant, 1000)
    assert np.array_equal(again[0], lowest)
    assert np.array_equal(again[1], highest)


def test_no_query_and_nothing_relevant() -> None:
    none = np.zeros((0, 5), np.int64)
    assert [len(result) for result in average_precision_range(none, none, 3)] == [0, 0]
    lowest, highest = average_precision_range(np.array([[2, 3]]), np.array([[0, 0]]), 3)
    assert (lowest[0], highest[0]) == (0, 0)
