"""The fit against scipy on all pairs, the labels against a float64 brute force, degenerate input and memory."""

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform
from scipy.stats import halfnorm

import ssdh.core.runtime
import ssdh.structure.histogram
from ssdh.core.errors import DataError
from ssdh.core.params import read_recipe
from ssdh.structure import distances
from ssdh.structure.distances import PairDistances
from ssdh.structure.fit import distance_table, fit_pairs, fit_recipe, fit_structure
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels, Stored, open_pair_labels, read_structure, write_structure
from ssdh.structure.thresholds import Structure, pseudo_labels, reach_pairs, ternary
from ssdh.structure.vectors import exact_distances, power_normalise

Array = NDArray[np.float32]


def clustered(n: int = 700, dim: int = 48, *, mean: float = 0.0, seed: int = 0) -> Array:
    """Features in eight clusters, around a shared mean that pushes all distances towards 0."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((8, dim))
    return (centres[rng.integers(0, 8, n)] + rng.standard_normal((n, dim)) + mean).astype(np.float32)


def brute_force(features: NDArray[np.floating], structure: Structure) -> NDArray[np.int8]:
    """S from scipy's distances in float64."""
    d = squareform(pdist(features.astype(np.float64), "cosine"))
    labels = (d < structure.threshold_similar).astype(np.int8) - (d > structure.threshold_dissimilar).astype(np.int8)
    np.fill_diagonal(labels, 1)
    return labels


def thresholds(structure: Structure) -> tuple[float, float]:
    return structure.threshold_similar, structure.threshold_dissimilar


def reference_mode(distances: NDArray[np.float64], bins: int) -> float:
    counts, edges = np.histogram(distances, bins)
    fullest = int(counts.argmax())
    return float(edges[fullest] + edges[fullest + 1]) / 2


