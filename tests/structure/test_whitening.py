"""Directions in which views vary, against the matrix power of the formula."""

import numpy as np
import pytest

from ssdh.core.params import read_recipe
from ssdh.structure.fit import fit_recipe
from ssdh.structure.params import StructureParams
from ssdh.structure.thresholds import pseudo_labels
from ssdh.structure.vectors import power_normalise
from ssdh.structure.whitening import view_covariance, view_factor, whiten

N, D, V = 1300, 300, 3  # several blocks of rows and strips of columns


def images() -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) at unit length, as `power` 1 leaves them, and views (V, N, D), unlike in each direction."""
    rng = np.random.default_rng(0)
    features = power_normalise(rng.standard_normal((N, D)).astype(np.float32) + 1, 1.0)
    return features, (features + 0.01 * np.arange(D) / D * rng.standard_normal((V, N, D))).astype(np.float16)


def test_inner_products_are_those_of_the_inverse_root() -> None:
    features, views = images()
    differences = (power_normalise(views.reshape(-1, D), 1.0) - np.tile(features, (V, 1))).astype(np.float64)
    covariance = differences.T @ differences / len(differences)
    np.testing.assert_allclose(view_covariance(features, views, 1.0), covariance, atol=1e-6 * covariance.max())
    values, vectors = np.linalg.eigh(np.eye(D) + 3 * covariance * D / np.trace(covariance))
    expected = (features - features.mean(0, dtype=np.float64)) @ (vectors / np.sqrt(values) @ vectors.T)
    result = whiten(features, view_factor(features, views, power=1.0, strength=3.0))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result @ result.T, expected @ expected.T, atol=1e-5 * (expected**2).sum(1).max())


def test_the_number_of_cores_changes_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    features, views = images()
    result = []
    for cores in (1, 3):
        monkeypatch.setattr("ssdh.core.runtime.num_cores", lambda cores=cores: cores)
        result.append(whiten(features, view_factor(features, views, power=0.7, strength=3.0)))
    np.testing.assert_array_equal(result[0], result[1])


def test_views_that_change_nothing_make_no_direction_shorter() -> None:
    features, _ = images()
    np.testing.assert_array_equal(view_factor(features, features[None], power=0.0, strength=3.0), np.eye(D))


@pytest.mark.parametrize("space", ["manifold", "feature"])
def test_pairs_are_told_apart_by_what_no_view_changes(space: str) -> None:
    """Two kinds that differ in one direction, under a stronger one that views change: whitening finds the kinds."""
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 2, 400)
    features = rng.standard_normal((400, 20)).astype(np.float32)
    features[:, 0] = 4 * np.where(kind, 1, -1) + features[:, 0]
    features[:, 1:4] *= 8
    views = np.repeat(features[None], V, axis=0)
    views[:, :, 1:4] += 8 * rng.standard_normal((V, 400, 3))
    params = read_recipe("manifold_views")["structure"] | {"space": space, "power": 1.0, "alpha": 0.5, "beta": 0.5}
    result = {}
    for name, given in (("plain", ()), ("whitened", views)):
        fitted = fit_recipe(features, StructureParams(**params), seed=0, views=given)
        labels = pseudo_labels(fitted.pairs, fitted.structure)
        result[name] = (kind[:, None] == kind)[labels == 1].mean()
    assert result["plain"] < 0.85
    assert result["whitened"] > 0.9
