"""Crops, flips and colours: where they fall, and that nothing but the sample's own numbers decides them."""

import gc
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from ssdh.features import augment as augmentation
from ssdh.features.augment import CROPS, Augmentation, Draw, crop_box, crop_on_device, draw
from ssdh.features.colours import AS_IT_IS, Recolouring, recolour
from ssdh.features.images import ArrayImages, ImageSource, open_images
from ssdh.features.params import AugmentParams, Preprocessing
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
    source: ImageSource,
    *batches: list[int],
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    params: AugmentParams = CROPS,
) -> list[torch.Tensor]:
    rows = [np.array(batch) for batch in batches]
    augmentation = Augmentation(source, RAW, workers=workers)
    return list(augmentation.batches([(part, lambda row: draw((seed, epoch, row), params)) for part in rows]))


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
    augmentation = Augmentation(source, RAW, workers=2)
    batches = [np.array([0, 5, 2]), np.array([1]), np.array([4, 3])]
    before = _children()  # of tests that ran in this process
    alive = []
    for epoch, part in ((0, batches), (1, batches[1:]), (2, batches)):
        drawn = [(rows, lambda row, epoch=epoch: draw((0, epoch, row), CROPS)) for rows in part]
        result = list(augmentation.batches(drawn))
        alive.append(_children() - before)
        expected = _batches(source, *(rows.tolist() for rows in part), epoch=epoch)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(result, expected, strict=True))
    assert len(alive[0]) == 2
    assert alive[0] == alive[1] == alive[2]
    workers = [child for child in psutil.Process().children() if child.pid in alive[0]]
    del augmentation
    gc.collect()
    assert psutil.wait_procs(workers, timeout=300)[1] == []


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_crops_lie_where_they_were_drawn(source: ImageSource) -> None:
    """On a ramp the corner pixels of the output tell the box; checked against the box drawn for the row."""
    height, width = (40, 60) if isinstance(source, ArrayImages) else (46, 60)
    row = 6
    seen = set()
    for epoch in range(12):
        out = _batches(source, [row], epoch=epoch)[0][0].numpy()
        drawn = draw((0, epoch, row), CROPS)
        left, top, crop_width, crop_height = crop_box(drawn, width, height)
        red = np.array([left + 0.5 * crop_width / 32, left + crop_width * 31.5 / 32]) * 255 / width
        green = np.array([top + 0.5 * crop_height / 32, top + crop_height * 31.5 / 32]) * 255 / height
        if drawn.mirrored:
            red = red[::-1]
        seen.add(drawn.mirrored)
        np.testing.assert_allclose(out[0, 16, [0, -1]], red, atol=8)
        np.testing.assert_allclose(out[1, [0, -1], 16], green, atol=8)
    assert seen == {True, False}


def test_draws_follow_their_distribution() -> None:
    drawn = [draw((seed, 1, row), CROPS) for seed in range(3) for row in range(1000)]
    assert {one.colours for one in drawn} == {AS_IT_IS}
    draws = np.array([one[:5] for one in drawn], float)  # area, log ratio, x, y, mirrored
    assert draws[:, 0].min() > 0.08
    assert draws[:, 0].max() < 1
    assert abs(draws[:, 0].mean() - 0.54) < 0.02
    np.testing.assert_allclose([draws[:, 1].min(), draws[:, 1].max()], np.log([3 / 4, 4 / 3]), atol=0.01)
    for column in (2, 3, 4):
        assert abs(draws[:, column].mean() - 0.5) < 0.03
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.08


def test_boxes_have_their_area_and_stay_inside() -> None:
    for row in range(300):
        drawn = draw((7, 0, row), CROPS)
        left, top, width, height = crop_box(drawn, 500, 375)
        assert left >= 0
        assert top >= 0
        assert left + width <= 500 + 1e-9
        assert top + height <= 375 + 1e-9
        if width < 500 and height < 375:
            assert width * height == pytest.approx(drawn.area * 500 * 375)
            assert width / height == pytest.approx(np.exp(drawn.log_ratio))


def test_whole_image_unflipped_is_the_identity() -> None:
    image = torch.from_numpy(_ramp(24, 24)).permute(2, 0, 1)[None]
    out = crop_on_device(image, [Draw(1.0, 0.0, 0.3, 0.9, mirrored=False, colours=AS_IT_IS)], 24)
    torch.testing.assert_close(out, image.float(), atol=1e-3, rtol=0)
    mirrored = crop_on_device(image, [Draw(1.0, 0.0, 0.3, 0.9, mirrored=True, colours=AS_IT_IS)], 24)
    torch.testing.assert_close(mirrored, image.float().flip(3), atol=1e-3, rtol=0)


