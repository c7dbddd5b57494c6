"""The label-free number against a brute force over orders of ties, and what it must rank."""

from pathlib import Path

import numpy as np
import pytest

from ssdh.core.split import Split
from ssdh.evaluation.manifold_recall import manifold_recall, neighbor_share
from ssdh.hashing.codes import pack


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(codes: np.ndarray, vectors: np.ndarray, k: int, orders: int) -> float:
    """Average over random orders of the ties."""
    rng = np.random.default_rng(0)
    n = len(codes)
    shares = []
    for i in range(n):
        others = np.delete(np.arange(n), i)
        true = set(others[np.argsort(-(vectors[others] @ vectors[i]))[:k]].tolist())
        distance = (codes[others] != codes[i]).sum(axis=1)
        for _ in range(orders):
            order = np.lexsort((rng.random(n - 1), distance))
            shares.append(len(true & set(others[order[:k]].tolist())) / k)
    return float(np.mean(shares))


@pytest.mark.parametrize(("bits", "k"), [(3, 1), (3, 7), (12, 5)])
def test_share_of_neighbours_is_the_mean_over_orders_of_ties(bits: int, k: int) -> None:
    rng = np.random.default_rng(1)
    vectors = unit(rng.standard_normal((40, 4)))
    codes = np.where(vectors @ rng.standard_normal((4, bits)) >= 0, 1, -1).astype(np.int8)
    result = neighbor_share(pack(codes), vectors, bits=bits, neighbors=k)
    assert result == pytest.approx(brute_force(codes, vectors, k, 200), abs=0.01)


def test_constant_codes_find_what_chance_finds() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((101, 5)))
    codes = np.ones((101, 16), np.int8)
    assert neighbor_share(pack(codes), vectors, bits=16, neighbors=10) == pytest.approx(0.1)


def test_codes_of_clusters_beat_random_codes_and_no_label_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdh.evaluation.manifold_recall.SHARE", 0.1)  # about a cluster
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 8, 600)
    features = (4 * rng.standard_normal((8, 16))[kind] + rng.standard_normal((600, 16))).astype(np.float32)
    split = Split(query=np.arange(50), train=np.arange(50, 200), database=np.arange(50, 600))
    words = np.where(rng.random((8, 32)) < 0.5, -1, 1).astype(np.int8)
    good, random = words[kind], np.where(rng.random((600, 32)) < 0.5, -1, 1).astype(np.int8)
    result = manifold_recall(pack(good), features, split, bits=32)
    chance = manifold_recall(pack(random), features, split, bits=32)
    assert result is not None
    assert chance is not None
    assert result > 0.7 > 0.2 > chance


def test_where_everything_trained_the_database_itself_is_looked_at() -> None:
    features = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    codes = pack(np.where(features >= 0, 1, -1).astype(np.int8))
    everything = np.arange(60)
    assert manifold_recall(codes, features, Split(everything[:0], everything, everything), bits=8) is not None
    assert manifold_recall(codes, features, Split(everything[:0], everything[:2], everything[:2]), bits=8) is None


def test_float_features_of_real_images_rank_above_few_bits(shared: Path) -> None:
    with np.load(shared / "cifar10-vgg16-pool5-128px.npz") as data:
        features = data["features"][::40].astype(np.float32)
    centred = features - features.mean(axis=0)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((512, 512)))[0]
    rows = np.arange(len(features))
    split = Split(query=rows[:100], train=rows[100:300], database=rows[100:])
    result = []
    for bits in (8, 32, 256):
        codes = np.where(centred @ rotation[:, :bits] >= 0, 1, -1).astype(np.int8)
        result.append(manifold_recall(pack(codes), features, split, bits=bits))
    assert result == sorted(result)
