"""Blocks: padded, resumable, shared out, put together once; and the extract stage on a tiny network."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssdh.core.distributed import Rank
from ssdh.core.errors import DataError
from ssdh.features import extract as extraction
from ssdh.features.extract import BLOCK, compute_rows, run_network
from tests.helpers.tiny import NUM_IMAGES, run_stage, tiny_images, tiny_params, write_tiny


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
    monkeypatch.setattr(extraction, "FLUSH_SECONDS", -1.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_all_rows_in_order(tmp_path: Path, count: int) -> None:
    compute_rows(tmp_path / "out.npy", tmp_path, count, Counting(), Rank())
    found = np.load(tmp_path / "out.npy")
    assert np.array_equal(found, np.stack([np.arange(count), 2 * np.arange(count)], 1).astype(np.float32))


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
        extraction._assemble(tmp_path / "out.npy", tmp_path, 2 * BLOCK, 2)


def test_the_last_block_is_padded_so_that_its_values_do_not_depend_on_its_size() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    images = torch.randn(BLOCK, 3, 9, 9)
    seen: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    (whole,) = run_network(network, [images], torch.device("cpu"))
    (part,) = run_network(network, [images[:7]], torch.device("cpu"))
    assert seen == [BLOCK, BLOCK]
    assert part.shape == (7, 5)
    assert np.array_equal(part, whole[:7])


def test_order_of_batches_and_precision() -> None:
    network = nn.Linear(4, 4)
    batches = [torch.full((BLOCK, 4), float(number)) for number in range(4)]
    found = list(run_network(network, batches, torch.device("cpu")))
    for batch, output in zip(batches, found, strict=True):
        assert np.array_equal(output, network(batch).detach().numpy())
    (low,) = run_network(network, batches[:1], torch.device("cpu"), precision="bf16")
    assert low.dtype == np.float32
    assert np.array_equal(low, network.bfloat16()(batches[0].bfloat16()).detach().float().numpy())


def test_the_stage_equals_the_network_itself(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "run", tiny_params())
    run_stage(folder, "extract")
    found = np.load(folder / "features/features.npy")
    assert found.shape == (NUM_IMAGES, 1024)
    assert found.dtype == np.float32
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.mobilenet_v3_small(weights=None).eval()
    network.classifier[3] = nn.Identity()
    pixels = torch.from_numpy(tiny_images()[0]).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(pixels, (32, 32), mode="bicubic", antialias=True).float() / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        wanted = network((resized - mean) / std).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert not list((tmp_path / "ssdh-home" / "work").glob("*/"))  # nothing half-done stays
