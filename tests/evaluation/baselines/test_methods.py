"""Each baseline where the answer is known: separated clusters, other programs, brute force, cases by hand."""

import faiss
import numpy as np
import pytest
from aghasher import AnchorGraphHasher
from numpy.typing import NDArray
from scipy.linalg import eigh

from ssdh.evaluation.baselines import agh, imh, opq, pca_rr, pca_rr_asymmetric, pq, rabitq, registry, sgh, spectral
from ssdh.evaluation.baselines._anchors import (
    AnchorCodes,
    AnchorGraph,
    affinities,
    find_anchors,
    near_anchors,
    spread,
    squared_distances,
)
from ssdh.evaluation.baselines._base import CannotFitError, Codes, Quantizer
from ssdh.evaluation.baselines._linear import Affine, principal_components, unit_rows
from ssdh.evaluation.baselines._quantizer import FaissQuantizer
from ssdh.evaluation.comparison import encode, fit
from ssdh.hashing.codes import unpack
from ssdh.hashing.retrieval import average_precisions

Matrix = NDArray[np.float32]


@pytest.fixture(scope="module")
def rows() -> Matrix:
    """500 rows of 24 dimensions, of falling variance."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((500, 24)) * np.geomspace(3, 0.3, 24) + 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def clusters() -> tuple[Matrix, NDArray[np.uint8]]:
    """800 rows in 20 clusters that do not touch, more than bits, and their labels."""
    rng = np.random.default_rng(1)
    centres = 3 * rng.standard_normal((20, 32))
    classes = rng.integers(0, 20, 800)
    features = centres[classes] + 0.1 * rng.standard_normal((800, 32))
    return features.astype(np.float32), np.eye(20, dtype=np.uint8)[classes]


@pytest.fixture
def few_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    """t-SNE of 40 anchors takes a second, of 400 ten; 40 make a connected graph of 500 rows."""
    for module in (agh, imh):
        monkeypatch.setattr(module, "ANCHORS", 40)


@pytest.mark.usefixtures("few_anchors")
@pytest.mark.parametrize("name", registry.names())
def test_clusters_that_do_not_touch_are_kept_apart_by_16_bits(name: str, clusters: tuple) -> None:
    features, labels = clusters
    fitted = fit(name, features[:400], 16, seed=0)
    packed = encode(fitted, features)
    if isinstance(fitted, Codes):
        assert packed.shape == (800, 2)
        result = average_precisions(packed[:50], packed[50:], labels[:50], labels[50:], bits=16)
        assert result.mean() > 0.9, result.mean()
    else:
        order = np.argsort(-fitted.scores(features[:50], packed[50:]), axis=1, kind="stable")[:, :20]
        right = (labels[:50, None] * labels[50:][order]).sum(axis=2)
        assert right.mean() > 0.9


@pytest.mark.usefixtures("few_anchors")
@pytest.mark.parametrize("name", registry.names())
def test_codes_depend_on_the_train_rows_and_the_seed_alone(name: str, rows: Matrix) -> None:
    """Up to the last digit of a product, which on some processors depends on a row's place among the others."""
    fitted = fit(name, rows[:300], 16, seed=3)
    first = encode(fitted, rows)
    again = encode(fit(name, rows[:300].copy(), 16, seed=3), rows[::-1])[::-1].copy()
    signs = fitted.codes if isinstance(fitted, pca_rr_asymmetric.Asymmetric) else fitted
    if isinstance(signs, Codes):
        outputs = signs.outputs(rows)
        clear = np.abs(outputs) > 1e-5 * np.abs(outputs).max()
        assert clear.mean() > 0.99
        assert np.array_equal(unpack(first, 16)[clear], unpack(again, 16)[clear])
    else:
        assert isinstance(fitted, FaissQuantizer)
        np.testing.assert_allclose(fitted.index.sa_decode(first), fitted.index.sa_decode(again), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", registry.names())
def test_a_baseline_says_what_it_is(name: str) -> None:
    module = registry.get(name)
    assert module.TITLE
    assert module.ABOUT


def test_pca_rr_turns_the_principal_components(rows: Matrix) -> None:
    result, components = fit("pca_rr", rows, 6, 0), principal_components(rows - rows.mean(axis=0), 6)
    assert isinstance(result, Affine)
    assert result.weights @ result.weights.T == pytest.approx(np.eye(6), abs=1e-4)
    turned = result.weights @ components.T
    assert turned @ turned.T == pytest.approx(np.eye(6), abs=1e-4)  # inside their space
    assert np.abs(np.abs(turned) - np.eye(6)).max() > 0.1


def test_the_asymmetric_score_is_a_product_with_signs(rows: Matrix) -> None:
    fitted, plain = pca_rr_asymmetric.fit(rows, 6, 0), pca_rr.fit(rows, 6, 0)
    packed = fitted.encode(rows[:20])
    assert np.array_equal(packed, plain.encode(rows[:20]))
    assert isinstance(plain, Affine)
    expected = [[sum(y * b for y, b in zip(query, code, strict=True)) for code in unpack(packed, 6)]
                for query in plain.outputs(rows[:3])]  # fmt: skip
    assert fitted.scores(rows[:3], packed) == pytest.approx(np.array(expected), abs=1e-3)


def test_spectral_hashing_on_a_rectangle() -> None:
    """4 × 1.5: halves of the long side, then thirds of a period, halves of the short side, …."""
    points = np.array([[x, y] for x in np.linspace(0, 4, 9) for y in np.linspace(0, 1.5, 4)], np.float32)
    fitted = spectral.fit(points, 4, seed=0)
    x, y = points.T
    expected = [np.cos(np.pi * x / 4), np.cos(2 * np.pi * x / 4), np.cos(np.pi * y / 1.5), np.cos(3 * np.pi * x / 4)]
    result = fitted.outputs(points)
    for bit, wave in enumerate(expected):  # an axis may be turned round
        sign = np.sign(result[0, bit] * wave[0])
        if bit != 1:
            assert sign * result[:, bit] == pytest.approx(wave, abs=1e-4)
        else:
            assert result[:, bit] == pytest.approx(wave, abs=1e-4)  # even: the same from both ends
    with pytest.raises(CannotFitError, match="the same features"):
        spectral.fit(np.ones((5, 3), np.float32), 4, seed=0)


def test_spectral_hashing_chooses_the_smallest_eigenvalues() -> None:
    width = np.random.default_rng(0).uniform(0.5, 4, 6)
    every = sorted(((m * np.pi / r) ** 2, axis, m) for axis, r in enumerate(width) for m in range(1, 21))[:20]
    axis, mode = spectral.choose_modes(width, 20)
    assert list(zip(axis.tolist(), mode.tolist(), strict=True)) == [entry[1:] for entry in every]
    axis, _ = spectral.choose_modes(np.array([1.0, 0.0]), 3)  # a flat axis has no wave
    assert axis.tolist() == [0, 0, 0]


@pytest.mark.usefixtures("few_anchors")
def test_agh_is_that_of_another_program(rows: Matrix) -> None:
    fitted = agh.fit(rows, 12, seed=0)
    assert isinstance(fitted, AnchorCodes)
    unit = unit_rows(rows, fitted.graph.mean)
    peer, signs = AnchorGraphHasher.train(unit, fitted.graph.anchors, 12, agh.NEAREST)
    assert fitted.graph.width == pytest.approx(peer.sigma * np.sqrt(2), rel=1e-4)
    result = fitted.outputs(rows) >= 0
    agree = (result == signs).mean(axis=0)  # an eigenvector's sign is free
    assert np.maximum(agree, 1 - agree).min() > 0.99


def test_agh_by_hand() -> None:
    """Two pairs of images on two anchors, one image between: Z and M are small enough to write down."""
    graph = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0.5, 0.5]])
    # Λ = 2.5; ZᵀZ = [[2.25, 0.25], [0.25, 2.25]]; M = [[0.9, 0.1], [0.1, 0.9]]: eigenvalues 1 and 0.8, (1, −1)/√2
    weights = agh.graph_weights(graph, 1)
    expected = 1 / np.sqrt(2.5) / np.sqrt(2) / np.sqrt(0.8)
    assert np.abs(weights[:, 0]) == pytest.approx([expected, expected])
    assert weights[0, 0] == pytest.approx(-weights[1, 0])
    with pytest.raises(CannotFitError, match="2 anchors has 1 eigenvectors, fewer than 2"):
        agh.graph_weights(graph, 2)


