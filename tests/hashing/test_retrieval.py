"""Counts per distance and mAP, against brute force, stable argsort, scikit-learn and faiss."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

import ssdh.core.runtime
from benchmarks.common import peak_mib
from ssdh.hashing import retrieval
from ssdh.hashing.codes import pack
from ssdh.hashing.retrieval import (
    average_precisions,
    count_distances,
    mean_average_precision,
    stable_average_precisions,
)
from tests.helpers.memory import on_two_cores

Arrays = tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.uint8], NDArray[np.uint8]]


def problem(seed: int, queries: int, items: int, bits: int, num_labels: int, share: float = 0.2) -> Arrays:
    """Codes that follow the labels, so that near items are more often relevant; multi-hot labels, some rows empty."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((queries + items, num_labels)) < share).astype(np.uint8)
    signal = labels @ rng.standard_normal((num_labels, bits)) + rng.standard_normal((queries + items, bits))
    codes = np.where(signal >= 0, 1, -1).astype(np.int8)
    return codes[:queries], codes[queries:], labels[:queries], labels[queries:]


def brute_counts(query: Any, database: Any, query_labels: Any, database_labels: Any) -> tuple[Any, Any]:
    bits = query.shape[1]
    distance = (bits - query.astype(int) @ database.astype(int).T) // 2
    shared = query_labels.astype(int) @ database_labels.astype(int).T > 0
    total = np.stack([np.bincount(row, minlength=bits + 1) for row in distance])
    relevant = np.stack(
        [np.bincount(row[good], minlength=bits + 1) for row, good in zip(distance, shared, strict=True)]
    )
    return total, relevant


def brute_stable(query: Any, database: Any, query_labels: Any, database_labels: Any, topk: int | None) -> list[float]:
    """The usual loop: distances by a product, a stable argsort, precision at each relevant rank inside the top-k."""
    values = []
    for code, label in zip(query.astype(int), query_labels.astype(int), strict=True):
        order = np.argsort((len(code) - database.astype(int) @ code) // 2, kind="stable")
        ranks = np.flatnonzero((database_labels.astype(int) @ label > 0)[order][:topk]) + 1
        values.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else 0.0)
    return values


# below and above one joint table of two queries; one and more words of codes and of labels; 16-bit distances
@pytest.mark.parametrize(
    ("bits", "items", "num_labels"),
    [
        (1, 700, 10),
        (8, 300, 3),
        (12, 2000, 1),
        (24, 3001, 24),
        (64, 400, 81),
        (65, 500, 10),
        (128, 900, 80),
        (300, 200, 7),
    ],
)
def test_counts_are_those_of_brute_force(bits: int, items: int, num_labels: int) -> None:
    query, database, query_labels, database_labels = problem(bits, 9, items, bits, num_labels)
    result = count_distances(pack(query), pack(database), query_labels, database_labels, bits=bits)
    total, relevant = brute_counts(query, database, query_labels, database_labels)
    assert np.array_equal(result.total, total)
    assert np.array_equal(result.relevant, relevant)


@pytest.mark.parametrize("block", [1, 100, 700, 5000])
@pytest.mark.parametrize("cores", [1, 2, 5])
def test_blocks_and_cores_change_nothing(block: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, database, query_labels, database_labels = problem(3, 8, 1500, 12, 5)
    monkeypatch.setattr(retrieval, "BLOCK", block)
    for module in (retrieval, ssdh.core.runtime):
        monkeypatch.setattr(module, "num_cores", lambda: cores)
    result = count_distances(pack(query), pack(database), query_labels, database_labels, bits=12)
    total, relevant = brute_counts(query, database, query_labels, database_labels)
    assert np.array_equal(result.total, total)
    assert np.array_equal(result.relevant, relevant)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1, 12, 65]), st.one_of(st.none(), st.integers(1, 60)))
def test_permuting_the_database_changes_no_expectation(seed: int, bits: int, topk: int | None) -> None:
    query, database, query_labels, database_labels = problem(seed, 4, 50, bits, 4)
    order = np.random.default_rng(seed).permutation(50)
    first = mean_average_precision(query, database, query_labels, database_labels, topk)
    second = mean_average_precision(query, database[order], query_labels, database_labels[order], topk)
    assert first == second


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([1, 12, 65, 300]), st.one_of(st.none(), st.integers(1, 90)))
def test_stable_ties_are_those_of_a_stable_argsort(seed: int, bits: int, topk: int | None) -> None:
    arrays = problem(seed, 5, 70, bits, 6)
    result = mean_average_precision(*arrays, topk, ties="stable")
    assert result == pytest.approx(np.mean(brute_stable(*arrays, topk)), abs=1e-14)


def test_expectation_is_the_mean_of_stable_orders() -> None:
    query, database, query_labels, database_labels = problem(5, 3, 400, 8, 6)
    expected = average_precisions(pack(query), pack(database), query_labels, database_labels, bits=8, topk=90)
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(400):
        order = rng.permutation(400)
        samples.append(brute_stable(query, database[order], query_labels, database_labels[order], 90))
    error = np.std(samples, axis=0) / np.sqrt(len(samples))
    assert (np.abs(np.mean(samples, axis=0) - expected) <= 5 * error).all()  # a query without relevant items: 0 <= 0


