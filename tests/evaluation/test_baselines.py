"""Float search, LSH, PCAH, ITQ and their comparison: against scikit-learn, definitions and measured values."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_info

from ssdh.core.split import Split
from ssdh.datasets.base import Protocol
from ssdh.datasets.prepare import draw_split
from ssdh.evaluation.baselines import _linear, itq, registry
from ssdh.evaluation.baselines._base import CannotFitError, Codes
from ssdh.evaluation.baselines._linear import Affine, principal_components
from ssdh.evaluation.comparison import encode, evaluate_baselines, fit
from ssdh.evaluation.float_search import nearest, ranked_counts, similarity_blocks
from ssdh.evaluation.params import EvaluateParams
from ssdh.evaluation.scored import float_average_precisions
from ssdh.hashing.codes import unpack

PARAMS = EvaluateParams(precision_at=[1, 10, 5000], radius=2, curve_points=4)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, Split]:
    """Pixels of the digits, labels, and a split of 40 queries, 300 train images and 1757 in the database."""
    result = load_digits()
    labels = np.eye(10, dtype=np.uint8)[result.target]
    split = draw_split(Protocol(40, 300, True), labels, seed=1, name="test")
    return result.data.astype(np.float32), labels, split


def codes(features: np.ndarray, method: str, train: np.ndarray, bits: int, seed: int) -> np.ndarray:
    result = fit(method, train, bits, seed)
    assert isinstance(result, Codes)
    return encode(result, features)


def affine(method: str, train: np.ndarray, bits: int) -> Affine:
    result = fit(method, train, bits, seed=0)
    assert isinstance(result, Affine)
    return result


def outputs_of(features: np.ndarray, method: str, train: np.ndarray, bits: int, seed: int) -> np.ndarray:
    result = fit(method, train, bits, seed)
    assert isinstance(result, Codes)
    return result.outputs(features)


def expected_float(features: np.ndarray, labels: np.ndarray, split: Split, rows: np.ndarray) -> list[float]:
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return [average_precision_score((labels[rows] @ labels[q]) > 0, unit[rows] @ unit[q]) for q in split.query]


def test_float_average_precision_is_scikit_learns(digits: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, split = digits
    features = features + np.random.default_rng(0).random(features.shape, np.float32)  # no ties
    size = len(split.database)
    expected = expected_float(features, labels, split, split.database)
    result = float_average_precisions(features, labels, split, size)
    assert result == pytest.approx(expected, abs=1e-4)  # float32 may swap two neighbours
    monkeypatch.setattr("ssdh.evaluation.float_search.BLOCK_BYTES", 50_000)
    monkeypatch.setattr("ssdh.evaluation.float_search.CHUNK_BYTES", 50_000)
    assert float_average_precisions(features, labels, split, size) == pytest.approx(expected, abs=1e-4)
    centre = features[split.train].mean(axis=0)
    expected = expected_float(features - centre, labels, split, split.database)
    assert float_average_precisions(features, labels, split, size, centre=centre) == pytest.approx(expected, abs=1e-4)


def test_float_metrics_and_curves(digits: tuple) -> None:
    features, labels, split = digits
    metrics, curves = evaluate_baselines(features, labels, split, bits=16, topk=None, seed=0, params=PARAMS)
    others = np.setdiff1d(split.database, split.train)
    result = metrics["float"]
    assert result["map"] == pytest.approx(np.mean(expected_float(features, labels, split, split.database)), abs=1e-4)
    assert result["map_without_train"] == pytest.approx(
        np.mean(expected_float(features, labels, split, others)), abs=1e-4
    )
    assert result["map_at"]["all"] == pytest.approx(result["map"])
    assert set(result["map_at"]) == {"1000", "all"}
    assert set(result["precision_at"]) == {"1", "10"}
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit[split.query] @ unit[split.database].T
    good = labels[split.query] @ labels[split.database].T > 0
    order = np.argsort(-similarity, axis=1, kind="stable")
    first = np.take_along_axis(good, order, axis=1)[:, :10].mean()
    assert result["precision_at"]["10"] == pytest.approx(first, abs=1e-3)

    points = np.array([(row[3], row[4]) for row in curves if row[:2] == ("float", "pr")])
    flat = np.argsort(-similarity.ravel(), kind="stable")
    hits = np.cumsum(good.ravel()[flat])
    precision = np.interp(points[:, 0], hits / hits[-1], hits / np.arange(1, len(hits) + 1))
    assert len(points) > 50
    assert (np.diff(points[:, 0]) >= 0).all()
    assert points[-1, 0] == 1
    assert points[10:, 1] == pytest.approx(precision[10:], abs=0.02)
    assert [row[2] for row in curves if row[:2] == ("float", "precision_at_n")] == [1, 586, 1172, 1757]


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_the_precision_recall_curve_is_the_same_for_every_block_size(
    digits: tuple, metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later block has scores outside those of the first: its queries are longer. Whole numbers are not rounded."""
    features, labels, split = digits
    features = features.copy()
    features[split.query] *= np.arange(1, len(split.query) + 1, dtype=np.float32)[:, None]
    params = PARAMS.model_copy(update={"metric": metric, "baselines": []})

    def curves() -> list[tuple[Any, ...]]:
        _, rows = evaluate_baselines(features, labels, split, bits=16, topk=None, seed=0, params=params)
        return [row for row in rows if row[1] == "pr"]

    one_block = curves()
    assert len(one_block) > 50
    monkeypatch.setattr("ssdh.evaluation.float_search.BLOCK_BYTES", 4 * len(features) * 3)  # three queries
    assert curves() == one_block