def test_affinities_and_anchors(rows: Matrix) -> None:
    anchors = find_anchors(rows, 10, seed=0)
    squared = ((rows[:, None].astype(np.float64) - anchors) ** 2).sum(axis=2)
    assert squared_distances(rows, anchors) == pytest.approx(squared, rel=1e-3, abs=1e-3)
    places, near = near_anchors(rows, anchors, 3)
    assert np.array_equal(places, np.argsort(squared, axis=1)[:, :3])
    weights = affinities(near, 2.0)
    raw = np.exp(-near / 4)
    assert weights == pytest.approx(raw / raw.sum(axis=1, keepdims=True))
    matrix = spread(places, weights, 10)
    assert matrix.sum(axis=1) == pytest.approx(np.ones(500))
    assert (matrix > 0).sum(axis=1).tolist() == [3] * 500
    assert affinities(np.array([[1e9, 1e9 + 1]]), 1.0).sum() == pytest.approx(1)  # far away, still a mix
    assert len(find_anchors(rows[:4], 10, seed=0)) == 4


def test_sgh_factors_rebuild_the_similarity() -> None:
    """Linear between x·y = −1 and 1, so exact there: 2·exp(0) − 1 = 1 and 2·exp(−2) − 1."""
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((20, 5))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    left, right = sgh.factors(np.vstack([unit, -unit]))
    result = left @ right.T
    assert np.diag(result) == pytest.approx(np.ones(40))
    assert np.diag(result[:20, 20:]) == pytest.approx(np.full(20, 2 * np.exp(-2) - 1))
    assert (result[:20, :20] >= 2 * np.exp(unit @ unit.T - 1) - 1 - 1e-9).all()  # a chord lies above a convex curve


