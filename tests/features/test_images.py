"""Batches of images: right pixels, the same for any number of workers, from arrays and from files."""

import csv
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssdh.core.errors import DataError, ParameterError, SSDHError
from ssdh.core.params import validate
from ssdh.features import loader as images
from ssdh.features.images import ArrayImages, FileImages, open_images, read_manifest
from ssdh.features.loader import eval_loader, normalise, preprocess
from ssdh.features.params import ImageParams, Preprocessing

PLAIN = Preprocessing(resize=36, size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


def write_array_set(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", pixels)
    return folder


def write_file_set(folder: Path, root: Path, files: list[Path]) -> Path:
    """A manifest of files under `root`, written here by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "path", "sha256"])
        for row, path in enumerate(files):
            name = path.relative_to(root).as_posix()
            writer.writerow([row, name, hashlib.sha256(path.read_bytes()).hexdigest()])
    return folder


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """37 smooth random images of 30×40."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (37, 6, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((40, 30), Image.Resampling.BICUBIC)) for c in coarse])


@pytest.fixture
def array_set(tmp_path: Path, pixels: np.ndarray) -> ArrayImages:
    source = open_images(write_array_set(tmp_path / "images", pixels))
    assert isinstance(source, ArrayImages)
    return source


@pytest.fixture
def file_set(tmp_path: Path, pixels: np.ndarray) -> FileImages:
    """Files of different sizes, formats and odd names."""
    root = tmp_path / "root"
    (root / "sub folder").mkdir(parents=True)
    files = []
    for row, array in enumerate(pixels[:13]):
        image = Image.fromarray(array).resize((40 + 7 * row, 90 - 3 * row))
        path = root / ("sub folder" if row % 2 else "") / f"photo, {row} ü.{('jpg', 'png', 'webp')[row % 3]}"
        image.save(path)
        files.append(path)
    source = open_images(write_file_set(tmp_path / "manifest", root, files), root)
    assert isinstance(source, FileImages)
    return source


def test_resizing_agrees_with_pillow(pixels: np.ndarray) -> None:
    """Pillow is the oracle: bicubic with antialiasing, the long side rounded down, the crop in the middle."""
    for resize, size in ((36, 32), (20, 16), (64, 64), (30, 30)):
        ours = preprocess(pixels[:5], Preprocessing(resize, size, (0, 0, 0), (1, 1, 1)))
        assert ours.shape == (5, 3, size, size)
        for array, got in zip(pixels[:5], ours, strict=True):
            width = int(resize * 40 / 30)
            whole = Image.fromarray(array).resize((width, resize), Image.Resampling.BICUBIC)
            left, top = round((width - size) / 2), round((resize - size) / 2)
            expected = np.asarray(whole.crop((left, top, left + size, top + size))).transpose(2, 0, 1).astype(int)
            assert np.abs(got.numpy() - expected).max() <= 1


def test_too_small_for_the_crop_is_padded_black(pixels: np.ndarray) -> None:
    out = preprocess(pixels[:1], Preprocessing(20, 32, (0, 0, 0), (1, 1, 1)))[0]
    assert out.shape == (3, 32, 32)
    assert (out[:, :6] == 0).all()
    assert (out[:, 26:, :] == 0).all()
    assert (out[:, 6:26] > 0).any()


def test_normalise_by_hand() -> None:
    batch = torch.tensor([[[[0]], [[51]], [[255]]]], dtype=torch.uint8)
    got = normalise(batch, PLAIN)[0, :, 0, 0]
    torch.testing.assert_close(got, torch.tensor([(0 - 0.5) / 0.2, (0.2 - 0.4) / 0.25, (1 - 0.3) / 0.5]))
    assert got.dtype == torch.float32
    assert batch.max() == 255  # the batch itself stays


def test_mean_and_std_go_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy for each batch would let a GPU run empty."""
    batch = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    values = Preprocessing(4, 4, (0.125, 0.25, 0.375), (0.5, 0.625, 0.75))
    first = normalise(batch, values)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("copied again"))
    assert torch.equal(normalise(batch, values), first)


@pytest.mark.parametrize("kind", ["array", "file"])
def test_blocks_do_not_depend_on_workers_nor_on_each_other(
    kind: str, array_set: ArrayImages, file_set: FileImages
) -> None:
    source = array_set if kind == "array" else file_set
    reference = torch.cat(list(eval_loader(source, PLAIN, batch_size=1)))
    assert reference.shape == (len(source), 3, 32, 32)
    assert reference.dtype == torch.uint8
    threads = torch.get_num_threads()
    for workers, batch_size, num_threads in ((0, 8, 1), (1, 8, 2), (2, 5, 1), (3, 64, 2)):
        torch.set_num_threads(num_threads)
        blocks = list(eval_loader(source, PLAIN, batch_size=batch_size, workers=workers))
        assert [len(block) for block in blocks[:-1]] == [batch_size] * (len(blocks) - 1)
        assert torch.equal(torch.cat(blocks), reference)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["array", "file"])
def test_rows_come_in_the_order_asked_for(kind: str, array_set: ArrayImages, file_set: FileImages) -> None:
    source = array_set if kind == "array" else file_set
    everything = torch.cat(list(eval_loader(source, PLAIN)))
    rows = np.array([7, 2, 2, 11, 0])
    got = torch.cat(list(eval_loader(source, PLAIN, rows=rows, batch_size=2, workers=2)))
    assert torch.equal(got, everything[torch.from_numpy(rows)])
    assert list(eval_loader(source, PLAIN, rows=rows[:0])) == []


def test_threads_that_resize_arrays_end_with_their_consumer(array_set: ArrayImages) -> None:
    def resizing() -> int:
        return sum(thread.name.startswith("resize") for thread in threading.enumerate())

    threads = torch.get_num_threads()
    blocks = eval_loader(array_set, PLAIN, batch_size=2, workers=3)
    next(blocks)
    assert 0 < resizing() <= 3
    blocks.close()  # type: ignore[attr-defined]
    assert resizing() == 0
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("workers", [0, 2])
def test_array_that_is_gone_stops_the_run(array_set: ArrayImages, workers: int) -> None:
    array_set.path.unlink()
    with pytest.raises(DataError, match=r"images\.npy cannot be opened .*: run `dvc repro`"):
        list(eval_loader(array_set, PLAIN, batch_size=8, workers=workers))


def test_files_give_what_pillow_gives(file_set: FileImages) -> None:
    for row, got in enumerate(torch.cat(list(eval_loader(file_set, PLAIN)))):
        with Image.open(file_set.path(row)) as image:
            rgb = image.convert("RGB")
        short = min(rgb.size)
        rgb = rgb.resize((int(36 * rgb.width / short), int(36 * rgb.height / short)), Image.Resampling.BICUBIC)
        left, top = round((rgb.width - 32) / 2), round((rgb.height - 32) / 2)
        expected = np.asarray(rgb.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1).astype(int)
        # JPEGs of twice the size or more are decoded at half of it, which is not quite the same
        assert np.abs(got.numpy() - expected).mean() < (3 if file_set.path(row).suffix == ".jpg" else 0.3)


@pytest.mark.parametrize("workers", [0, 2])
def test_changed_gone_and_broken_files_stop_the_run(file_set: FileImages, workers: int) -> None:
    path = file_set.path(3)
    original = path.read_bytes()
    path.write_bytes(file_set.path(6).read_bytes())
    with pytest.raises(DataError, match=r"photo, 3.* has changed .*: run `dvc repro` \(.*--force prepare`") as caught:
        list(eval_loader(file_set, PLAIN, workers=workers))
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=r"photo, 3.* cannot be read .*: run `dvc repro` \("):
        list(eval_loader(file_set, PLAIN, workers=workers))
    path.write_bytes(original)
    list(eval_loader(file_set, PLAIN, workers=workers))


def test_file_that_never_was_an_image(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_text("<html>404</html>")
    source = open_images(write_file_set(tmp_path / "manifest", tmp_path, [path]), tmp_path)
    with pytest.raises(DataError, match=r"page\.jpg: a web page"):
        list(eval_loader(source, PLAIN))


def test_source_of_files_needs_its_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be given"):
        open_images(tmp_path)
    with pytest.raises(DataError, match=r"manifest\.csv cannot be read .*: run `dvc repro`$"):
        open_images(tmp_path, tmp_path)


def test_broken_images_file_is_named(tmp_path: Path) -> None:
    for content in (b"\x93NUMPY nonsense", b""):
        (tmp_path / "images.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"images\.npy cannot be opened .*: run `dvc repro`$"):
            open_images(tmp_path)
    np.save(tmp_path / "images.npy", np.zeros((3, 4), np.uint8))
    with pytest.raises(DataError, match=r"must hold \(N, H, W, 3\) .*: run `dvc repro`$"):
        open_images(tmp_path)


def test_manifest_is_read_back(file_set: FileImages, tmp_path: Path) -> None:
    paths, digests = read_manifest(tmp_path / "manifest")
    assert [file_set.root / path for path in paths] == [file_set.path(row) for row in range(len(file_set))]
    assert digests[4] == hashlib.sha256(file_set.read_bytes(4)).hexdigest()


BLOCK_BYTES = 4 * 3 * 32**2


@pytest.mark.parametrize(
    ("free", "expected"), [(1000, 0), (2 * BLOCK_BYTES, 1), (4 * BLOCK_BYTES, 2), (10**9, 2), (None, 2)]
)
def test_little_shared_memory_means_few_workers(
    file_set: FileImages, monkeypatch: pytest.MonkeyPatch, free: int | None, expected: int
) -> None:
    """A container's 64 MB /dev/shm would kill the workers with a bus error."""
    started = []

    class Spy(images.DataLoader):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            started.append(options["num_workers"])
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "DataLoader", Spy)
    monkeypatch.setattr(images, "_shared_memory", lambda: free)
    assert len(torch.cat(list(eval_loader(file_set, PLAIN, batch_size=4, workers=2)))) == 13
    assert started == [expected]


class _Killed(FileImages):
    """Ends the worker that reads its second block, as the kernel does when memory is short."""

    def read_bytes(self, row: int) -> bytes:
        if row >= 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_bytes(row)


def test_killed_worker_is_one_line(file_set: FileImages, tmp_path: Path) -> None:
    source = _Killed.from_manifest(tmp_path / "manifest/manifest.csv", file_set.root)
    with pytest.raises(SSDHError, match=r"worker processes was killed.*runtime\.workers") as caught:
        list(eval_loader(source, PLAIN, batch_size=4, workers=1))
    assert "\n" not in str(caught.value)


def test_worker_killed_while_the_consumer_is_busy_is_told_with_a_later_block(file_set: FileImages) -> None:
    """PyTorch's own handler raises wherever the main thread is, past every `except` of the loader."""
    others = multiprocessing.active_children()
    blocks = eval_loader(file_set, PLAIN, batch_size=1, workers=1)
    next(blocks)
    (worker,) = (child for child in multiprocessing.active_children() if child not in others)
    worker.kill()
    os.waitid(os.P_PID, worker.pid or 0, os.WEXITED | os.WNOWAIT)
    assert not worker.is_alive()
    with pytest.raises(SSDHError, match=r"worker processes was killed"):
        list(blocks)


_PEAK = """
import sys
from pathlib import Path
import torch
from ssdh.core.distributed import Rank
from ssdh.features.blocks import compute_rows
from ssdh.features.forward import image_blocks
from ssdh.features.images import open_images
from ssdh.features.params import Preprocessing
from tests.helpers.memory import on_two_cores, peak
on_two_cores()
network = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten())
for folder in map(Path, sys.argv[1:]):
    before = peak()
    source = open_images(folder)
    blocks = image_blocks(network, Preprocessing(16, 16, (0, 0, 0), (1, 1, 1)), source, torch.device("cpu"))
    (folder / "work").mkdir()
    compute_rows(folder / "features.npy", folder / "work", len(source), blocks, Rank())
print((peak() - before) // 1024)
"""


@pytest.mark.long
def test_extraction_of_four_times_more_images_needs_no_more_memory(tmp_path: Path) -> None:
    """100,000 and 400,000 images: the peak grows by a fraction of the pixels read and of the features written."""
    folders = [tmp_path / str(count) for count in (100_000, 400_000)]
    for folder in folders:
        folder.mkdir()
        count = int(folder.name)
        array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, 16, 16, 3))
        array[:: count // 10] = 255
        array.flush()
        del array
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, folders)],
        cwd=Path(images.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        env={"OMP_NUM_THREADS": "1", "SSDH_HOME": str(tmp_path)},
    )
    for folder in folders:
        count = int(folder.name)
        features = np.load(folder / "features.npy", mmap_mode="r")
        assert features.shape == (count, 192)
        np.testing.assert_array_equal(np.flatnonzero(features[:, 0]), np.arange(0, count, count // 10))
    assert int(done.stdout) < 15_000  # KiB; of pixels and of features there are 225,000 more


def test_list_of_many_files_is_compact(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    rows = "".join(f"{row},some/folder/{row:08d}.jpg,{digest}\n" for row in range(200_000))
    (tmp_path / "manifest.csv").write_text("row,path,sha256\n" + rows)
    tracemalloc.start()
    source = open_images(tmp_path, tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 200_000
    assert source.path(123_456) == tmp_path / "some/folder/00123456.jpg"  # type: ignore[union-attr]
    assert held < 200_000 * 80  # a list of paths and digests would take 200 bytes a row


def test_image_parameters() -> None:
    good = {"size": 224, "resize": 256, "weights": "imagenet", "mean": None, "std": [0.2, 0.2, 0.2]}
    params = validate(ImageParams, good, "datasets.d.images")
    assert params.std == [0.2, 0.2, 0.2]
    wrong: list[tuple[str, Any]] = [("size", "224"), ("weights", "coco"), ("mean", [1.0, 2.0]), ("resize", 0)]
    for key, value in [*wrong, ("resize", 223), ("std", 3), ("std", [0.2, 0.0, 0.2])]:
        with pytest.raises(ParameterError, match=f"datasets.d.images.{key}"):
            validate(ImageParams, good | {key: value}, "datasets.d.images")
