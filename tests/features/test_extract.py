"""Features of images, computed once: the store is consulted by content; and the extract stage on a tiny network."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssdh.core.distributed import Rank
from ssdh.features import blocks, extract, forward
from ssdh.features.extract import Pass, compute_features, weights_digest
from ssdh.features.forward import BLOCK
from ssdh.features.store import FeatureStore, evict, store_root
from tests.helpers.tiny import NUM_IMAGES, run_stage, tiny_images, tiny_params, write_params, write_tiny


class Counting:
    """The row r of the manifest to (contents[r], −contents[r]), noting which rows were computed."""

    def __init__(self, contents: np.ndarray, limit: int = 10**9) -> None:
        self.contents, self.limit = contents, limit
        self.rows: list[int] = []

    def __call__(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BLOCK):
            if self.limit == 0:
                raise KeyboardInterrupt
            self.limit -= 1
            block = rows[start : start + BLOCK]
            self.rows += block.tolist()
            yield np.stack([self.contents[block], -self.contents[block]], axis=1).astype(np.float32)


def digests_of(contents: np.ndarray) -> np.ndarray:
    """(n, 32): the digest of content c ends in c, and its first bytes are 0 as those of a digest may be."""
    digests = np.zeros((len(contents), 32), np.uint8)
    digests[:, 24:] = contents.astype(np.int64).view(np.uint8).reshape(-1, 8)
    return digests


def compute(path: Path, contents: np.ndarray, limit: int = 10**9, kind: str = "a") -> list[int]:
    """Write features of these contents; returns the rows that were computed."""
    counting = Counting(contents, limit)
    rows = np.arange(len(contents))
    one = Pass(FeatureStore({"kind": kind}), counting)
    compute_features(path, rows.shape, rows, digests_of(contents), [one], Rank())
    result = np.load(path)
    assert result.dtype == np.float32
    assert np.array_equal(result, np.stack([contents, -contents], axis=1).astype(np.float32))
    return counting.rows


def test_what_was_seen_before_is_not_computed(tmp_path: Path) -> None:
    contents = np.arange(300)
    assert compute(tmp_path / "a.npy", contents) == list(range(300))
    assert compute(tmp_path / "a.npy", contents) == []
    grown = np.random.default_rng(0).permutation(np.r_[contents, 1000:1010])  # ten new photos, all files renamed
    assert compute(tmp_path / "b.npy", grown) == np.flatnonzero(grown >= 1000).tolist()
    assert compute(tmp_path / "c.npy", grown[::3]) == []
    assert compute(tmp_path / "d.npy", contents, kind="another network") == list(range(300))


def test_copies_are_computed_once(tmp_path: Path) -> None:
    assert compute(tmp_path / "a.npy", np.array([7, 7, 3, 7, 256, 3])) == [0, 2, 4]


def test_several_passes_stand_one_after_the_other(tmp_path: Path) -> None:
    contents = np.arange(100)
    rows = np.arange(100)[::-1].copy()
    compute(tmp_path / "a.npy", contents[:40])
    passes = [Pass(FeatureStore({"kind": name}), Counting(contents)) for name in ("a", "b")]
    compute_features(tmp_path / "v.npy", (2, 100), rows, digests_of(contents)[rows], passes, Rank())
    assert [sorted(one.blocks_of.rows) for one in passes] == [list(range(40, 100)), list(range(100))]  # type: ignore[attr-defined]
    result = np.load(tmp_path / "v.npy")
    assert result.shape == (2, 100, 2)
    assert np.array_equal(result[0], result[1])
    assert np.array_equal(result[0, :, 0], rows)


def test_an_interrupted_run_computes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FLUSH_SECONDS", -1.0)
    contents = np.arange(7 * BLOCK + 5)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path / "a.npy", contents, limit=3)
    assert not (tmp_path / "a.npy").exists()
    assert compute(tmp_path / "a.npy", np.r_[-5, contents]) == [0, *range(3 * BLOCK + 1, 7 * BLOCK + 6)]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("harm", [Path.unlink, _cut], ids=["gone", "torn"])
@pytest.mark.parametrize("suffix", [".npy", ".sha256"])
def test_a_broken_block_is_computed_again(tmp_path: Path, suffix: str, harm: Callable[[Path], None]) -> None:
    compute(tmp_path / "a.npy", np.arange(10))
    compute(tmp_path / "a.npy", np.arange(20))
    first = min(store_root().rglob(f"*{suffix}"), key=lambda path: path.stat().st_mtime_ns)
    broken = len(np.load(first.with_suffix(".npy")))
    harm(first)
    assert len(compute(tmp_path / "a.npy", np.arange(20))) == broken == 10
    assert compute(tmp_path / "a.npy", np.arange(20)) == []


def test_rows_that_vanish_while_others_are_computed_are_computed_too(tmp_path: Path) -> None:
    contents = np.arange(200)
    compute(tmp_path / "a.npy", contents[:100])

    class Emptying(Counting):
        def __call__(self, rows: np.ndarray) -> Iterator[np.ndarray]:
            if not self.rows:
                evict(0)  # another process, or `python -m ssdh cache clean`
            return super().__call__(rows)

    counting = Emptying(contents)
    one = Pass(FeatureStore({"kind": "a"}), counting)
    rows = np.arange(200)
    compute_features(tmp_path / "b.npy", rows.shape, rows, digests_of(contents), [one], Rank())
    assert sorted(counting.rows) == list(range(200))
    assert np.array_equal(np.load(tmp_path / "b.npy")[:, 0], contents)


def test_the_bound_holds_when_a_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_FEATURES_GIB", "0")
    compute(tmp_path / "a.npy", np.arange(100))
    assert list(store_root().glob("*/*")) == []


def test_a_digest_of_weights_knows_names_values_and_shapes() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))

    digests = {weights_digest(network()), weights_digest(network())}
    assert len(digests) == 1
    other = network()
    with torch.no_grad():
        other[1].running_mean[1] = 1e-30  # type: ignore[index]
    digests |= {weights_digest(other), weights_digest(nn.Sequential(*network(), nn.Flatten()))}
    assert len(digests) == 2  # Flatten holds nothing: the layer's name tells those apart
    digests.add(weights_digest(nn.Sequential(nn.Flatten(), *network())))
    assert len(digests) == 3


def test_the_digest_of_the_code_covers_all_that_makes_a_row(project: Path) -> None:
    from tests.helpers.imports import closure

    listed = {f"ssdh/{name}.py" for name in extract.CODE}
    reached = closure(project, project / "ssdh/features/forward.py")
    without_pixels = {"core/distributed", "core/errors", "core/files", "core/params", "core/records", "core/resume",
                      "core/runtime", "core/stage", "core/cache_dir", "core/launcher", "core/package", "core/yaml_text",
                      "core/inflation", "core/arrays", "core/discovery", "features/images", "features/params",
                      "features/weights", "features/download", "features/hub"}  # fmt: skip
    families = {path.stem for path in (project / "ssdh/features/families").glob("*.py")} - {"base"}
    without_pixels |= {f"features/families/{name}" for name in families}  # a network's own is added by `feature_kind`
    assert reached - {f"ssdh/{name}.py" for name in without_pixels} == listed - {"ssdh/features/backbone.py"}


# --- the stage ------------------------------------------------------------------------------------------------------


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each block that goes through a network."""
    seen: list[int] = []
    padded = forward._padded

    def counted(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return padded(batch)

    monkeypatch.setattr(forward, "_padded", counted)
    return seen


def test_the_stage_computes_what_is_new_and_writes_the_same_bytes(tmp_path: Path, passed: list[int]) -> None:
    folder = write_tiny(tmp_path / "run", tiny_params())
    run_stage(folder, "extract")
    assert sum(passed) == NUM_IMAGES
    whole = (folder / "features/features.npy").read_bytes()
    (folder / "features/features.npy").unlink()
    run_stage(folder, "extract")
    assert sum(passed) == NUM_IMAGES
    assert (folder / "features/features.npy").read_bytes() == whole
    # forget all but what is made of some of the images, in another order
    shutil.rmtree(store_root())
    images, order = np.load(folder / "data/images/images.npy"), np.random.default_rng(5).permutation(NUM_IMAGES)
    some = write_tiny(tmp_path / "some", tiny_params())
    lines = (folder / "data/images/manifest.csv").read_text().splitlines()
    kept = [lines[0], *(f"{row},{lines[1 + old].split(',', 1)[1]}" for row, old in enumerate(order[:-10]))]
    (some / "data/images/manifest.csv").write_text("\n".join(kept) + "\n")
    np.save(some / "data/images/images.npy", images[order[:-10]])
    run_stage(some, "extract")
    assert sum(passed) == 2 * NUM_IMAGES - 10
    (folder / "features/features.npy").unlink()
    run_stage(folder, "extract")
    assert sum(passed) == 2 * NUM_IMAGES
    assert (folder / "features/features.npy").read_bytes() == whole
    # another resolution is another kind of features
    params = tiny_params()
    params["datasets"]["digits"]["images"] |= {"resize": 33}
    write_params(folder, params)
    run_stage(folder, "extract")
    assert sum(passed) == 3 * NUM_IMAGES


def test_the_stage_equals_the_network_itself(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "run", tiny_params())
    run_stage(folder, "extract")
    result = np.load(folder / "features/features.npy")
    assert result.shape == (NUM_IMAGES, 1024)
    assert result.dtype == np.float32
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.mobilenet_v3_small(weights=None).eval()
    network.classifier[3] = nn.Identity()
    pixels = torch.from_numpy(tiny_images()[0]).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(pixels, (32, 32), mode="bicubic", antialias=True).float() / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = network((resized - mean) / std).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert not list((tmp_path / "ssdh-home" / "work").glob("*/"))  # nothing half-done stays
