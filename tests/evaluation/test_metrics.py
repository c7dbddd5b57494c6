"""What `metrics.json` and the tables hold, against brute force and hand-made codes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.split import Split
from ssdh.evaluation import metrics as evaluation
from ssdh.evaluation.metrics import code_statistics, evaluate, nearest_by_features, neighbor_recall
from ssdh.evaluation.pair_precision import pair_precision
from ssdh.evaluation.params import EvaluateParams
from ssdh.hashing.codes import pack
from ssdh.hashing.retrieval import count_distances, mean_average_precision
from ssdh.structure.fit import fit_structure
from ssdh.structure.pseudo_labels import PairLabels

BITS = 12
PARAMS = EvaluateParams(precision_at=[1, 10, 1000], radius=2, curve_points=5, neighbors=[3, 10])


@pytest.fixture
def images() -> tuple[NDArray[np.int8], NDArray[np.uint8], NDArray[np.float32], Split]:
    """90 images of 4 classes: codes, labels, features and a split of 8 queries, 30 train images, 10 unused ones."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 90)
    labels = np.eye(4, dtype=np.uint8)[classes]
    features = (labels @ rng.standard_normal((4, 6)) + 0.5 * rng.standard_normal((90, 6))).astype(np.float32)
    codes = np.where(features @ rng.standard_normal((6, BITS)) >= 0, 1, -1).astype(np.int8)
    order = rng.permutation(90)
    split = Split(query=order[:8], train=order[8:80][:30], database=order[8:80])
    return codes, labels, features, split


def test_metrics_are_those_of_the_definitions(images: tuple) -> None:
    codes, labels, features, split = images
    names = ["ant", "bee", "cat", "dog"]
    result = evaluate(pack(codes), labels, features, split, bits=BITS, topk=20, params=PARAMS, classes=names)
    metrics = result.metrics
    q, d = split.query, split.database
    others = np.setdiff1d(d, split.train)
    assert metrics["map"] == pytest.approx(mean_average_precision(codes[q], codes[d], labels[q], labels[d], 20))
    assert metrics["map_at"] == {"all": pytest.approx(mean_average_precision(codes[q], codes[d], labels[q], labels[d]))}
    assert metrics["map_lowest"] <= min(metrics["map"], metrics["map_stable"])
    assert max(metrics["map"], metrics["map_stable"]) <= metrics["map_highest"]
    stable = mean_average_precision(codes[q], codes[d], labels[q], labels[d], 20, ties="stable")
    assert metrics["map_stable"] == pytest.approx(stable)
    without = mean_average_precision(codes[q], codes[others], labels[q], labels[others], 20)
    assert metrics["map_without_train"] == pytest.approx(without)
    assert list(metrics["precision_at"]) == ["1", "10"]  # 1000 is more than the database holds
    assert (metrics["bits"], metrics["topk"], metrics["queries_without_relevant"]) == (BITS, 20, 0)

    distance = (codes[q][:, None] != codes[d]).sum(axis=2)
    same = labels[q].argmax(axis=1)[:, None] == labels[d].argmax(axis=1)
    within = [good[near <= 2].mean() if (near <= 2).any() else 0 for near, good in zip(distance, same, strict=True)]
    assert metrics["precision_radius_2"] == pytest.approx(np.mean(within))

    assert [row[0] for row in result.per_query] == q.tolist()
    assert np.mean([row[1] for row in result.per_query]) == pytest.approx(metrics["map"])
    assert np.mean([row[2] for row in result.per_query]) == pytest.approx(metrics["map_without_train"])
    assert [row[3] for row in result.per_query] == same.sum(axis=1).tolist()
    assert [row[4] for row in result.per_query] == labels[q].argmax(axis=1).tolist()
    assert [row[5] for row in result.per_query] == [names[label] for label in labels[q].argmax(axis=1)]
    for radius, recall, precision, retrieved in result.pr_curve:
        near = distance <= radius
        assert retrieved == near.sum() > 0
        assert recall == pytest.approx(same[near].sum() / same.sum())
        assert precision == pytest.approx(same[near].mean())
    assert result.pr_curve[-1][1] == 1
    assert [row[0] for row in result.precision_at_n] == [1, 6, 10, 15, 20]
    assert dict(result.precision_at_n)[10] == pytest.approx(metrics["precision_at"]["10"])
    assert dict(result.precision_at_n)[1] == pytest.approx(metrics["precision_at"]["1"])