def test_without_ties_it_is_scikit_learns_and_faiss_agrees() -> None:
    """Item i differs from the first query in i bits, so that no two are at the same distance from it."""
    bits = 40
    database = np.where(np.arange(bits) < np.arange(bits)[:, None], -1, 1).astype(np.int8)
    order = np.random.default_rng(0).permutation(bits)
    database, query = database[order], np.ones((1, bits), np.int8)
    labels = (np.random.default_rng(1).random((bits, 3)) < 0.4).astype(np.uint8)
    query_label = np.array([[1, 1, 0]], np.uint8)
    relevant = (labels[:, :2] > 0).any(axis=1)
    assert 0 < relevant.sum() < bits
    index = faiss.IndexBinaryFlat(bits)
    index.add(pack(database))
    distances, result = index.search(pack(query), bits)
    assert np.array_equal(distances[0], np.arange(bits))
    expected = average_precision_score(relevant[result[0]], -distances[0])
    for ties in ("expected", "stable"):
        assert mean_average_precision(query, database, query_label, labels, ties=ties) == pytest.approx(expected)


def test_hand_computed() -> None:
    """Distances 0 (relevant), 1 (one of two), 2: AP = ½·[1 + (½·2/2 + ½·2/3)]."""
    query, query_labels = np.array([[1, 1]]), np.array([[1]])
    database = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    labels = np.array([[1], [0], [1], [0]])
    assert mean_average_precision(query, database, query_labels, labels) == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    assert mean_average_precision(query, database, query_labels, labels, ties="stable") == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert mean_average_precision(query, database, query_labels, labels, topk=1) == 1


def test_queries_without_relevant_items_count_zero() -> None:
    query, database, query_labels, database_labels = problem(0, 4, 60, 12, 3, share=0.9)
    query_labels[0] = 0
    result = average_precisions(pack(query), pack(database), query_labels, database_labels, bits=12)
    assert result[0] == 0
    assert result[1:].all()
    assert mean_average_precision(query, database, query_labels, database_labels) == pytest.approx(result.mean())


def test_no_labels_at_all_and_no_queries() -> None:
    query, database, _, _ = problem(0, 4, 60, 12, 3)
    counts = count_distances(pack(query), pack(database), np.zeros((4, 0)), np.zeros((60, 0)), bits=12)
    assert counts.total.sum() == 240
    assert not counts.relevant.any()
    assert mean_average_precision(query[:0], database, np.zeros((0, 1)), np.ones((60, 1))) == 0


def test_stable_needs_no_counts_at_hand() -> None:
    arrays = problem(7, 3, 90, 12, 4)
    query, database, query_labels, database_labels = arrays
    result = stable_average_precisions(pack(query), pack(database), query_labels, database_labels, bits=12, topk=11)
    assert result.tolist() == pytest.approx(brute_stable(*arrays, 11))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_codes": np.ones((2, 3))}, r"codes must be \(q, K\) and \(n, K\), got \(2, 3\) and \(5, 4\)"),
        ({"query_codes": np.zeros((2, 4))}, r"only -1 and \+1"),
        ({"query_labels": np.ones((3, 1))}, r"query labels must be \(2, C\), got shape \(3, 1\)"),
        ({"database_labels": np.ones(5)}, r"database labels must be \(5, C\), got shape \(5,\)"),
        ({"database_labels": np.ones((5, 2))}, "same C, got 1 for queries and 2 for the database"),
        ({"ties": "random"}, 'must be "expected" or "stable", got \'random\''),
        ({"topk": 0}, "topk must be at least 1 or None, got 0"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "query_codes": np.ones((2, 4)),
        "database_codes": np.ones((5, 4)),
        "query_labels": np.ones((2, 1)),
        "database_labels": np.ones((5, 1)),
    }
    with pytest.raises(ValueError, match=message):
        mean_average_precision(**(arguments | change))


def _packed(queries: int, items: int, num_labels: int) -> dict[str, Any]:
    on_two_cores()
    rng = np.random.default_rng(0)
    return {
        "query_packed": rng.integers(0, 256, (queries, 8), np.uint8),
        "database_packed": rng.integers(0, 256, (items, 8), np.uint8),
        "query_labels": rng.integers(0, 2, (queries, num_labels), np.uint8),
        "database_labels": rng.integers(0, 2, (items, num_labels), np.uint8),
    }


def _count(arrays: dict[str, Any]) -> Any:
    return count_distances(**arrays, bits=64)


def test_memory_grows_with_codes_and_not_with_pairs() -> None:
    """400,000 items: 20 queries are 64 MB of distances as words; what is needed above codes and labels is less."""
    used = peak_mib(partial(_packed, 20, 400_000, 10), _count)
    assert used < 40  # words of codes (3 MiB) and of labels (1 MiB), buffers, threads


def test_evaluation_needs_no_torch_and_no_faiss(project: Path) -> None:
    code = "import sys, ssdh.evaluation.metrics, stages.evaluate; print([m for m in sys.modules if m in %r])"
    heavy = ["torch", "torchvision", "faiss", "sklearn", "pandas", "matplotlib", "dvc"]
    result = subprocess.run(
        [sys.executable, "-c", code % heavy], cwd=project, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
