"""COCO in both layouts, downloaded from a server on this machine, and ImageNet-100 from its lists."""

import functools
import http.server
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssdh.core.errors import DataError
from ssdh.datasets import coco, registry
from ssdh.datasets.prepare import draw_split
from ssdh.features.download import RemoteFile

IDS = [*range(1, 41), *range(51, 91)]  # of categories, with a gap as the real ones have


def instances(first: int, count: int) -> dict[str, Any]:
    """Image i has categories i and i + 1 (of 80), the first one twice; the last image has none."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(first, first + count)]
    marks = [(n, IDS[(n + step) % 80]) for n in range(first, first + count - 1) for step in (0, 0, 1)]
    return {
        "images": images[::-1],
        "categories": [{"id": number, "name": f"thing {number}"} for number in IDS[::-1]],
        "annotations": [{"image_id": image, "category_id": category} for image, category in marks],
    }


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The official layout with 8 + 4 tiny photos."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for part, first, count in (("train2017", 10, 8), ("val2017", 30, 4)):
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(instances(first, count)))
        (root / part).mkdir()
        for number in range(first, first + count):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(root / part / f"{number:012d}.jpg")
    return root


def params(root: Path | None, **more: Any) -> Any:
    return registry.get("coco").Params(root=root and str(root), num_query=2, num_train=4, **more)


def test_the_annotations_give_labels_by_category(official: Path) -> None:
    dataset, chosen = registry.get("coco"), params(official)
    dataset.ensure(chosen)
    raw = dataset.read(chosen)
    places = [("train2017", range(10, 17)), ("val2017", range(30, 33))]
    assert raw.names == [f"{part}/{n:012d}.jpg" for part, numbers in places for n in numbers]
    assert raw.classes == tuple(f"thing {number}" for number in IDS)
    assert [np.flatnonzero(row).tolist() for row in raw.labels[:2]] == [[10, 11], [11, 12]]
    assert raw.counts == {"unlabelled_dropped": 2}
    assert len(dataset.read(params(official, unlabelled="keep")).names) == 12


@pytest.fixture
def server(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The three archives behind HTTP on loopback, in place of COCO's."""
    web = tmp_path / "web"
    web.mkdir()
    for name, folder in (("annotations", "annotations"), ("train2017", "train2017"), ("val2017", "val2017")):
        with zipfile.ZipFile(web / f"{name}.zip", "w") as archive:
            for path in sorted((official / folder).iterdir()):
                archive.write(path, f"{folder}/{path.name}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(web))
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{serving.server_port}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SSDH_OFFLINE", raising=False)
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(coco, "ANNOTATIONS", RemoteFile(f"{url}/annotations.zip"))
    monkeypatch.setattr(coco, "IMAGES", {part: RemoteFile(f"{url}/{part}.zip") for part in coco.PARTS})
    yield url
    serving.shutdown()
    serving.server_close()


def test_the_archives_are_fetched_and_unpacked(server: str, official: Path) -> None:
    dataset = registry.get("coco")
    dataset.ensure(params(None))
    assert dataset.read(params(None)).names == dataset.read(params(official)).names


def test_a_damaged_archive_is_refused_by_its_own_checksums(server: str, tmp_path: Path) -> None:
    path = tmp_path / "web" / "val2017.zip"
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"val2017\.zip could not be unpacked: Bad CRC-32"):
        registry.get("coco").ensure(params(None))


def test_offline_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSDH_OFFLINE", "1")
    monkeypatch.setenv("SSDH_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"annotations_trainval2017.zip: fetch http.*no checksum known"):
        registry.get("coco").ensure(params(None))


@pytest.mark.parametrize("damage", ["{", "[]", '{"images": []}', '{"images": [], "annotations": [], "categories": []}'])
def test_broken_annotations_are_named(official: Path, damage: str) -> None:
    (official / "annotations/instances_val2017.json").write_text(damage)
    with pytest.raises(DataError, match=r"instances_val2017\.json"):
        registry.get("coco").ensure(params(official))


def test_a_missing_photo_is_said(official: Path) -> None:
    (official / "train2017/000000000012.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 10 images .* missing \(train2017/000000000012.jpg\)"):
        registry.get("coco").ensure(params(official))
    registry.get("coco").ensure(params(official, on_bad_image="skip"))


def test_the_list_layout_of_real_photos(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "lists"
    shutil.copytree(shared / "coco256-flickr-layout", root)
    dataset = registry.get("coco")
    dataset.ensure(params(root))
    raw = dataset.read(params(root))
    assert raw.labels.shape[1] == 80
    assert 2.5 < raw.labels.sum(axis=1).mean() < 3.5
    assert raw.classes[3] == "label_3"
    (root / "classes.txt").write_text("".join(f"thing {n}\n" for n in range(80)))
    assert dataset.read(params(root)).classes[3] == "thing 3"


# --- ImageNet-100 -----------------------------------------------------------------------------------------------------


def line(path: str, column: int) -> str:
    return path + "".join(f" {int(column == other)}" for other in range(100)) + "\n"


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    database = [(f"train/n0{c}/{c}_{i}.JPEG", c) for c in range(3) for i in range(4)]
    queries = [(f"val/im {c}.JPEG", c) for c in range(3)]
    for name, entries in (("database.txt", database), ("test.txt", queries)):
        (tmp_path / name).write_text("".join(line(*entry) for entry in entries))
        for number, (path, _) in enumerate(entries):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 3), (number, len(name), 0)).save(tmp_path / path)
    return tmp_path


def test_imagenet_keeps_the_lists(imagenet: Path) -> None:
    dataset = registry.get("imagenet100")
    chosen = dataset.Params(root=str(imagenet), num_train=5)
    dataset.ensure(chosen)
    raw = dataset.read(chosen)
    assert raw.labels.argmax(axis=1).tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0, 1, 2]
    assert raw.names[-1] == "val/im 2.JPEG"
    assert raw.classes[:4] == ("n00", "n01", "n02", "class_3")
    split = draw_split(raw.protocol, raw.labels, seed=0, name="test")
    assert sorted(split.query.tolist()) == [12, 13, 14]
    assert sorted(split.database.tolist()) == list(range(12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train/n00/0_0.JPEG 1 0\n", "line 1 must be a path, then a 1 and 99 zeros"),
        (line("../x.JPEG", 1), "not a path below the root"),
        (line("a.JPEG", 1) * 2, "twice: a.JPEG"),
        (line("train/n00/0_0.JPEG", 0), "a query may not be searched"),
        ("\n", "lists no images"),
    ],
)
def test_imagenet_lists_that_do_not_fit(imagenet: Path, content: str, message: str) -> None:
    (imagenet / "test.txt").write_text(content)
    dataset = registry.get("imagenet100")
    with pytest.raises(DataError, match=message):
        dataset.ensure(dataset.Params(root=str(imagenet), num_train=5))


def test_imagenet_without_its_lists_says_where_they_belong(tmp_path: Path) -> None:
    dataset = registry.get("imagenet100")
    with pytest.raises(DataError, match=r"database.txt and test.txt not found in .*without an account"):
        dataset.ensure(dataset.Params(root=str(tmp_path), num_train=5))