def test_no_topk_is_the_whole_database(images: tuple) -> None:
    codes, labels, features, split = images
    for topk in (None, 10_000):
        result = evaluate(pack(codes), labels, features, split, bits=BITS, topk=topk, params=PARAMS)
        assert result.metrics["topk"] == 72
        expected = mean_average_precision(
            codes[split.query], codes[split.database], labels[split.query], labels[split.database]
        )
        assert result.metrics["map"] == pytest.approx(expected)


def test_several_labels_leave_the_class_empty_and_queries_without_relevant_are_counted(images: tuple) -> None:
    codes, labels, features, split = images
    labels = labels.copy()
    labels[split.query[0]] = [1, 1, 0, 0]
    labels[split.query[1]] = 0
    names = ["ant", "bee", "cat", "dog"]
    result = evaluate(pack(codes), labels, features, split, bits=BITS, topk=20, params=PARAMS, classes=names)
    assert result.metrics["queries_without_relevant"] == 1
    assert [row[4] == "" for row in result.per_query] == [True, True] + [False] * 6
    assert result.per_query[1][1:4] == (0.0, 0.0, 0)
    assert [row[5] for row in result.per_query[:2]] == ["ant; bee", ""]


def test_when_every_database_image_trained_nothing_is_said_without_train(images: tuple) -> None:
    codes, labels, features, split = images
    split = Split(query=split.query, train=split.database, database=split.database)
    result = evaluate(pack(codes), labels, features, split, bits=BITS, topk=20, params=PARAMS)
    assert "map_without_train" not in result.metrics
    assert {row[2] for row in result.per_query} == {""}


def test_unlabelled_images_get_what_needs_no_labels(images: tuple) -> None:
    codes, _, features, split = images
    result = evaluate(pack(codes), np.zeros((90, 0), np.uint8), features, split, bits=BITS, topk=20, params=PARAMS)
    assert set(result.metrics) == {
        "bits",
        "topk",
        "bit_balance",
        "bit_correlation",
        "unique_codes",
        "neighbor_recall_at",
    }
    assert result.per_query == result.pr_curve == result.precision_at_n == []


def test_arrays_of_different_runs_are_refused(images: tuple) -> None:
    codes, labels, features, split = images
    with pytest.raises(DataError, match=r"codes.npy has 89 rows, .* 90 .*different runs, run `dvc repro`"):
        evaluate(pack(codes[1:]), labels, features, split, bits=BITS, topk=20, params=PARAMS)
    with pytest.raises(DataError, match=r"codes.npy .* 30 bits"):
        evaluate(pack(codes), labels, features, split, bits=30, topk=20, params=PARAMS)


def test_code_statistics_of_hand_made_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    # bit 0 balanced; bit 1 its opposite; bit 2 constant; bit 3 balanced, uncorrelated with bit 0
    codes = np.array([[1, -1, 1, 1], [1, -1, 1, -1], [-1, 1, 1, 1], [-1, 1, 1, -1]])
    expected = {"bit_balance": 1 / 4, "bit_correlation": 1 / 6, "unique_codes": 4}  # |pair| of six: only 0 with 1
    assert code_statistics(pack(codes), 4) == expected
    monkeypatch.setattr(evaluation, "BLOCK_BITS", 12)  # three rows a block
    assert code_statistics(pack(codes), 4) == expected
    collapsed = np.ones((50, 9), np.int8)
    assert code_statistics(pack(collapsed), 9) == {"bit_balance": 1, "bit_correlation": 1, "unique_codes": 1}
    assert "bit_correlation" not in code_statistics(pack(collapsed[:, :1]), 1)


