"""Metrics after re-ranking against a brute force over every order of what ties."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ssdh.core.split import Split
from ssdh.evaluation.metrics import count_split
from ssdh.evaluation.reranked import rerank_metrics
from ssdh.hashing.codes import pack

Array = NDArray[Any]


def case(seed: int, count: int = 13, queries: int = 4, bits: int = 3) -> tuple[Array, Array, Array, Split]:
    """Codes with many ties, features of which some are equal, labels."""
    rng = np.random.default_rng(seed)
    codes = rng.choice([-1, 1], (queries + count, bits))
    features = rng.integers(-2, 3, (queries + count, 2))  # whole numbers: inner products are exact, and many tie
    labels = np.eye(2, dtype=np.uint8)[rng.integers(0, 2, queries + count)]
    every = np.arange(queries + count)
    return codes, features, labels, Split(query=every[:queries], train=every[-2:], database=every[queries:])


def arrangements(relevant: Array) -> list[Array]:
    """Every way in which the relevant items (n,) of a group may stand in it; all are equally likely."""
    places = combinations(range(len(relevant)), int(relevant.sum()))
    return [np.isin(np.arange(len(relevant)), chosen).astype(np.float64) for chosen in places]


def expected_over_orders(groups: list[Array], relevant: Array, topk: int) -> tuple[float, float]:
    """Mean AP at topk and precision@10 over every order of the items of each group, one group after the other."""
    precisions, averages = [], []
    for orders in product(*(arrangements(relevant[group]) for group in groups)):
        hits = np.concatenate(orders)
        precisions.append(hits[:10].mean())
        kept = hits[:topk]
        at = np.cumsum(kept) / np.arange(1, len(kept) + 1)
        averages.append((at * kept).sum() / kept.sum() if kept.sum() else 0.0)
    return float(np.mean(averages)), float(np.mean(precisions))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("topk", [6, 13])
def test_metrics_are_the_mean_over_all_orders_of_ties(seed: int, topk: int) -> None:
    codes, features, labels, split = case(seed)
    counts, _ = count_split(pack(codes), labels, split, 3)
    result = rerank_metrics(
        pack(codes), labels, features, split, counts, topk=topk, sizes=[10, 12, 13, 14, 3], metric="dot"
    )
    assert list(result) == ["10", "12", "13"]
    for size in (10, 12, 13):
        values = []
        for query in split.query:
            distances = (codes[query] != codes[split.database]).sum(axis=1)
            products = features[split.database] @ features[query]
            near = distances <= np.sort(distances)[size - 1]
            groups = [np.flatnonzero(near & (products == value)) for value in sorted(set(products[near]), reverse=True)]
            groups += [np.flatnonzero(~near & (distances == value)) for value in sorted(set(distances[~near]))]
            relevant = labels[split.database] @ labels[query] > 0
            recall = min(10, (products[near] >= np.sort(products)[-10]).sum()) / 10
            values.append([recall, near.sum(), *expected_over_orders(groups, relevant, topk)])
        assert list(result[str(size)].values()) == pytest.approx(np.mean(values, axis=0).tolist())
    assert list(result["10"]) == ["float_recall_at_10", "shortlist", "map", "precision_at_10"]


def test_a_shortlist_of_all_is_float_search_and_the_order_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    codes, features = rng.choice([-1, 1], (80, 6)), rng.normal(size=(80, 5))
    labels = np.eye(4, dtype=np.uint8)[rng.integers(0, 4, 80)]
    split = Split(query=np.arange(10), train=np.arange(10, 20), database=np.arange(10, 80))
    mixed = Split(split.query, split.train, rng.permutation(split.database))
    counts, _ = count_split(pack(codes), labels, split, 6)
    result = rerank_metrics(pack(codes), labels, features, split, counts, topk=70, sizes=[20, 70])
    again = rerank_metrics(pack(codes), labels, features, mixed, counts, topk=70, sizes=[20, 70])
    for size in ("20", "70"):
        assert result[size] == pytest.approx(again[size])
    near = np.argsort(cdist(features[:10], features[10:], "cosine"), axis=1)
    hits = np.take_along_axis(labels[:10] @ labels[10:].T > 0, near, axis=1)
    at = np.cumsum(hits, axis=1) / np.arange(1, 71)
    expected = {"float_recall_at_10": 1.0, "shortlist": 70.0, "map": ((at * hits).sum(1) / hits.sum(1)).mean()}
    assert result["70"] == pytest.approx(expected | {"precision_at_10": hits[:, :10].mean()})
    assert result["20"]["shortlist"] >= 20


def test_without_labels_the_recall_stays_and_small_sets_skip() -> None:
    codes, features, labels, split = case(0)
    counts, _ = count_split(pack(codes), labels, split, 3)
    result = rerank_metrics(pack(codes), labels[:, :0], features, split, counts, topk=13, sizes=[10])
    assert list(result["10"]) == ["float_recall_at_10", "shortlist"]
    assert rerank_metrics(pack(codes), labels, features, split, counts, topk=13, sizes=[100, 500]) == {}
    nobody = Split(split.query[:0], split.train, split.database)
    assert rerank_metrics(pack(codes), labels, features, nobody, counts, topk=13, sizes=[10]) == {}