def test_every_method_has_metrics_and_both_curves(digits: tuple) -> None:
    features, labels, split = digits
    metrics, curves = evaluate_baselines(features, labels, split, bits=16, topk=500, seed=0, params=PARAMS)
    assert list(metrics) == ["float", "lsh", "pcah", "itq"]
    for result in metrics.values():
        assert 0.1 < result["map_without_train"] < 1
        assert 0.1 < result["map"] < 1
    assert {row[:2] for row in curves} == {(m, c) for m in metrics for c in ("pr", "precision_at_n")}
    assert metrics["itq"]["map"] > metrics["lsh"]["map"]


def test_codes_depend_on_the_train_images_and_the_seed_alone(digits: tuple) -> None:
    features, _, split = digits
    train = features[split.train]
    for method in ("lsh", "pcah", "itq", "pca_rr", "spectral"):
        first = codes(features, method, train, 16, 3)
        again = codes(features[::-1], method, train.copy(), 16, 3)[::-1]
        other = codes(features, method, train, 16, 4)
        outputs = outputs_of(features, method, train, 16, 3)
        clear = np.abs(outputs) > 1e-5 * np.abs(outputs).max()  # of the others the last digit of a product decides
        assert clear.mean() > 0.99
        assert np.array_equal(unpack(first, 16)[clear], unpack(again, 16)[clear])
        assert np.array_equal(first, other) == (method in ("pcah", "spectral"))


def test_lsh_is_a_rotation_of_centred_features(digits: tuple) -> None:
    features, _, split = digits
    train = features[split.train]
    for bits in (16, 100):  # fewer and more than the 64 dimensions
        result = affine("lsh", train, bits)
        directions = result.weights
        assert np.abs((train @ directions.T + result.bias).mean(axis=0)).max() < 1e-3
        orthonormal = directions @ directions.T if bits < 64 else directions.T @ directions
        assert orthonormal == pytest.approx(np.eye(min(bits, 64)), abs=1e-5)
        signs, outputs = unpack(result.encode(features), bits), features @ directions.T + result.bias
        clear = np.abs(outputs) > 1e-3
        assert clear.mean() > 0.99
        assert np.array_equal(signs[clear] > 0, outputs[clear] >= 0)


def test_pcah_is_the_sign_of_scikit_learns_components(digits: tuple) -> None:
    features, _, split = digits
    train = features[split.train]
    expected = PCA(8, svd_solver="full").fit(train).transform(features) >= 0
    result = unpack(codes(features, "pcah", train, 8, 0), 8) > 0
    agree = (result == expected).mean(axis=0)  # a component's sign is free
    assert np.maximum(agree, 1 - agree).min() > 0.995