def test_neighbor_recall_is_the_mean_over_orders_of_ties(images: tuple) -> None:
    codes, _, features, split = images
    packed, none = pack(codes), np.zeros((90, 0))
    query, database = split.query, split.database
    counts = count_distances(packed[query], packed[database], none[query], none[database], bits=BITS)
    nearest = nearest_by_features(features, split, [3, 10, 500])
    result = neighbor_recall(packed, split, counts, nearest, [3, 10, 500])
    assert list(result) == ["3", "10"]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    true = np.argsort(-(unit[query] @ unit[database].T), axis=1)
    distance = (codes[query][:, None] != codes[database]).sum(axis=2)
    rng = np.random.default_rng(0)
    for k in (3, 10):
        samples = []
        for _ in range(400):
            order = np.lexsort((rng.random(distance.shape), distance))[:, :k]
            samples.append(np.mean([len(set(a) & set(b)) / k for a, b in zip(true[:, :k], order, strict=True)]))
        assert result[str(k)] == pytest.approx(np.mean(samples), abs=5 * np.std(samples) / 20)


def test_pair_precision_counts_each_pair_of_train_images_once(images: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels, features, split = images
    vectors, own = features[split.train], labels[split.train]
    structure = fit_structure(vectors, alpha=1.0, beta=1.0, bins=20)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    i, j = np.triu_indices(len(vectors), 1)
    distance, same = 1 - (unit @ unit.T)[i, j], (own @ own.T)[i, j] > 0
    expected = {
        "similar_precision": same[distance < structure.threshold_similar].mean(),
        "dissimilar_precision": 1 - same[distance > structure.threshold_dissimilar].mean(),
    }
    for block in (4_000_000, 100):
        monkeypatch.setattr("ssdh.evaluation.pair_precision.BLOCK_PAIRS", block)
        assert pair_precision(PairLabels(vectors, structure), own) == pytest.approx(expected)
    assert pair_precision(PairLabels(vectors, structure), own[:, :0]) == {}


def test_a_kind_of_pair_that_does_not_exist_is_left_out(images: tuple) -> None:
    _, labels, features, split = images
    vectors = features[split.train]
    structure = fit_structure(vectors, alpha=100.0, beta=1.0, bins=20)  # no distance is that small
    assert structure.fraction_similar == 0
    assert list(pair_precision(PairLabels(vectors, structure), labels[split.train])) == ["dissimilar_precision"]


def test_map_at_every_depth_and_its_range_are_those_of_the_ranked_lists() -> None:
    """5,200 images at 7 distances, against stable orders of databases with relevant images first and last."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 5210)
    labels = np.eye(3, dtype=np.uint8)[classes]
    codes = np.where(rng.random((5210, 6)) < 0.3 + 0.2 * classes[:, None], 1, -1).astype(np.int8)
    split = Split(query=np.arange(5), train=np.arange(10, 5210), database=np.arange(10, 5210))
    result = evaluate(pack(codes), labels, codes.astype(np.float32), split, bits=6, topk=None, params=PARAMS).metrics
    q, d = split.query, split.database
    for name, topk in (("1000", 1000), ("5000", 5000), ("all", None)):
        expected = mean_average_precision(codes[q], codes[d], labels[q], labels[d], topk)
        assert result["map_at"][name] == pytest.approx(expected)
    ranges = []
    for row in q:
        relevant = labels[d] @ labels[row] > 0
        orders = d[np.argsort(relevant, kind="stable")], d[np.argsort(~relevant, kind="stable")]
        ranges.append(
            [mean_average_precision(codes[[row]], codes[o], labels[[row]], labels[o], ties="stable") for o in orders]
        )
    assert (result["map_lowest"], result["map_highest"]) == pytest.approx(np.mean(ranges, axis=0))