def test_crops_reach_a_gpu_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other copy would wait for all kernels before it, batch by batch."""
    moved: list[torch.Size] = []

    def noted(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(tensor.shape)
        return tensor

    monkeypatch.setattr(augmentation, "to_device", noted)
    crop_on_device(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [draw((0, 0, row), CROPS) for row in range(2)], 5)
    assert moved == [(2, 2, 5)]


def test_scaling_up_agrees_with_pillow() -> None:
    rng = np.random.default_rng(1)
    small = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((20, 20)))
    out = crop_on_device(
        torch.from_numpy(small.copy()).permute(2, 0, 1)[None],
        [Draw(1.0, 0.0, 0.0, 0.0, mirrored=False, colours=AS_IT_IS)],
        60,
    )
    expected = np.asarray(Image.fromarray(small).resize((60, 60), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    # torch's grid uses the cubic with a = −0.75, Pillow a = −0.5: alike within some grey values
    assert np.abs(out[0].numpy() - expected).mean() < 2


# --- colours --------------------------------------------------------------------------------------------------------

COLOURS = AugmentParams(scale=0.5, flip=0.5, jitter=0.7, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def test_a_sample_in_other_colours_does_not_depend_on_its_batch_nor_on_workers(source: ImageSource) -> None:
    one = torch.cat(_batches(source, list(range(20)), params=COLOURS))
    for workers in (0, 2):
        many = _batches(source, [19, 1, 2], [3], [4, 5, 6, 7], workers=workers, params=COLOURS)
        assert torch.equal(torch.cat(many), one[[19, 1, 2, 3, 4, 5, 6, 7]])
    assert not torch.equal(one, torch.cat(_batches(source, list(range(20)))))


def test_colours_do_not_depend_on_the_number_of_threads() -> None:
    """Over 2^15 values PyTorch sums a mean thread by thread."""
    images = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 224, 224)).astype(np.float32))
    changes = [Recolouring(brightness=1.2, contrast=0.7, saturation=1.3, hue=0.05, sigma=1.1)]
    before = torch.get_num_threads()
    try:
        result = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            result.append(recolour(images, changes))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert torch.equal(result[0], result[1])
    assert torch.equal(result[0], result[2])


def test_colour_changes_by_hand() -> None:
    """Two pixels, red (200, 0, 0) and grey (100, 100, 100); their luma is 0.2989 r + 0.587 g + 0.114 b."""
    image = torch.tensor([[200.0, 100.0], [0.0, 100.0], [0.0, 100.0]])[:, None, :]  # (3, 1, 2)

    def changed(**change: float) -> np.ndarray:
        return recolour(image[None], [Recolouring(**change)])[0, :, 0].T.numpy()  # type: ignore[arg-type]

    luma = 0.2989 * 200
    mean = (luma + 100) / 2
    np.testing.assert_allclose(changed(brightness=1.2), [[240, 0, 0], [120, 120, 120]], atol=0.1)
    np.testing.assert_allclose(
        changed(contrast=0.5), [[100 + mean / 2, mean / 2, mean / 2], [50 + mean / 2] * 3], atol=0.1
    )
    np.testing.assert_allclose(
        changed(saturation=0.5), [[100 + luma / 2, luma / 2, luma / 2], [100, 100, 100]], atol=0.1
    )
    np.testing.assert_allclose(changed(hue=1 / 3), [[0, 200, 0], [100, 100, 100]], atol=0.5)  # red becomes green
    np.testing.assert_allclose(changed(grey=True), [[luma] * 3, [100] * 3], atol=0.1)


def test_blur_is_a_gaussian_over_a_tenth_of_the_image() -> None:
    point = torch.zeros(1, 3, 50, 50)
    point[..., 25, 25] = 255
    result = recolour(point, [Recolouring(sigma=1.0)])[0, 0].numpy()
    weights = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    expected = np.zeros((50, 50))
    expected[23:28, 23:28] = 255 * np.outer(weights, weights) / weights.sum() ** 2
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_colours_follow_their_distribution() -> None:
    colours = [draw((9, row), COLOURS).colours for row in range(4000)]
    jittered = [one for one in colours if one.brightness != 1.0]
    assert len(jittered) / 4000 == pytest.approx(0.7, abs=0.03)
    for name, middle, strength in (
        ("brightness", 1, 0.4),
        ("contrast", 1, 0.4),
        ("saturation", 1, 0.4),
        ("hue", 0, 0.1),
    ):
        values = np.array([getattr(one, name) for one in jittered])
        assert abs(values - middle).max() <= strength
        assert values.std() == pytest.approx(strength / np.sqrt(3), rel=0.05)  # uniform over ± strength
    assert np.mean([one.grey for one in colours]) == pytest.approx(0.2, abs=0.03)
    sigmas = np.array([one.sigma for one in colours])
    assert np.mean(sigmas > 0) == pytest.approx(0.5, abs=0.03)
    assert sigmas[sigmas > 0].min() >= 0.1
    assert sigmas.max() <= 2.0
