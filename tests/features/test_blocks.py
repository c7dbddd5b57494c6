"""Blocks in a work folder: resumable, shared out, put together once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ssdh.core.distributed import Rank
from ssdh.core.errors import DataError
from ssdh.features import blocks
from ssdh.features.blocks import compute_rows
from ssdh.features.forward import BLOCK


class Counting:
    """Rows r to (r, 2r), noting which blocks were computed; stops after `limit` blocks."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit = limit
        self.rows: list[int] = []

    def __call__(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BLOCK):
            if self.limit == 0:
                raise KeyboardInterrupt
            self.limit -= 1
            block = rows[start : start + BLOCK]
            self.rows += block.tolist()
            yield np.stack([block, 2 * block], axis=1).astype(np.float32)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is written at once."""
    monkeypatch.setattr(blocks, "FLUSH_SECONDS", -1.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_all_rows_in_order(tmp_path: Path, count: int) -> None:
    compute_rows(tmp_path / "out.npy", tmp_path, count, Counting(), Rank())
    result = np.load(tmp_path / "out.npy")
    assert np.array_equal(result, np.stack([np.arange(count), 2 * np.arange(count)], 1).astype(np.float32))


@pytest.mark.usefixtures("eager")
def test_an_interrupted_run_computes_only_what_is_missing(tmp_path: Path) -> None:
    count = 7 * BLOCK + 5
    with pytest.raises(KeyboardInterrupt):
        compute_rows(tmp_path / "out.npy", tmp_path, count, Counting(limit=3), Rank())
    assert not (tmp_path / "out.npy").exists()
    rest = Counting()
    compute_rows(tmp_path / "out.npy", tmp_path, count, rest, Rank())
    assert rest.rows == list(range(3 * BLOCK, count))
    assert np.array_equal(np.load(tmp_path / "out.npy")[:, 0], np.arange(count))


@pytest.mark.usefixtures("eager")
def test_torn_parts_are_computed_again(tmp_path: Path) -> None:
    count = 4 * BLOCK
    with pytest.raises(KeyboardInterrupt):
        compute_rows(tmp_path / "out.npy", tmp_path, count, Counting(limit=3), Rank())
    torn = tmp_path / "part-00000001-000001.npy"
    torn.write_bytes(torn.read_bytes()[:-8])
    rest = Counting()
    compute_rows(tmp_path / "out.npy", tmp_path, count, rest, Rank())
    assert rest.rows == [*range(BLOCK, 2 * BLOCK), *range(3 * BLOCK, 4 * BLOCK)]
    assert np.array_equal(np.load(tmp_path / "out.npy")[:, 0], np.arange(count))


def test_parts_that_overlap_are_put_together_once(tmp_path: Path) -> None:
    count = 6 * BLOCK + 9
    rows = np.arange(count)
    for first, number in ((0, 2), (1, 3), (1, 1), (2, 1), (4, 1), (4, 3)):  # an orphaned rank wrote on
        part = rows[first * BLOCK : (first + number) * BLOCK]
        np.save(tmp_path / f"part-{first:08d}-{number:06d}.npy", part)
    compute_rows(tmp_path / "out.npy", tmp_path, count, Counting(limit=0), Rank())
    assert np.array_equal(np.load(tmp_path / "out.npy"), rows)


def test_parts_with_a_hole_are_never_put_together(tmp_path: Path) -> None:
    np.save(tmp_path / "part-00000000-000001.npy", np.zeros((BLOCK, 2), np.float32))
    with pytest.raises(DataError, match="does not hold all 2 blocks"):
        blocks._assemble(tmp_path / "out.npy", tmp_path, 2 * BLOCK, 2)
