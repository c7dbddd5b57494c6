"""The diffusion map against its formula in dense algebra, on graphs whose structure is known, and on real features."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from ssdh.core.errors import DataError
from ssdh.structure.fit import embed, fit_structure
from ssdh.structure.manifold import (
    diffusion_embedding,
    nearest_neighbours,
    normalised_graph,
    top_eigenpairs,
    walk_weights,
)
from ssdh.structure.params import StructureParams


def rings(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two circles of latitude on a sphere, 0.24 apart: neighbours stay on their circle, nearest cosines do not."""
    rng = np.random.default_rng(seed)
    kind, angle = rng.integers(0, 2, n), rng.uniform(0, 2 * np.pi, n)
    latitude = np.where(kind, 0.12, -0.12)
    x, y, z = np.cos(latitude) * np.cos(angle), np.cos(latitude) * np.sin(angle), np.sin(latitude)
    return np.stack([x, y, z], axis=1), kind


def test_neighbours_are_scikit_learns_by_cosine_of_centred_features() -> None:
    features = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32) + 5
    result = nearest_neighbours(features, 7).toarray()
    centred = features - features.mean(axis=0)
    expected = NearestNeighbors(n_neighbors=7, metric="cosine").fit(centred).kneighbors_graph().toarray()
    np.testing.assert_array_equal(result, expected)


def test_duplicates_never_make_an_image_its_own_neighbour() -> None:
    features = np.repeat(np.random.default_rng(0).standard_normal((5, 8)), 12, axis=0)  # 12 copies, k = 4
    result = nearest_neighbours(features, 4).toarray()
    assert (np.diag(result) == 0).all()
    assert (result.sum(axis=1) == 4).all()


@pytest.mark.parametrize("n", [60, 800])  # dense and Lanczos eigenpairs
def test_the_embedding_is_the_truncated_random_walk(n: int) -> None:
    """With every eigenpair, U g(Λ) Uᵀ = Σ_t decay^t W^{t+1}: the cosines of its rows are those of the embedding."""
    features = np.random.default_rng(1).standard_normal((n, 6))
    a = nearest_neighbours(features, 5).toarray()
    symmetric = (a + a.T) / 2
    d = symmetric.sum(axis=1)
    w = symmetric / np.sqrt(d[:, None] * d)
    rank = n if n < 100 else 20
    embedding = diffusion_embedding(features, neighbors=5, rank=rank, steps=3, decay=0.8)
    values, vectors = np.linalg.eigh(w)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    walk = sum(0.8**t * vectors @ np.diag(values ** (t + 1)) @ vectors.T for t in range(4))
    walk /= np.linalg.norm(walk, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding @ embedding.T, walk @ walk.T, atol=2e-5)


def test_eigenpairs_descend_with_fixed_signs_and_repeat_to_the_bit() -> None:
    features = np.random.default_rng(1).standard_normal((700, 6))
    graph = normalised_graph(nearest_neighbours(features, 10))
    values, vectors = top_eigenpairs(graph, 12)
    assert (np.diff(values) <= 0).all()
    assert values[0] == pytest.approx(1)
    np.testing.assert_allclose(graph @ vectors, vectors * values, atol=1e-8)
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(12)] > 0).all()
    again = top_eigenpairs(graph, 12)
    np.testing.assert_array_equal(vectors, again[1])


@pytest.mark.parametrize("pieces", [2, 7, 12])
def test_a_graph_in_pieces_keeps_every_piece(pieces: int) -> None:
    """Each piece has its own eigenvalue 1; an image whose piece were missed would have no direction at all."""
    rng = np.random.default_rng(3)
    kind = np.arange(840) % pieces
    features = (50 * np.eye(pieces)[kind] + rng.standard_normal((840, pieces))).astype(np.float32)
    embedding = diffusion_embedding(features, neighbors=10, rank=12, steps=6, decay=0.9)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    cosines = embedding @ embedding.T
    assert np.abs(cosines[kind[:, None] != kind]).max() < 1e-5
    values, vectors = np.linalg.eigh(normalised_graph(nearest_neighbours(features, 10)).toarray())
    walk = vectors[:, -12:] * walk_weights(values[-12:], 6, 0.9)
    walk /= np.linalg.norm(walk, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines, walk @ walk.T, atol=1e-4)


def test_walk_weights_by_hand() -> None:
    # steps 2, decay 0.5: λ + 0.5 λ² + 0.25 λ³
    result = walk_weights(np.array([1.0, 0.5, 0.0, -1.0]), 2, 0.5)
    np.testing.assert_allclose(result, [1.75, 0.5 + 0.125 + 0.03125, 0.0, -1 + 0.5 - 0.25])