@pytest.mark.parametrize("dense_side", [1024, 10])
@pytest.mark.parametrize("shape", [(200, 40), (40, 200)])
def test_principal_components_are_those_of_the_covariance(
    shape: tuple[int, int], dense_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssdh.evaluation.baselines._linear.DENSE_SIDE", dense_side)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal(shape) * np.geomspace(1, 0.1, shape[1])
    rows -= rows.mean(axis=0)
    result = principal_components(rows.astype(np.float32), 6)
    assert result @ result.T == pytest.approx(np.eye(6), abs=1e-4)
    _, _, expected = np.linalg.svd(rows, full_matrices=False)
    assert np.abs(np.einsum("ij,ij->i", result, expected[:6])) == pytest.approx(np.ones(6), abs=1e-3)


@pytest.mark.parametrize("method", ["lsh", "pcah", "itq"])
def test_directions_are_computed_on_one_thread(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two, ITQ's 128 bits of 1000 × 4096 features came out otherwise than on one, and LSH's directions."""
    threads: list[int] = []

    def noted(wrapped: Callable[..., Any], *arguments: Any) -> Any:
        threads.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return wrapped(*arguments)

    module = registry.get(method)
    for name in ("principal_components", "mean_of", "random_rotation"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, functools.partial(noted, getattr(_linear, name)))
    assert fit(method, np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32), 8, 0)
    assert set(threads) == {1}


def test_itq_finds_the_rotation_of_a_cube() -> None:
    """Rows near the corners of a rotated cube: signs of the best rotation's outputs are the corners."""
    rng = np.random.default_rng(0)
    corners = np.where(rng.standard_normal((2000, 8)) > 0, 1.0, -1.0)
    turned = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    rows = (corners + 0.1 * rng.standard_normal(corners.shape)) @ turned
    found = itq.fit_rotation(rows, _linear.random_rotation(8, 8, 2))
    np.testing.assert_allclose(found @ found.T, np.eye(8), atol=1e-9)
    np.testing.assert_allclose(np.abs(found @ turned.T).max(axis=1), 1, atol=1e-2)  # the cube's axes, in any order


def test_itq_loses_less_with_every_iteration(digits: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """‖B − V·Rᵀ‖² on train rows, B its signs."""
    features, _, split = digits
    train = features[split.train]
    rows = _linear.unit_rows(train, _linear.mean_of(train))
    projected = (rows @ _linear.principal_components(rows, 16).T).astype(np.float64)
    first = _linear.random_rotation(16, 16, 0)

    def loss(rotation: np.ndarray) -> float:
        outputs = projected @ rotation.T
        return float(np.square(np.sign(outputs) - outputs).mean())

    losses = []
    for iterations in range(51):
        monkeypatch.setattr(itq, "ITERATIONS", iterations)
        losses.append(loss(itq.fit_rotation(projected, first)))
    assert losses[0] == pytest.approx(loss(first))
    assert (np.diff(losses) <= 1e-12).all()
    assert losses[-1] < 0.99 * losses[0]


def test_more_bits_than_components_leave_pcah_and_itq_out(digits: tuple) -> None:
    features, labels, split = digits
    metrics, _ = evaluate_baselines(features, labels, split, bits=65, topk=500, seed=0, params=PARAMS)
    assert list(metrics) == ["float", "lsh"]
    few = Split(query=split.query, train=split.train[:16], database=split.database)
    metrics, _ = evaluate_baselines(features, labels, few, bits=16, topk=500, seed=0, params=PARAMS)
    assert list(metrics) == ["float", "lsh"]


def test_a_method_that_cannot_fit_says_why(digits: tuple) -> None:
    train = digits[0][digits[2].train]
    with pytest.raises(CannotFitError, match="64 dimensions and 300 train images have no 65 principal components"):
        fit("itq", train, 65, 0)
    with pytest.raises(CannotFitError, match="whole bytes, 12 bits are not"):
        fit("pq", train, 12, 0)
    with pytest.raises(CannotFitError, match="200 train images are fewer than its 256 centres"):
        fit("opq", train[:200], 16, 0)


def test_without_labels_the_neighbours_are_measured(digits: tuple) -> None:
    features, labels, split = digits
    params = PARAMS.model_copy(update={"baselines": ["itq", "pq", "lsh"]})
    metrics, curves = evaluate_baselines(features, labels[:, :0], split, bits=16, topk=500, seed=0, params=params)
    with_labels, _ = evaluate_baselines(features, labels, split, bits=16, topk=500, seed=0, params=params)
    assert curves == []
    assert list(metrics) == ["float", "itq", "pq", "lsh"]
    for method, result in metrics.items():
        assert "map" not in result
        assert result["neighbor_recall_at"] == with_labels[method]["neighbor_recall_at"]
    assert metrics["float"]["neighbor_recall_at"]["10"] == pytest.approx(1, abs=1e-3)


def test_recall_of_float_neighbours_is_that_of_two_sorts(digits: tuple) -> None:
    features, labels, split = digits
    params = PARAMS.model_copy(update={"baselines": ["rabitq"]})  # whose scores have no ties
    metrics, _ = evaluate_baselines(features, labels, split, bits=32, topk=500, seed=0, params=params)
    fitted = fit("rabitq", features[split.train], 32, 0)
    assert not isinstance(fitted, Codes)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    true = np.argsort(-(unit[split.query] @ unit[split.database].T), axis=1)[:, :10]
    first = np.argsort(-fitted.scores(features[split.query], encode(fitted, features[split.database])), axis=1)[:, :10]
    expected = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(true, first, strict=True)])
    assert metrics["rabitq"]["neighbor_recall_at"]["10"] == pytest.approx(expected, abs=1e-6)
    assert metrics["rabitq"]["bytes_per_image"] == 12


def test_ranked_counts_keep_whole_tie_groups() -> None:
    similarity = np.array([0.5, 0.9, 0.5, 0.1, 0.5])
    total, hits = ranked_counts(similarity, np.array([True, False, False, True, True]), 2)
    assert (total.tolist(), hits.tolist()) == ([[1, 3]], [[0, 2]])
    total, hits = ranked_counts(similarity, np.array([True, False, False, True, True]), 99)
    assert (total.tolist(), hits.tolist()) == ([[1, 3, 1]], [[0, 2, 1]])


def test_rows_of_zeros_are_similar_to_nothing() -> None:
    features = np.array([[0, 0], [3, 4], [4, 3]], np.float32)
    (_, result), *rest = similarity_blocks(features, np.array([1, 0]), np.array([0, 1, 2]))
    assert not rest
    assert result == pytest.approx(np.array([[0, 1, 24 / 25], [0, 0, 0]]))
    assert nearest(features, np.array([1]), np.array([2, 0]), 1).tolist() == [[0]]
    assert nearest(features, np.array([1, 2]), np.array([0, 2, 1]), 2).tolist() == [[2, 1], [1, 2]]
    with pytest.raises(ValueError, match="between 1 and the 2 database items, got 3"):
        nearest(features, np.array([1]), np.array([2, 0]), 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_dot_and_l2_find_what_faiss_finds(metric: Any, dtype: str) -> None:
    """Vectors of very different lengths, so that the three metrics disagree."""
    rng = np.random.default_rng(2)
    features = (rng.standard_normal((300, 12)) * rng.uniform(1, 30, (300, 1))).astype(dtype)
    query, database = np.arange(20), rng.permutation(np.arange(20, 300))
    index = faiss.IndexFlatIP(12) if metric == "dot" else faiss.IndexFlatL2(12)
    index.add(features[database].astype(np.float32))
    values, rows = index.search(features[query].astype(np.float32), 10)
    [(_, result)] = similarity_blocks(features, query, database, metric=metric)
    expected = values if metric == "dot" else -values
    np.testing.assert_allclose(np.sort(result, axis=1)[:, :-11:-1], expected, rtol=1e-4, atol=1e-2)
    assert (nearest(features, query, database, 10, metric=metric) == rows).mean() > 0.95  # but for equal ones
    assert (nearest(features, query, database, 10) == rows).mean() < 0.9


@pytest.mark.long
def test_measured_values_on_real_features(shared: Path) -> None:
    """mAP@5000 at 32 bits of all 60,000 CIFAR-10 images (VGG16 pool5), as measured elsewhere on other splits."""
    stored = np.load(shared / "cifar10-vgg16-pool5-128px.npz")
    features, labels = stored["features"].astype(np.float32), np.eye(10, dtype=np.uint8)[stored["labels"]]
    split = draw_split(Protocol(300, 5000, True), labels, seed=0, name="test")
    metrics, _ = evaluate_baselines(features, labels, split, bits=32, topk=5000, seed=0, params=PARAMS)
    result = {method: values["map"] for method, values in metrics.items()}
    assert result == pytest.approx({"float": 0.418, "lsh": 0.232, "pcah": 0.282, "itq": 0.389}, abs=0.02)
    assert metrics["float"]["map_centred"] == pytest.approx(0.432, abs=0.02)


@pytest.mark.parametrize("method", ["lsh", "itq"])
def test_every_seed_of_the_pipeline_has_its_hash(digits: tuple, method: str) -> None:
    """faiss takes 31 bits, `seed` has 32."""
    train = np.ascontiguousarray(digits[0][:200])
    for seed in (2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1):
        assert isinstance(fit(method, train, 8, seed), Codes)