@pytest.mark.parametrize("bins", [2, 300, 1000, 3000])
def test_almost_equally_full_bins_are_told_apart(bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many narrow bins hold nearly the same number of pairs; float32 distances alone would often pick another one."""
    counted = []
    count_between = ssdh.structure.histogram._count_between
    monkeypatch.setattr(
        ssdh.structure.histogram, "_count_between", lambda *a, **k: counted.append(a) or count_between(*a, **k)
    )
    for seed in range(20):
        features = clustered(200, 16, mean=1.0, seed=seed)
        structure = fit_structure(features, alpha=2.0, beta=2.0, bins=bins)
        d = exact_distances(features, *np.triu_indices(200, 1))
        assert structure.mode == pytest.approx(reference_mode(d, bins), abs=1e-12)
    assert counted or bins == 2


@pytest.mark.parametrize("seed", [3, 45, 268])
def test_many_equal_vectors(seed: int) -> None:
    """Distances of 0 up to rounding, some of them below the smallest that float32 pointed to."""
    rng = np.random.default_rng(seed)
    bins, groups, times = int(rng.integers(20, 200)), int(rng.integers(3, 9)), int(rng.integers(4, 9))
    vectors = np.repeat(rng.standard_normal((3 * groups, 16)), times, axis=0)
    features = (vectors * rng.uniform(0.5, 2, (len(vectors), 1))).astype(np.float32)
    d = exact_distances(features, *np.triu_indices(len(features), 1))
    structure = fit_structure(features, alpha=2.0, beta=2.0, bins=bins)
    assert structure.mode == pytest.approx(reference_mode(d, bins), abs=1e-9)


def test_pairs_near_a_threshold_may_be_most_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """All distances within 1e-5 of each other: each block decides its bins itself and remembers no pair."""
    features = (clustered(600, mean=0.0) * 0.002 + 1).astype(np.float32)
    monkeypatch.setattr(ssdh.structure.histogram, "MANY", 100)
    structure = fit_structure(features, alpha=0.5, beta=0.5, bins=20)
    assert structure.threshold_dissimilar < 2e-5
    expected = brute_force(features, structure)
    i, j = np.triu_indices(600, 1)
    exact = exact_distances(features, i, j)
    np.testing.assert_array_equal(pseudo_labels(features, structure)[i, j], ternary(exact, *thresholds(structure)))
    assert np.count_nonzero(pseudo_labels(features, structure) != expected) < 10  # pdist rounds in another order
    assert structure.fraction_similar == np.count_nonzero(exact < structure.threshold_similar) / len(i)


@pytest.mark.parametrize("n", [3, 512, 513, 1025, 1537])
def test_sizes_around_those_of_a_block(n: int) -> None:
    features = clustered(n, 8)
    structure = fit_structure(features, alpha=1.0, beta=1.0, bins=30)
    np.testing.assert_array_equal(pseudo_labels(features, structure), brute_force(features, structure))


def test_labels_after_a_fit_on_a_sample() -> None:
    features = clustered(1500)
    structure = fit_pairs(PairDistances(features).sample(10**5, 0), alpha=1.0, beta=1.0, bins=50)[0]
    np.testing.assert_array_equal(pseudo_labels(features, structure), brute_force(features, structure))


def test_the_last_bin_holds_the_largest_distance() -> None:
    """Distances 2, 2 and 0: so few pairs that both bins are counted exactly."""
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert fit_structure(features, alpha=1.0, beta=1.0, bins=4).mode == pytest.approx(1.75)


def test_digits_do_not_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clustered(1500)
    result = []
    for cores in (1, 3):
        monkeypatch.setattr(ssdh.core.runtime, "num_cores", lambda cores=cores: cores)
        for keep_bytes in (10**9, 0):
            monkeypatch.setattr(distances, "KEEP_BYTES", keep_bytes)
            result.append(asdict(fit_pairs(PairDistances(features), alpha=2.0, beta=2.0, bins=100)[0]))
    assert all(other == result[0] for other in result)


@pytest.mark.parametrize("mean", [0.0, 3.0, 60.0])  # mean 60: every distance is below 0.001
@pytest.mark.parametrize("kept", [True, False])
def test_the_fit_is_scipys_on_all_pairs(mean: float, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "KEEP_BYTES", 10**9 if kept else 0)
    features = clustered(mean=mean)
    structure, counts, edges = fit_pairs(PairDistances(features), alpha=2.0, beta=1.5, bins=40)
    d = pdist(features.astype(np.float64), "cosine")
    assert structure.mode == pytest.approx(reference_mode(d, 40), abs=1e-9)
    left, right = d[d <= structure.mode], d[d > structure.mode]
    sigma_left = halfnorm.fit(np.abs(left - structure.mode), floc=0)[1]
    sigma_right = halfnorm.fit(np.abs(right - structure.mode), floc=0)[1]
    assert structure.sigma_left == pytest.approx(sigma_left, rel=1e-6)
    assert structure.sigma_right == pytest.approx(sigma_right, rel=1e-6)
    assert structure.threshold_similar == pytest.approx(structure.mode - 2.0 * sigma_left, abs=1e-6)
    assert structure.threshold_dissimilar == pytest.approx(structure.mode + 1.5 * sigma_right, abs=1e-6)
    assert structure.num_pairs == len(d) == counts.sum()
    assert structure.fraction_similar == np.mean(d < structure.threshold_similar)
    assert structure.fraction_dissimilar == np.mean(d > structure.threshold_dissimilar)
    np.testing.assert_allclose(edges[[0, -1]], [d.min(), d.max()], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("n", "mean"), [(2, 0.0), (3, 0.0), (257, 0.0), (700, 60.0)])
def test_labels_are_those_of_float64_distances(n: int, mean: float, dtype: type) -> None:
    features = clustered(n, mean=mean).astype(dtype)
    d = pdist(features.astype(np.float64), "cosine")
    low, high = np.quantile(d, [0.3, 0.8])
    structure = Structure(0.0, 0.0, 0.0, float(low), float(high), len(d), 0.0, 0.0)
    np.testing.assert_array_equal(pseudo_labels(features, structure), brute_force(features, structure))


def test_a_threshold_that_equals_a_distance_is_decided_in_float64() -> None:
    """Thresholds are placed exactly on, and one float64 step beside, distances that float32 cannot tell apart."""
    features = clustered(300)
    i, j = np.triu_indices(300, 1)
    d = exact_distances(features, i, j)
    order = np.argsort(d)
    for at in (1000, 20_000):
        exactly = float(d[order[at]])
        for threshold in (exactly, np.nextafter(exactly, 2)):
            structure = Structure(0.0, 0.0, 0.0, float(threshold), float(d.max()), len(d), 0.0, 0.0)
            labels = pseudo_labels(features, structure)
            assert np.count_nonzero(labels[i, j] == 1) == np.count_nonzero(d < threshold)
            assert np.count_nonzero(labels == -1) == 0  # no distance is strictly above the largest


def test_the_mode_is_decided_in_float64_when_bins_are_almost_equally_full() -> None:
    """Each of eight angles occurs as often: float32 counts near the bin edges must not choose between equals."""
    angles = np.repeat(np.arange(8), 40) * 2 * np.pi / 8
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    for bins in (2, 3, 4, 5):
        structure = fit_structure(features, alpha=1.0, beta=1.0, bins=bins)
        i, j = np.triu_indices(len(features), 1)
        d = exact_distances(features, i, j)
        assert structure.mode == pytest.approx(reference_mode(d, bins), abs=1e-9)


def test_labels_into_a_memory_map_and_without_kept_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "KEEP_BYTES", 0)
    features = clustered()
    structure = fit_structure(features, alpha=1.0, beta=1.0, bins=50)
    labels = pseudo_labels(features, structure)
    out = np.lib.format.open_memmap(tmp_path / "labels.npy", mode="w+", dtype=np.int8, shape=(700, 700))
    assert pseudo_labels(PairDistances(features), structure, out) is out
    np.testing.assert_array_equal(out, labels)
    np.testing.assert_array_equal(labels, labels.T)
    assert (np.diag(labels) == 1).all()


def test_distances_that_were_fitted_are_labelled_without_a_second_product(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = PairDistances(clustered())
    structure = fit_structure(pairs, alpha=1.0, beta=1.0, bins=50)
    monkeypatch.delattr(PairDistances, "_multiply")
    np.testing.assert_array_equal(pseudo_labels(pairs, structure), brute_force(clustered(), structure))


def test_labels_on_the_fly_equal_the_matrix(tmp_path: Path) -> None:
    everything = clustered(1000)
    rows = np.random.default_rng(2).permutation(1000)[:600]
    structure = fit_structure(everything[rows], alpha=1.0, beta=1.0, bins=50)
    matrix = pseudo_labels(everything[rows], structure)
    write_structure(tmp_path / "structure.npz", Stored(structure, rows))
    stored = open_pair_labels(tmp_path / "structure.npz", matrix, everything)
    flying = open_pair_labels(tmp_path / "structure.npz", np.empty((0, 0), np.int8), everything)
    rng = np.random.default_rng(3)
    for size in (1, 7, 256):
        i, j = rng.permutation(600)[:size], rng.permutation(600)[: size + 1]
        np.testing.assert_array_equal(flying.block(i, j), matrix[np.ix_(i, j)])
        np.testing.assert_array_equal(stored.block(i, j), matrix[np.ix_(i, j)])
    for size in (3, 40):  # single elements, whole rows
        batches = rng.permutation(600)[: 5 * size].reshape(5, size)
        expected = np.stack([matrix[np.ix_(numbers, numbers)] for numbers in batches])
        np.testing.assert_array_equal(flying.blocks(batches), expected)
        np.testing.assert_array_equal(stored.blocks(batches), expected)
    d = squareform(pdist(everything[rows].astype(np.float64), "cosine"))
    np.testing.assert_allclose(flying.affinities(i, j), 1 - d[np.ix_(i, j)], atol=1e-6)


def test_structure_file_round_trip_and_what_is_wrong_with_a_broken_one(tmp_path: Path) -> None:
    features = clustered(50)
    structure = fit_structure(features, alpha=1.0, beta=1.0, bins=10)
    path = tmp_path / "structure.npz"
    write_structure(path, Stored(structure, np.arange(50), 0.5, features))
    again = read_structure(path)
    assert (again.structure, again.power) == (structure, 0.5)
    np.testing.assert_array_equal(again.rows, np.arange(50))
    np.testing.assert_array_equal(again.embedding, features)
    with pytest.raises(DataError, match=r"\(3, 3\) do not fit 50 train images"):
        PairLabels(features, structure, np.ones((3, 3), np.int8))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not a whole structure file"):
        read_structure(path)
    with pytest.raises(DataError, match="does not exist: run `dvc repro`"):
        read_structure(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((1, 4)), "at least two training images, got 1"),
        (np.ones((9, 4)), "all 36 distances between train features are 0"),
        (np.arange(1.0, 10)[:, None] * np.ones(4), "all 36 distances"),
        (np.eye(5), "all 10 distances between train features are 1"),
        (np.vstack([np.eye(4), np.zeros((1, 4))]), "features of train image 4 are all zero"),
        (np.vstack([np.eye(4), np.full((1, 4), np.nan)]), "features of train image 4 hold NaN or infinity"),
        (np.ones(4), r"must be \(images, dimensions\), got an array of shape \(4,\)"),
    ],
)
def test_features_without_a_distribution_are_one_clear_error(features: Array, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fit_structure(features, alpha=2.0, beta=2.0, bins=10)
    assert "\n" not in str(caught.value)


def test_an_empty_side_of_the_mode_has_no_spread() -> None:
    """Three vectors, distances 1, 1 and 2 in two bins: [1, 1.5) holds two of them, all below its centre."""
    features = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    structure = fit_structure(features, alpha=1.0, beta=1.0, bins=2)
    assert structure.mode == pytest.approx(1.25)
    assert structure.sigma_left == pytest.approx(0.25)
    assert structure.sigma_right == pytest.approx(0.75)
    only_left = fit_structure(features, alpha=1.0, beta=1.0, bins=1_000_000)
    assert only_left.sigma_left == pytest.approx(5e-7, rel=1e-3)


def test_wrong_out_is_refused() -> None:
    features = clustered(20)
    structure = fit_structure(features, alpha=1.0, beta=1.0, bins=10)
    with pytest.raises(DataError, match=r"out must be int8 of shape \(20, 20\), got int8 of shape \(20, 19\)"):
        pseudo_labels(features, structure, np.empty((20, 19), np.int8))


def test_both_densities_of_the_table_integrate_to_one() -> None:
    structure, counts, edges = fit_pairs(PairDistances(clustered()), alpha=2.0, beta=2.0, bins=200)
    header, rows = distance_table(structure, counts, edges)
    assert header == ("distance", "density", "fit", "threshold_similar", "threshold_dissimilar")
    table = np.array(rows)
    width = edges[1] - edges[0]
    assert table[:, 1].sum() * width == pytest.approx(1)
    assert table[:, 2].sum() * width == pytest.approx(1, abs=0.02)  # the tails outside the observed range are missing
    assert (table[:, 3] == structure.threshold_similar).all()


def test_real_features_match_scipy(shared: Path) -> None:
    with np.load(shared / "cifar10-vgg16-pool5-128px.npz") as data:
        features = data["features"][::30]  # (2000, 512) float16
    structure = fit_structure(features, alpha=2.0, beta=2.0, bins=500)
    d = pdist(features.astype(np.float64), "cosine")
    assert structure.mode == pytest.approx(reference_mode(d, 500), abs=1e-9)
    sigma = halfnorm.fit(structure.mode - d[d <= structure.mode], floc=0)[1]
    assert structure.sigma_left == pytest.approx(sigma, abs=1e-7)
    np.testing.assert_array_equal(pseudo_labels(features, structure), brute_force(features, structure))


MEMORY = """
import json, sys, tracemalloc
import numpy as np
from ssdh.structure.fit import fit_structure
from ssdh.structure.thresholds import pseudo_labels
from tests.helpers.memory import on_two_cores
on_two_cores()
n, dim = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
features = rng.standard_normal((n, dim), dtype=np.float32)
features += 1
out = np.ones((n, n), np.int8)
tracemalloc.start()  # every array, to the byte; the system's own count depends on the allocator and on the kernel
structure = fit_structure(features, alpha=2.0, beta=2.0, bins=500)
pseudo_labels(features, structure, out)
mb = tracemalloc.get_traced_memory()[1] / 1e6
print(json.dumps({"mb": mb, "torch": "torch" in sys.modules, "similar": int((out == 1).sum())}))
"""


@pytest.mark.long
@pytest.mark.parametrize(("n", "dim", "limit_mb"), [(5000, 4096, 150), (5000, 512, 150), (12_000, 512, 300)])
def test_peak_memory_above_features_and_labels(n: int, dim: int, limit_mb: int, project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(n), str(dim)], cwd=project, capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["mb"] < limit_mb
    assert result["similar"] >= n
    assert not result["torch"]


def test_the_eight_fields_of_the_contract() -> None:
    structure = fit_structure(clustered(50), alpha=1.0, beta=1.0, bins=10)
    assert list(asdict(structure)) == [
        "mode",
        "sigma_left",
        "sigma_right",
        "threshold_similar",
        "threshold_dissimilar",
        "num_pairs",
        "fraction_similar",
        "fraction_dissimilar",
    ]


def test_sampled_pairs_are_distinct_balanced_and_seeded() -> None:
    features = clustered(1000)
    pairs = PairDistances(features)
    assert pairs.sample(0, 0) is pairs
    assert pairs.sample(pairs.num_pairs, 0) is pairs
    sample = pairs.sample(300_000, 0)
    seen = np.zeros(1000, np.int64)
    for i, j, values in sample.each(lambda block: (*block.pairs(np.arange(block.values.size)), block.values.copy())):
        assert (i != j).all()
        np.testing.assert_allclose(values, exact_distances(features, i, j), atol=1e-6)
        seen += np.bincount(i, minlength=1000) + np.bincount(j, minlength=1000)
    assert sample.num_pairs == seen.sum() / 2 == 5 * 256 * 256  # tiles until there are 300,000
    assert seen.max() - seen.min() <= 5 * 256
    again = fit_pairs(pairs.sample(300_000, 0), alpha=2.0, beta=2.0, bins=50)[0]
    assert again == fit_pairs(sample, alpha=2.0, beta=2.0, bins=50)[0]
    assert again != fit_pairs(pairs.sample(300_000, 1), alpha=2.0, beta=2.0, bins=50)[0]
    with pytest.raises(ValueError, match="not of a sample"):
        pseudo_labels(sample, again)


# 1: the fullest single bin of a sample gives 0.0026
@pytest.mark.parametrize("offset", [pytest.param(0, marks=pytest.mark.long), 1])
def test_ten_million_real_pairs_give_both_thresholds_to_two_thousandths(shared: Path, offset: int) -> None:
    with np.load(shared / "cifar10-vgg16-pool5-128px.npz") as data:
        features = data["features"][offset::6].astype(np.float32)  # (10,000, 512): 5e7 pairs
    pairs = PairDistances(features)
    whole = fit_pairs(pairs, alpha=2.0, beta=2.0, bins=500)[0]
    for seed in range(3):
        sampled = fit_pairs(pairs.sample(10**7, seed), alpha=2.0, beta=2.0, bins=500)[0]
        assert sampled.threshold_similar == pytest.approx(whole.threshold_similar, abs=0.002)
        assert sampled.threshold_dissimilar == pytest.approx(whole.threshold_dissimilar, abs=0.002)


def test_power_normalised_features_by_hand_and_on_the_fly(tmp_path: Path) -> None:
    # √9 = 3, −√16 = −4, at length 5; a row of zeros stays one
    np.testing.assert_allclose(power_normalise(np.array([[9.0, -16.0], [0.0, 0.0]]), 0.5), [[0.6, -0.8], [0, 0]])
    features = clustered(300)
    assert power_normalise(features, 0.0) is features
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(power_normalise(features, 1.0), unit, rtol=1e-6)
    rows = np.arange(50, 300)
    normalised = power_normalise(features[rows], 0.7)
    structure = fit_structure(normalised, alpha=1.0, beta=1.0, bins=50)
    write_structure(tmp_path / "structure.npz", Stored(structure, rows, 0.7))
    flying = open_pair_labels(tmp_path / "structure.npz", None, features)
    i = np.arange(250)
    np.testing.assert_array_equal(flying.block(i, i), pseudo_labels(normalised, structure))


def test_a_stored_structure_carries_no_distances() -> None:
    features = np.random.default_rng(0).standard_normal((600, 8))
    structure = fit_structure(features, alpha=1.0, beta=1.0, bins=50)
    stored = pickle.dumps(structure)
    assert len(stored) < 2000  # 180,000 distances are 720 kB
    assert pickle.loads(stored) == structure


def test_separated_clusters_have_pairs_of_both_kinds() -> None:
    """σ_left holds the distance between the two modes: with α = 2 no pair is similar, and none dissimilar with β."""
    rng = np.random.default_rng(1)
    own = np.arange(600) % 10
    features = (3 * rng.normal(size=(10, 24))[own] + rng.normal(size=(600, 24))).astype(np.float32)
    params = StructureParams(**read_recipe("manifold")["structure"])
    fitted = fit_recipe(features, params, seed=0)
    result = fitted.structure
    plain = fit_pairs(fitted.pairs, alpha=2.0, beta=2.0, bins=500)[0]
    assert plain.fraction_similar == plain.fraction_dissimilar == 0
    assert (fitted.alpha, fitted.beta) == (1.0, 0.5)
    assert result.threshold_similar == result.mode - result.sigma_left
    assert result.threshold_dissimilar == result.mode + result.sigma_right / 2
    between = fit_pairs(fitted.pairs, alpha=1.0, beta=1.0, bins=500)[0]
    assert between.fraction_similar
    assert not between.fraction_dissimilar
    labels = pseudo_labels(fitted.pairs, result)
    same = own[:, None] == own
    assert result.fraction_similar > 0.03
    assert same[labels == 1].all()
    assert result.fraction_dissimilar > 0.8
    assert not same[labels == -1].any()


def test_a_side_with_pairs_keeps_its_threshold_and_one_without_any_its_factor() -> None:
    features = clustered(300)
    pairs = PairDistances(features)
    plain = fit_pairs(pairs, alpha=1.0, beta=50.0, bins=50)[0]
    assert plain.fraction_similar > 0
    assert plain.fraction_dissimilar == 0
    result, alpha, beta = reach_pairs(pairs, plain, 1.0, 50.0)
    d = pdist(features.astype(np.float64), "cosine")
    halves = [50 / 2**n for n in range(1, 7)]
    expected = next(half for half in halves if (d > plain.mode + half * plain.sigma_right).any())
    assert (alpha, beta) == (1.0, expected)
    assert result.threshold_similar == plain.threshold_similar
    assert result.fraction_similar == plain.fraction_similar
    assert result.fraction_dissimilar == np.mean(d > result.threshold_dissimilar) > 0
    far = replace(plain, sigma_right=1e6)
    assert reach_pairs(pairs, far, 1.0, 2.0)[1:] == (1.0, 2.0)