def test_distances_follow_the_circles_where_cosines_do_not() -> None:
    features, kind = rings(600)
    embedding = diffusion_embedding(features, neighbors=10, rank=16, steps=6, decay=0.9)
    assert np.linalg.norm(embedding, axis=1) == pytest.approx(1, abs=1e-5)
    same = kind[:, None] == kind
    upper = np.triu_indices(600, 1)

    def purity(vectors: np.ndarray) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        similarity = (unit @ unit.T)[upper]
        nearest = np.argsort(-similarity)[: len(similarity) // 10]
        return float(same[upper][nearest].mean())

    assert purity(embedding) > purity(features - features.mean(axis=0)) + 0.2


def test_more_pieces_than_the_rank_is_one_clear_error() -> None:
    features = np.kron(np.eye(6), np.ones((10, 1))) + np.random.default_rng(0).normal(0, 1e-3, (60, 6))
    with pytest.raises(
        DataError, match=r"falls into 6 pieces, more than structure.rank = 4: raise structure.neighbors"
    ):
        diffusion_embedding(features, neighbors=3, rank=4, steps=2, decay=0.9)


def test_fewer_images_than_neighbours_or_rank() -> None:
    features = np.random.default_rng(0).standard_normal((5, 3))
    embedding = diffusion_embedding(features, neighbors=20, rank=128, steps=6, decay=0.9)
    assert embedding.shape == (5, 5)
    assert np.isfinite(embedding).all()


def test_bad_features_are_named() -> None:
    features = np.random.default_rng(0).standard_normal((30, 3))
    features[7, 1] = np.nan
    with pytest.raises(DataError, match="train image 7 hold NaN or infinity"):
        diffusion_embedding(features, neighbors=5, rank=4, steps=1, decay=0.9)


def test_the_space_chooses() -> None:
    features = np.random.default_rng(0).standard_normal((30, 3))
    values = {"alpha": 2.0, "beta": 2.0, "bins": 50, "max_matrix_gib": 4.0, "rank": 8, "neighbors": 6}
    assert embed(features, StructureParams(**values, space="feature"), seed=0) is None
    embedding = embed(features, StructureParams(**values, space="manifold"), seed=0)
    assert embedding is not None
    assert embedding.shape == (30, 8)


def test_near_pairs_of_real_features_are_purer_on_the_manifold(shared: Path) -> None:
    with np.load(shared / "cifar10-vgg16-pool5-128px.npz") as data:
        features, labels = data["features"][::30].astype(np.float32), data["labels"][::30]
    embedding = diffusion_embedding(features, neighbors=20, rank=64, steps=6, decay=0.9)
    upper = np.triu_indices(len(features), 1)
    same = (labels[:, None] == labels)[upper]

    def purity(vectors: np.ndarray) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        similarity = (unit @ unit.T)[upper]
        return float(same[np.argsort(-similarity)[: len(same) * 3 // 100]].mean())

    assert purity(embedding) > purity(features - features.mean(axis=0)) + 0.03


def test_graph_is_symmetric_with_unit_spectral_radius() -> None:
    adjacency = sparse.csr_array(np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    graph = normalised_graph(adjacency).toarray()
    np.testing.assert_allclose(graph, np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2)


@pytest.mark.parametrize("n", [3, 4, 5, 10, 15, 18, 21, 22, 30])
def test_few_images_have_a_graph_that_is_not_complete(n: int) -> None:
    """Else all distances along it are equal, and their rounding is taken for a structure."""
    features = np.abs(np.random.default_rng(n).standard_normal((n, 64))).astype(np.float32)
    adjacency = nearest_neighbours(features, 20)
    assert adjacency.nnz == n * max(1, (n - 1) // 3)
    embedding = diffusion_embedding(features, neighbors=20, rank=48, steps=6, decay=0.9)
    distances = 1 - embedding.astype(np.float64) @ embedding.T.astype(np.float64)
    assert np.ptp(distances[np.triu_indices(n, 1)]) > 1e-3


def test_rounding_is_no_structure() -> None:
    """The corners of a regular simplex: all distances are the same number, give or take float32."""
    corners = np.eye(18) - 1 / 18
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((18, 18)))[0]
    with pytest.raises(DataError, match=r"all 153 distances between train features are 1\.06"):
        fit_structure((corners @ rotation).astype(np.float32), alpha=2.0, beta=2.0, bins=500)


def test_the_embedding_does_not_depend_on_the_number_of_threads() -> None:
    code = (
        "import hashlib, sys; import numpy as np; from ssdh.structure.manifold import diffusion_embedding\n"
        "centres = np.random.default_rng(0).standard_normal((40, 64))\n"
        "rng = np.random.default_rng(1)\n"
        "x = (centres[rng.integers(0, 40, 8000)] / 2 + rng.standard_normal((8000, 64))).astype(np.float32)\n"
        "found = diffusion_embedding(x, neighbors=20, rank=48, steps=6, decay=0.9)\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest())\n"
    )
    message = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True, check=True
        ).stdout
        for more in ({}, {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})
    }
    assert len(message) == 1
