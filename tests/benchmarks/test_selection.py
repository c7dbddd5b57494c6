"""The search for settings: what it may look at, and its rule."""

import numpy as np

from benchmarks.quality import draw
from benchmarks.studies.selection import (
    ROUNDS,
    SPACE,
    START,
    VALIDATION,
    candidates,
    chosen_of,
    validation_split,
    verdict,
    winner,
)


def test_a_splits_own_test_queries_choose_nothing() -> None:
    labels = np.eye(10, dtype=np.uint8)[np.arange(9000) % 10]
    split, validation = draw(labels, 1000, 5000, 100), validation_split(labels, 100)
    seen = np.concatenate([validation.query, validation.database])
    assert not np.isin(split.query, seen).any()
    assert len(np.unique(seen)) == len(seen) == 8000
    assert len(validation.query) == VALIDATION
    assert not np.isin(validation.query, split.train).any()
    np.testing.assert_array_equal(validation.train, split.train)
    assert min(seed for _, seeds, _ in ROUNDS for seed in seeds) > 4  # 0 to 4 are those of published figures


def test_candidates_are_the_start_and_neighbours_of_it() -> None:
    result = candidates(50)
    assert result[0] == START
    assert len(set(result)) == 50
    assert result == candidates(50)
    assert all(value in (*SPACE[key], old) for s in result for key, value, old in zip(SPACE, s, START, strict=True))
    structure, method = chosen_of(result[1])
    train = method.params
    assert (structure.power, train.power) == (result[1][0], result[1][0])
    assert structure.neighbors == result[1][list(SPACE).index("structure.neighbors")]
    assert train.lr == result[1][list(SPACE).index("train.lr")]


def test_the_verdict_pairs_the_splits() -> None:
    default, other = candidates(2)
    rows = [
        {"settings": list(settings), "seed": seed, "bits": bits, "validation_map": value}
        for settings, values in ((default, (0.4, 0.6)), (other, (0.5, 0.72)))
        for seed, value in zip((7, 8), values, strict=True)
        for bits in (16, 64)
    ]
    best, reference = verdict(rows, [default, other], (7, 8))
    assert best["validation"] == np.mean([0.5, 0.72])
    np.testing.assert_allclose([best["gain"], best["error"]], [0.11, 0.01])
    assert (reference["gain"], reference["error"]) == (0, 0)
    assert winner([best, reference]) == other
    assert winner([best | {"error": 0.06}, reference]) == START
    assert winner([best | {"error": None}, reference]) == START
