"""The store of features: found by content, whole after any kill, safe for several writers, bounded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ssdh.core.errors import ParameterError
from ssdh.features.store import ORPHAN_SECONDS, FeatureStore, evict, missing, shelves, store_limit, store_root
from tests.helpers.tiny import environment

KIND = {"arch": "vgg16"}


def digests(*numbers: int) -> np.ndarray:
    """(n, 32) digests, some with zeros at either end."""
    result = np.zeros((len(numbers), 32), np.uint8)
    result[:, 10] = numbers
    return result


def values(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.float32)[:, None] * np.array([1, 0.5], np.float32)


def test_rows_are_found_wherever_they_were_put() -> None:
    store = FeatureStore(KIND)
    assert missing(store.find(digests(1, 2)), digests(1, 2)).tolist() == [0, 1]
    store.add(digests(5, 0, 255), values(5, 0, 255))
    store.add(digests(7), values(7))
    expected = digests(7, 3, 0, 5, 7, 255, 3)
    kept = FeatureStore(KIND).find(expected)
    assert missing(kept, expected).tolist() == [1]
    there = digests(7, 0, 5, 7, 255)
    assert np.array_equal(FeatureStore(KIND).find(there).read(0, 5), values(7, 0, 5, 7, 255))
    assert np.array_equal(FeatureStore(KIND).find(there).read(1, 3), values(0, 5))
    assert missing(FeatureStore({"arch": "alexnet"}).find(there), there).tolist() == [0, 1, 2, 4]


def test_many_rows_agree_with_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    store, known = FeatureStore(KIND), {}
    for _ in range(20):
        block = rng.integers(0, 256, (int(rng.integers(1, 90)), 32), dtype=np.uint8)
        block[:, 2:] = 0  # 65,536 digests: some come again
        rows = block[:, :2].astype(np.float16)
        store.add(block, rows)
        known |= {digest.tobytes(): row.tolist() for digest, row in zip(block, rows, strict=True)}
    expected = np.zeros((4000, 32), np.uint8)
    expected[:, :2] = rng.integers(0, 256, (4000, 2))
    expected[:500, :2] = np.array([np.frombuffer(key, np.uint8)[:2] for key in known])[rng.integers(0, len(known), 500)]
    kept = store.find(expected)
    lacking = {expected[row].tobytes() for row in missing(kept, expected)}
    assert lacking == {digest.tobytes() for digest in expected} - set(known)
    there = expected[[digest.tobytes() in known for digest in expected]]
    assert len(there) >= 500
    assert store.find(there).read(0, len(there)).tolist() == [known[digest.tobytes()] for digest in there]


WRITER = """
import sys
import numpy as np
from ssdh.features.store import FeatureStore
store, start = FeatureStore({"arch": "vgg16"}), int(sys.argv[1])
print("ready", flush=True)
for number in range(start, start + 1000):
    block = np.zeros((50, 32), np.uint8)
    block[:, :8] = np.arange(number * 50, number * 50 + 50, dtype=np.int64).view(np.uint8).reshape(-1, 8)
    store.add(block, np.repeat(np.arange(number * 50, number * 50 + 50, dtype=np.float32)[:, None], 300, 1))
    print("added", flush=True)
"""


def test_writers_killed_at_any_moment_leave_whole_rows(tmp_path: Path) -> None:
    home = Path(os.environ["SSDH_HOME"])
    for attempt, delay in enumerate(np.random.default_rng().uniform(0.01, 0.25, 6)):
        starts = (2 * attempt * 1000, (2 * attempt + 1) * 1000)
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(start)], env=environment(home), stdout=subprocess.PIPE)
            for start in starts
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
            if attempt == 0:  # on any machine one block is there at least
                writer.stdout.readline()
        time.sleep(delay)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        expected = np.zeros((100_000, 32), np.uint8)
        numbers = np.concatenate([np.arange(50_000) + start * 50 for start in starts])
        expected[:, :8] = numbers.view(np.uint8).reshape(-1, 8)
        kept = FeatureStore(KIND).find(expected)
        known = np.flatnonzero(kept.block >= 0)
        assert len(known) % 50 == 0, "a block is there whole or not at all"
        if len(known):
            there = FeatureStore(KIND).find(expected[known]).read(0, len(known))
            assert np.array_equal(there, np.repeat(numbers[known].astype(np.float32)[:, None], 300, 1))
    assert sum(shelf.rows for shelf in shelves()) >= 100


def ages(*seconds: int) -> None:
    """Let blocks, in the order of their first value, have been used so many seconds ago."""
    blocks = sorted(
        (block for shelf in shelves() for block in shelf.blocks), key=lambda block: np.load(block.path)[0, 0]
    )
    for block, age in zip(blocks, seconds, strict=True):
        os.utime(block.path.with_suffix(".sha256"), (time.time() - age,) * 2)


def known() -> list[float]:
    return sorted(float(np.load(block.path)[0, 0]) for shelf in shelves() for block in shelf.blocks)


def test_the_longest_unused_goes_first() -> None:
    one, other = FeatureStore(KIND), FeatureStore({"arch": "alexnet"})
    for number in (1, 2, 3):
        one.add(digests(number), values(number))
    other.add(digests(4), values(4))
    ages(400, 100, 300, 200)
    each = 128 + 2 * 4 + 32  # NumPy's header, two values, a digest
    assert evict(4 * each) == 0
    assert known() == [1, 2, 3, 4]
    assert evict(3 * each + 5) == each
    assert known() == [2, 3, 4]
    ages(100, 300, 200)
    one.find(digests(3))  # used again
    assert evict(each) == 2 * each
    assert known() == [3]
    assert [folder.name for folder in store_root().glob("*/")] == [one.folder.name]
    assert evict(0) == each
    assert list(store_root().glob("*/")) == []


def test_what_killed_writers_left_goes_once_it_is_old() -> None:
    store = FeatureStore(KIND)
    store.add(digests(1), values(1))
    left = [store.folder / name for name in ("b.npy", ".c.123.tmp.npy", ".d.123.tmp.sha256")]
    for path in left:
        path.write_bytes(b"half")
    evict(10**9)
    assert all(path.exists() for path in left)  # a writer may be at it
    for path in (*left, *store.folder.glob("*.npy")):
        os.utime(path, (time.time() - 2 * ORPHAN_SECONDS,) * 2)
    evict(10**9)
    assert not any(path.exists() for path in left)
    assert known() == [1]


@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("1.5", 3 * 2**29), ("inf", 2**60)])
def test_the_bound_is_read_from_the_environment(text: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_FEATURES_GIB", text)
    assert store_limit() == limit


@pytest.mark.parametrize("text", ["-1", "much", "nan", ""])
def test_a_bound_that_is_none_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_FEATURES_GIB", text)
    with pytest.raises(ParameterError, match="SSDH_FEATURES_GIB must be a number of GiB of at least 0, got"):
        store_limit()