def test_sgh_learns_from_what_earlier_bits_left(rows: Matrix) -> None:
    """The same with the n × n similarity written down and scipy's generalised eigenvectors."""
    unit = unit_rows(rows[:60], rows[:60].mean(axis=0))
    mapped = sgh.kernel(unit, unit[:8], 1.0)
    mapped -= mapped.mean(axis=0)
    result = mapped @ sgh.learn(mapped, unit, 5) >= 0
    left, right = sgh.factors(unit)
    residual = 5 * left @ right.T  # (n, n)
    for bit in range(5):
        _, vectors = eigh(mapped.T @ residual @ mapped, mapped.T @ mapped + sgh.RIDGE * np.eye(8))
        signs = mapped @ vectors[:, -1] >= 0
        assert (signs == result[:, bit]).mean() in (0, 1)
        code = np.where(signs, 1.0, -1.0)
        residual -= np.outer(code, code)


def test_imh_mixes_the_nearest_anchors() -> None:
    anchors = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0.6, 0.8], [0.8, 0.6]], np.float32)
    embedded = np.array([[1.0], [2.0], [4.0], [8.0], [16.0], [32.0]])
    fitted = AnchorCodes(AnchorGraph(np.zeros(2, np.float32), anchors, 0.5, imh.NEAREST), embedded)
    query = np.array([[3.0, 4.0]], np.float32)  # the direction of the fifth
    squared = ((anchors - [0.6, 0.8]) ** 2).sum(axis=1)
    weights = np.exp(-squared / 0.25)
    weights[3] = 0  # the farthest of six
    assert fitted.outputs(query)[0, 0] == pytest.approx(float(weights @ embedded[:, 0] / weights.sum()), rel=1e-4)


@pytest.mark.usefixtures("few_anchors")
def test_imh_splits_the_train_images_at_the_mean(rows: Matrix) -> None:
    fitted = imh.fit(rows, 8, seed=0)
    assert fitted.outputs(rows).mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-6)
    with pytest.raises(CannotFitError, match="4 anchors are too few"):
        imh.fit(rows[:4], 8, seed=0)


@pytest.mark.parametrize("method", [pq, opq, rabitq])
@pytest.mark.parametrize("bits", [16, 24])
def test_scores_order_as_faiss_searches(method: object, bits: int, rows: Matrix) -> None:
    fitted: Quantizer = method.fit(rows[:300], bits, 0)  # type: ignore[attr-defined]
    assert isinstance(fitted, FaissQuantizer)
    codes = fitted.encode(rows)
    assert codes.shape[1] == bits // 8 + 8 * (method is rabitq)
    scores = fitted.scores(rows[:5], codes)
    index = faiss.clone_index(fitted.index)
    index.add(fitted.prepared(rows))
    distances, places = index.search(fitted.prepared(rows[:5]), 500)
    length = np.square(fitted.prepared(rows[:5])).sum(axis=1, keepdims=True)
    assert length - np.take_along_axis(scores, places, axis=1) == pytest.approx(distances, abs=1e-3)


def test_opq_loses_less_than_pq(rows: Matrix) -> None:
    def loss(fitted: Quantizer) -> float:
        assert isinstance(fitted, FaissQuantizer)
        prepared = fitted.prepared(rows[:300])
        return float(np.square(prepared - fitted.index.sa_decode(fitted.encode(rows[:300]))).sum())

    assert loss(opq.fit(rows[:300], 16, 0)) < 0.95 * loss(pq.fit(rows[:300], 16, 0))
