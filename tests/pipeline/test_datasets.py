"""One's own photos through the real pipeline: without labels, with several a photo, changed, in queued experiments."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdh.features.images import read_manifest
from ssdh.hashing.codes import unpack
from tests.helpers.clone import Clone, make_clone

pytestmark = pytest.mark.long

SETTINGS = {
    "dataset": "folder",
    "datasets.folder.images.size": "32",
    "datasets.folder.images.resize": "32",
    "datasets.folder.images.weights": "random",
    "datasets.folder.data.num_query": "20",
    "datasets.folder.topk": "30",
}


@pytest.fixture(scope="module")
def coco(shared: Path) -> tuple[list[Path], np.ndarray]:
    """80 real photos and their (80, 80) labels, 2.9 a photo."""
    root = shared / "coco256-flickr-layout"
    names = (root / "img.txt").read_text().split()[:80]
    targets = np.loadtxt(root / "targets.txt", dtype=np.uint8, max_rows=80)
    return [root / "images" / name for name in names], targets


@pytest.fixture(scope="module")
def clone(project: Path, coco: tuple[list[Path], np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone whose data set is a folder of 80 photos outside of it, run once without labels."""
    folder = tmp_path_factory.mktemp("folder")
    photos = folder / "photos"
    photos.mkdir()
    for path in coco[0]:
        shutil.copy(path, photos)
    clone = make_clone(project, folder / "clone")
    clone.set_all(SETTINGS | {"datasets.folder.data.root": str(photos)})
    clone.repro()
    clone.commit("without labels")
    return clone


def _photos(clone: Clone) -> Path:
    return clone.folder.parent / "photos"


def _metrics(clone: Clone, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((clone.folder / f"metrics/{name}.json").read_text())
    return content


def test_without_labels_there_are_codes_and_what_needs_no_labels(clone: Clone) -> None:
    assert np.load(clone.folder / "models/codes.npy").shape == (80, 2)
    assert np.load(clone.folder / "data/labels.npy").shape == (80, 0)
    metrics = _metrics(clone, "metrics")
    assert not [key for key in metrics if key.startswith("map")]
    assert {"bit_balance", "unique_codes"} <= metrics.keys()
    recalls = {key: value for key, value in metrics.items() if "recall" in key}
    assert recalls, metrics
    data = _metrics(clone, "data")
    assert (data["images"], data["query"], data["train"], data["database"], data["classes"]) == (80, 20, 60, 60, [])
    assert "Running stage" not in clone.dvc("repro").stdout


def test_replaced_and_new_photos_get_their_own_feature_rows(clone: Clone) -> None:
    names, digests = read_manifest(clone.folder / "data/images")
    before = np.load(clone.folder / "features/features.npy")
    replaced = _photos(clone) / names[5]
    original = replaced.read_bytes()
    with Image.open(_photos(clone) / names[9]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(replaced)
    shutil.copy(_photos(clone) / names[20], _photos(clone) / "zzz.jpg")
    try:
        ran = clone.repro("extract")
        assert "prepare" in ran
        assert "extract" in ran
        new_names, new_digests = read_manifest(clone.folder / "data/images")
        after = np.load(clone.folder / "features/features.npy")
        assert new_names == [*names, "zzz.jpg"]
        assert [old == new for old, new in zip(digests, new_digests, strict=False)].count(False) == 1
        same = (before == after[:80]).all(axis=1)
        assert np.flatnonzero(~same).tolist() == [5]
        np.testing.assert_array_equal(after[80], after[20])
    finally:
        replaced.write_bytes(original)
        (_photos(clone) / "zzz.jpg").unlink()
    clone.repro("extract")
    np.testing.assert_array_equal(np.load(clone.folder / "features/features.npy"), before)


def test_bad_photo_is_reported_before_earlier_results_are_removed(clone: Clone) -> None:
    (_photos(clone) / "broken.jpg").write_bytes(b"<html>404</html>")
    try:
        done = clone.dvc("repro", check=False)
        assert done.returncode != 0
        assert "broken.jpg: a web page" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert (clone.folder / "data/images/manifest.csv").exists()
        assert np.load(clone.folder / "models/codes.npy").shape == (80, 2)
    finally:
        (_photos(clone) / "broken.jpg").unlink()


def _average_precisions(relevant: np.ndarray, distances: np.ndarray, topk: int) -> np.ndarray:
    """AP of each query by a plain loop: a stable sort of the database, precision at each relevant rank of the top-k."""
    results = []
    for row, distance in zip(relevant, distances, strict=True):
        hits = row[np.argsort(distance, kind="stable")][:topk]
        ranks = np.flatnonzero(hits) + 1
        results.append(np.mean([hits[:rank].sum() / rank for rank in ranks]) if len(ranks) else 0.0)
    return np.array(results)


def test_several_labels_a_photo_mean_that_one_shared_label_is_enough(
    clone: Clone, coco: tuple[list[Path], np.ndarray]
) -> None:
    paths, targets = coco
    lines = [
        f"{path.name},{';'.join(f'l{column:02d}' for column in np.flatnonzero(row))}"
        for path, row in zip(paths, targets, strict=True)
    ]
    (_photos(clone) / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    try:
        ran = clone.repro("evaluate")
    finally:
        (_photos(clone) / "labels.csv").unlink()
    assert "extract" not in ran  # the images are the same: labels are another out
    metrics = _metrics(clone, "metrics")

    names, _ = read_manifest(clone.folder / "data/images")
    labels = np.stack([targets[[path.name for path in paths].index(name)] for name in names])
    roles = dict(line.split(",") for line in (clone.folder / "data/split/roles.csv").read_text().split()[1:])
    query = np.array([int(row) for row, role in roles.items() if role == "query"])
    database = np.load(clone.folder / "data/split/order.npy")
    codes = unpack(np.load(clone.folder / "models/codes.npy"), 12).astype(int)
    distances = (12 - codes[query] @ codes[database].T) // 2
    shared = labels[query].astype(int) @ labels[database].T.astype(int) > 0
    by_hand = _average_precisions(shared, distances, 30)
    assert metrics["map_stable"] == pytest.approx(by_hand.mean(), abs=1e-6)
    assert abs(metrics["map"] - by_hand.mean()) < 0.1
    assert metrics["queries_without_relevant"] == int((~shared.any(axis=1)).sum())
    # other readings of "relevant" give other numbers: all labels equal, or the first label equal
    for other in (
        (labels[query][:, None] == labels[database][None]).all(axis=2),
        labels[query].argmax(axis=1)[:, None] == labels[database].argmax(axis=1)[None],
    ):
        assert abs(_average_precisions(other, distances, 30).mean() - metrics["map_stable"]) > 0.02


def test_added_folder_travels_into_experiments_of_their_own_copy(clone: Clone) -> None:
    mine = clone.folder / "data/raw/mine"
    shutil.copytree(_photos(clone), mine)
    clone.dvc("add", "data/raw/mine")
    clone.set_all({"datasets.folder.data.root": "data/raw/mine"})
    clone.commit("my photos, tracked by DVC")
    assert (clone.folder / "data/raw/mine.dvc").exists()
    assert "data/raw/mine.dvc" in clone.run("git", "ls-files").stdout
    clone.dvc("exp", "run", "--temp", "-n", "eight", "-S", "bits=8")  # the copy that a queue's worker makes
    clone.dvc("exp", "apply", "eight")
    assert _metrics(clone, "metrics")["bits"] == 8
    assert _metrics(clone, "data")["images"] == 80
