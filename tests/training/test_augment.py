"""Crops and flips: where they fall, and that nothing but (seed, epoch, row) decides them."""

import gc
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ssdh.features.images import ImageSource, open_images
from ssdh.features.params import Preprocessing
from ssdh.training import augment as augmentation
from ssdh.training.augment import Augmentation, crop_box, crop_on_device, draw
from tests.features.test_images import write_array_set, write_file_set

RAW = Preprocessing(resize=36, size=32, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))  # pixels as they are


def _ramp(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downwards: a pixel's colour tells its place."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    image[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    return image


@pytest.fixture(params=["array", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSource:
    if request.param == "array":
        return open_images(write_array_set(tmp_path / "images", np.stack([_ramp(40, 60)] * 20)))
    root = tmp_path / "root"
    root.mkdir()
    for row in range(20):
        Image.fromarray(_ramp(40 + row, 60)).save(root / f"{row:02d}.png")
    return open_images(write_file_set(tmp_path / "manifest", root, sorted(root.iterdir())), root)


def _batches(
    source: ImageSource, *batches: list[int], seed: int = 0, epoch: int = 0, workers: int = 0
) -> list[torch.Tensor]:
    rows = [np.array(batch) for batch in batches]
    return list(Augmentation(source, RAW, seed=seed, workers=workers).batches(rows, epoch))


def test_sample_does_not_depend_on_its_batch_nor_on_workers(source: ImageSource) -> None:
    one = torch.cat(_batches(source, list(range(20))))
    assert one.shape == (20, 3, 32, 32)
    assert one.dtype == torch.float32
    for workers in (0, 2):
        many = _batches(source, [0, 1, 2], [3], list(range(4, 20)), workers=workers)
        assert [len(batch) for batch in many] == [3, 1, 16]
        assert torch.equal(torch.cat(many), one)
    shuffled = _batches(source, [5, 19, 0])[0]
    assert torch.equal(shuffled, one[[5, 19, 0]])


def test_every_epoch_and_seed_draws_anew(source: ImageSource) -> None:
    first, again = _batches(source, [1, 2], epoch=3)[0], _batches(source, [1, 2], epoch=3)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, _batches(source, [1, 2], epoch=4)[0])
    assert not torch.equal(first, _batches(source, [1, 2], epoch=3, seed=1)[0])


def test_workers_live_from_epoch_to_epoch(tmp_path: Path) -> None:
    for row in range(6):
        Image.fromarray(_ramp(40 + row, 60)).save(tmp_path / f"{row}.png")
    source = open_images(write_file_set(tmp_path / "manifest", tmp_path, sorted(tmp_path.glob("*.png"))), tmp_path)
    augmentation = Augmentation(source, RAW, seed=0, workers=2)
    batches = [np.array([0, 5, 2]), np.array([1]), np.array([4, 3])]
    before = _children()  # of tests that ran in this process
    alive = []
    for epoch, part in ((0, batches), (1, batches[1:]), (2, batches)):
        found = list(augmentation.batches(part, epoch))
        alive.append(_children() - before)
        expected = _batches(source, *(rows.tolist() for rows in part), epoch=epoch)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    assert len(alive[0]) == 2
    assert alive[0] == alive[1] == alive[2]
    del augmentation
    gc.collect()
    assert not _children() & alive[0]


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_crops_lie_where_they_were_drawn(source: ImageSource) -> None:
    """On a ramp the corner pixels of the output tell the box; checked against the box drawn for the row."""
    height, width = (40, 60) if source.is_array else (46, 60)
    row = 6
    seen = set()
    for epoch in range(12):
        out = _batches(source, [row], epoch=epoch)[0][0].numpy()
        drawn = draw(0, epoch, row)
        left, top, crop_width, crop_height = crop_box(drawn, width, height)
        red = np.array([left + 0.5 * crop_width / 32, left + crop_width * 31.5 / 32]) * 255 / width
        green = np.array([top + 0.5 * crop_height / 32, top + crop_height * 31.5 / 32]) * 255 / height
        if drawn[4] < 0.5:
            red = red[::-1]
        seen.add(bool(drawn[4] < 0.5))
        np.testing.assert_allclose(out[0, 16, [0, -1]], red, atol=8)
        np.testing.assert_allclose(out[1, [0, -1], 16], green, atol=8)
    assert seen == {True, False}


def test_draws_follow_their_distribution() -> None:
    draws = np.stack([draw(seed, 1, row) for seed in range(3) for row in range(1000)])
    assert draws[:, 0].min() > 0.08
    assert draws[:, 0].max() < 1
    assert abs(draws[:, 0].mean() - 0.54) < 0.02
    np.testing.assert_allclose([draws[:, 1].min(), draws[:, 1].max()], np.log([3 / 4, 4 / 3]), atol=0.01)
    for column in (2, 3, 4):
        assert abs(draws[:, column].mean() - 0.5) < 0.03
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.08


def test_boxes_have_their_area_and_stay_inside() -> None:
    for row in range(300):
        drawn = draw(7, 0, row)
        left, top, width, height = crop_box(drawn, 500, 375)
        assert left >= 0
        assert top >= 0
        assert left + width <= 500 + 1e-9
        assert top + height <= 375 + 1e-9
        if width < 500 and height < 375:
            assert width * height == pytest.approx(drawn[0] * 500 * 375)
            assert width / height == pytest.approx(np.exp(drawn[1]))


def test_whole_image_unflipped_is_the_identity() -> None:
    image = torch.from_numpy(_ramp(24, 24)).permute(2, 0, 1)[None]
    out = crop_on_device(image, np.array([[1.0, 0.0, 0.3, 0.9, 0.7]]), 24)
    torch.testing.assert_close(out, image.float(), atol=1e-3, rtol=0)
    mirrored = crop_on_device(image, np.array([[1.0, 0.0, 0.3, 0.9, 0.2]]), 24)
    torch.testing.assert_close(mirrored, image.float().flip(3), atol=1e-3, rtol=0)


def test_crops_reach_a_gpu_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other copy would wait for all kernels before it, batch by batch."""
    moved: list[torch.Size] = []

    def noted(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(tensor.shape)
        return tensor

    monkeypatch.setattr(augmentation, "to_device", noted)
    crop_on_device(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.stack([draw(0, 0, row) for row in range(2)]), 5)
    assert moved == [(2, 2, 5)]


def test_scaling_up_agrees_with_pillow() -> None:
    rng = np.random.default_rng(1)
    small = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((20, 20)))
    out = crop_on_device(torch.from_numpy(small.copy()).permute(2, 0, 1)[None], np.array([[1.0, 0, 0, 0, 0.9]]), 60)
    expected = np.asarray(Image.fromarray(small).resize((60, 60), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    # torch's grid uses the cubic with a = −0.75, Pillow a = −0.5: alike within some grey values
    assert np.abs(out[0].numpy() - expected).mean() < 2
