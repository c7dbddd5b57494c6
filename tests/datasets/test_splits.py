"""The split: sizes, strata, disjoint roles, seeds, and its files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.split import Split, read_split, write_split
from ssdh.datasets.base import Protocol
from ssdh.datasets.prepare import draw_split


def _labels(counts: list[int]) -> np.ndarray:
    """One-hot labels, class by class as a sorted set has them."""
    return np.eye(len(counts), dtype=np.uint8)[np.repeat(np.arange(len(counts)), counts)]


@settings(max_examples=60)
@given(rows=st.integers(3, 300), share=st.floats(0, 1), train_share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_roles_are_disjoint_and_complete(rows: int, share: float, train_share: float, seed: int) -> None:
    num_query = max(1, int(share * (rows - 1)))
    num_train = max(1, int(train_share * (rows - num_query)))
    split = draw_split(Protocol(num_query, num_train), np.zeros((rows, 0), np.uint8), seed=seed, name="d")
    assert len(split.query) == num_query
    assert len(split.train) == num_train
    assert sorted([*split.query, *split.database]) == list(range(rows))
    in_order = [row for row in split.database if row in set(split.train)]
    assert split.train.tolist() == in_order  # train rows stand in the database's order
    assert {array.dtype for array in (split.query, split.train, split.database)} == {np.dtype(np.int64)}


def test_stratified_queries_are_equally_many_a_class() -> None:
    labels = _labels([60, 100, 25, 40])
    split = draw_split(Protocol(80, 100, stratified=True), labels, seed=3, name="d")
    assert labels[split.query].sum(axis=0).tolist() == [20, 20, 20, 20]
    uneven = draw_split(Protocol(82, 100, stratified=True), labels, seed=3, name="d")
    assert sorted(labels[uneven.query].sum(axis=0).tolist()) == [20, 20, 21, 21]


def test_seed_decides_and_nothing_else() -> None:
    labels = _labels([200, 200])
    protocol = Protocol(40, 100, stratified=True)
    one, again, other = (draw_split(protocol, labels, seed=seed, name="d") for seed in (1, 1, 2))
    for role in ("query", "train", "database"):
        assert np.array_equal(getattr(one, role), getattr(again, role))
        assert not np.array_equal(getattr(one, role), getattr(other, role))
    # more train images must not move the queries
    assert np.array_equal(draw_split(Protocol(40, 200, stratified=True), labels, seed=1, name="d").query, one.query)


def test_neither_queries_nor_database_keep_the_class_order() -> None:
    labels = _labels([500, 500])
    split = draw_split(Protocol(100, 200, stratified=True), labels, seed=0, name="d")
    for rows in (split.query, split.database, split.train):
        classes = labels[rows].argmax(axis=1)
        changes = (np.diff(classes) != 0).mean()
        assert 0.35 < changes < 0.65  # a random order changes class at every second step, a sorted one once


def test_pools_fix_who_can_be_what() -> None:
    labels = np.zeros((100, 2), np.uint8)
    pool, database = np.arange(80, 100), np.arange(0, 70)
    split = draw_split(Protocol(None, 30, query_pool=pool, database_pool=database), labels, seed=0, name="d")
    assert sorted(split.query) == pool.tolist()
    assert sorted(split.database) == database.tolist()
    fewer = draw_split(Protocol(5, None, query_pool=pool, database_pool=database), labels, seed=0, name="d")
    assert set(fewer.query) < set(pool.tolist())
    assert len(fewer.train) == 70


@pytest.mark.parametrize(("rows", "query", "train"), [(5, 1, 4), (200, 20, 180), (30_000, 1000, 5000)])
def test_defaults_of_a_folder(rows: int, query: int, train: int) -> None:
    split = draw_split(Protocol(None, None), np.zeros((rows, 0), np.uint8), seed=0, name="d")
    assert (len(split.query), len(split.train)) == (query, train)


@pytest.mark.parametrize(
    ("protocol", "numbers"),
    [
        (Protocol(100, 1), ["d.num_query", "100", "99"]),
        (Protocol(10, 91), ["d.num_train", "91", "90"]),
        (Protocol(60, 1, stratified=True), ["d.num_query", "60", "30", "20"]),
    ],
)
def test_too_many_is_one_line_with_both_numbers(protocol: Protocol, numbers: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        draw_split(protocol, _labels([20, 80]), seed=0, name="d")
    assert "\n" not in str(caught.value)
    for number in numbers:
        assert number in str(caught.value)


def test_files_hold_the_split(tmp_path: Path) -> None:
    split = draw_split(
        Protocol(4, 5, database_pool=np.arange(15, dtype=np.int64)), np.zeros((20, 1), np.uint8), seed=5, name="d"
    )
    write_split(tmp_path, split, 20, [("a,b.jpg", "broken"), ("ü.png", "empty file")])
    result = read_split(tmp_path)
    for role in ("query", "train", "database"):
        np.testing.assert_array_equal(getattr(result, role), getattr(split, role))

    lines = (tmp_path / "roles.csv").read_text().splitlines()
    assert lines[0] == "row,role"
    roles = {int(row): role for row, role in (line.split(",") for line in lines[1:])}
    assert sorted(roles) == list(range(20))
    assert sum(role == "unused" for role in roles.values()) == 5 - sum(row >= 15 for row in split.query)
    np.testing.assert_array_equal(np.load(tmp_path / "order.npy"), split.database)
    assert (tmp_path / "skipped.csv").read_text() == 'path,reason\n"a,b.jpg",broken\nü.png,empty file\n'


def test_files_of_different_runs_are_refused(tmp_path: Path) -> None:
    rows = np.arange(10, dtype=np.int64)
    write_split(tmp_path, Split(rows[:2], rows[2:4], rows[2:]), 10)
    np.save(tmp_path / "order.npy", rows[1:])
    with pytest.raises(DataError, match="different runs"):
        read_split(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_split(tmp_path / "nowhere")
