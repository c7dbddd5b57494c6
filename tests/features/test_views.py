"""Views: a crop is decided by the image's SHA-256 and the view's number alone, and computed once."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from ssdh.core.distributed import Rank
from ssdh.core.files import write_csv
from ssdh.core.split import Split, read_split, write_split
from ssdh.features import forward
from ssdh.features.augment import crop_on_device, draw
from ssdh.features.backbone import Backbone
from ssdh.features.colours import recolour
from ssdh.features.extract import compute_features
from ssdh.features.images import ImageSource, open_images, read_digests, read_manifest
from ssdh.features.params import Preprocessing, ViewsParams
from ssdh.features.views import Views
from tests.features.test_images import write_array_set, write_file_set
from tests.helpers.tiny import NUM_IMAGES, run_stage, tiny_images, tiny_params, write_params, write_tiny

CPU = torch.device("cpu")
PIXELS = Preprocessing(resize=16, size=16, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
AS_PIXELS = Backbone(nn.Flatten(), 3 * 16 * 16, "pixels", PIXELS)  # a "network" whose features are its input


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


def compute(
    path: Path, source: ImageSource, digests: np.ndarray, rows: np.ndarray, *, count: int = 2, workers: int = 0
) -> np.ndarray:
    params = ViewsParams(count=count)
    passes = Views(AS_PIXELS, source, digests, params, CPU, workers=workers).passes({"kind": "pixels"})
    compute_features(path, (count, len(rows)), rows, digests[rows], passes, Rank())
    return np.load(path)


def test_a_view_is_the_crop_that_digest_and_number_draw(tmp_path: Path) -> None:
    images = tiny_images()[0][:5]
    folder = write_array_set(tmp_path / "images", images)
    names = [(row, f"{row}", hashlib.sha256(image).hexdigest()) for row, image in enumerate(images)]
    write_csv(folder / "manifest.csv", ("row", "path", "sha256"), names)
    digests = read_digests(folder)
    rows = np.array([4, 0, 2])
    result = compute(tmp_path / "views.npy", open_images(folder), digests, rows)
    assert result.shape == (2, 3, 3 * 16 * 16)
    assert result.dtype == np.float16
    for view in range(2):
        for place, row in enumerate(rows):
            number = int(read_manifest(folder)[1][row], 16)
            drawn = draw((number, view), ViewsParams(count=1))
            pixels = torch.from_numpy(images[row]).permute(2, 0, 1)[None]
            expected = recolour(crop_on_device(pixels, [drawn], 16), [drawn.colours])
            np.testing.assert_allclose(result[view, place], expected.numpy().ravel(), rtol=1e-3, atol=0.1)


def test_views_depend_neither_on_order_nor_on_workers_nor_on_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row, image in enumerate(tiny_images()[0][:70]):
        Image.fromarray(image).resize((40, 30)).save(tmp_path / f"{row:02d}.png")
    files = sorted(tmp_path.glob("*.png"))
    source = open_images(write_file_set(tmp_path / "manifest", tmp_path, files), tmp_path)
    digests = read_digests(tmp_path / "manifest")
    order = np.random.default_rng(0).permutation(70)
    whole = compute(tmp_path / "views.npy", source, digests, np.arange(70))
    assert np.array_equal(compute(tmp_path / "views.npy", source, digests, order), whole[:, order])
    for workers in (0, 2):
        monkeypatch.setenv("SSDH_HOME", str(tmp_path / f"empty-{workers}"))
        result = compute(tmp_path / "views.npy", source, digests, order[:37], workers=workers)
        assert np.array_equal(result, whole[:, order[:37]])
    assert not np.array_equal(whole[0], whole[1])


def test_the_stage_computes_only_rows_and_views_that_it_has_not_seen(tmp_path: Path, passed: list[int]) -> None:
    folder = write_tiny(tmp_path / "run", tiny_params() | {"views": {"count": 2}})
    split = read_split(folder / "data/split")
    run_stage(folder, "extract", "views")
    assert sum(passed) == NUM_IMAGES + 2 * len(split.train)
    first = np.load(folder / "features/views.npy")
    assert first.shape == (2, len(split.train), 1024)
    assert first.dtype == np.float16
    passed.clear()
    write_params(folder, tiny_params() | {"views": {"count": 3}})
    run_stage(folder, "views")
    assert sum(passed) == len(split.train)  # the third view
    assert np.array_equal(np.load(folder / "features/views.npy")[:2], first)
    passed.clear()
    new = np.setdiff1d(np.arange(NUM_IMAGES), split.train)[:5]
    rows = np.r_[new, split.train[::-1]]  # as another seed may draw them
    others = Split(query=np.setdiff1d(np.arange(NUM_IMAGES), rows), train=rows, database=rows)
    write_split(folder / "data/split", others, NUM_IMAGES)
    run_stage(folder, "views")
    assert sum(passed) == 3 * len(new)
    assert np.array_equal(np.load(folder / "features/views.npy")[:2, 5:], first[:, ::-1])


def test_no_views_are_an_empty_array_of_the_right_width(tmp_path: Path, passed: list[int]) -> None:
    folder = write_tiny(tmp_path / "run", tiny_params())
    run_stage(folder, "extract")
    passed.clear()
    run_stage(folder, "views")
    views = np.load(folder / "features/views.npy")
    assert views.shape == (0, len(read_split(folder / "data/split").train), 1024)
    assert views.dtype == np.float16
    assert passed == []


@pytest.mark.parametrize(("recipe", "count"), [("manifold_views", 0), ("crovca", 6)])
def test_random_weights_are_asked_for_views_only_by_recipes_that_cannot_do_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str, count: int
) -> None:
    folder = write_tiny(tmp_path / "run", tiny_params() | {"recipe": recipe})
    run_stage(folder, "extract", "views")
    assert np.load(folder / "features/views.npy").shape == (count, len(read_split(folder / "data/split").train), 1024)
    said = "none, since random weights see little in them; recipe manifold_views trains on the features alone"
    assert (said in capsys.readouterr().err) == (count == 0)


def test_a_network_with_trained_weights_is_asked_for_views(tmp_path: Path) -> None:
    params = tiny_params() | {"recipe": "manifold_views"}
    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), weights)
    params["datasets"]["digits"]["images"]["weights"] = "file"
    params["backbone"]["weights_file"] = str(weights)
    folder = write_tiny(tmp_path / "run", params)
    run_stage(folder, "extract", "views")
    assert np.load(folder / "features/views.npy").shape[0] == 4
