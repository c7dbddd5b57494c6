"""Near-identical images: every close pair is found once, groups are confirmed by features, nothing is touched."""

import csv
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from ssdh.__main__ import main
from ssdh.core.errors import ParameterError
from ssdh.search import close_pairs as module
from ssdh.search.close_pairs import close_pairs
from ssdh.search.duplicates import find_groups
from ssdh.search.engines import CodeTable
from tests.helpers.finished_run import finished_run


def clustered(count: int, bits: int, seed: int = 0) -> np.ndarray:
    """Codes around centres, as codes of images are, exact repetitions among them."""
    rng = np.random.default_rng(seed)
    centres = rng.random((count // 10, bits)) < 0.5
    positive = centres[rng.integers(0, len(centres), count)] ^ (rng.random((count, bits)) < 0.08)
    positive[-3:] = positive[0]
    return np.packbits(positive, axis=1)


@pytest.mark.parametrize(("bits", "radius"), [(12, 0), (12, 2), (16, 4), (32, 4), (43, 5), (64, 3), (64, 8), (128, 9)])
def test_close_pairs_are_those_of_faiss(bits: int, radius: int, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = clustered(300, bits)
    index = faiss.IndexBinaryFlat(8 * packed.shape[1])
    index.add(packed)
    limits, _, right = index.range_search(packed, radius + 1)
    left = np.repeat(np.arange(len(packed)), np.diff(limits.astype(np.int64)))
    expected = {(int(i), int(j)) for i, j in zip(left, right, strict=True) if i < j}
    for step_cost in (0, 10**9):  # many small buckets; one bucket
        monkeypatch.setattr(module, "STEP_COST", step_cost)
        monkeypatch.setattr(module, "BLOCK", 1000)
        monkeypatch.setattr(module, "YIELDED", 50)
        result = [(int(i), int(j)) for block in close_pairs(packed, bits, radius) for i, j in zip(*block, strict=True)]
        assert len(result) == len(set(result))
        assert set(result) == expected


def test_parts_are_chosen_by_what_they_cost() -> None:
    packed = np.random.default_rng(0).integers(0, 256, (200_000, 8), dtype=np.uint8)
    costs = {parts: module.cost(module._keys(packed, 64, parts), 4) for parts in (1, 4, 5)}
    assert costs[5] < 0.05 * len(packed) ** 2 / 2
    assert min(costs, key=lambda parts: costs[parts]) == 5


def table_of(codes: np.ndarray, digests: list[str]) -> CodeTable:
    names = [f"{row}.jpg" for row in range(len(codes))]
    return CodeTable(codes, 8, range(len(codes)), {"name": names, "sha256": digests})


def test_groups_by_hand() -> None:
    # 0 and 3 are copies; 1 is near 0; 2 has 1's code but other features; 4 is near 1 and so in the group; 5 is far
    codes = np.array([[0b00000000], [0b00000001], [0b00000001], [0b00000000], [0b00000011], [0b11110000]], np.uint8)
    features = np.array([[1, 0], [10, 1], [0, 1], [1, 0], [5, 1], [1, 0]], np.float32)
    table = table_of(codes, ["a", "b", "c", "a", "d", "e"])
    (group,) = find_groups(table, features, radius=1, min_similarity=0.97)
    assert [(member.row, member.distance, member.exact) for member in group] == [
        (0, 0, False), (1, 1, False), (3, 0, True), (4, 2, False),
    ]  # fmt: skip
    cosines = [member.similarity for member in group]
    assert cosines == pytest.approx([1, 10 / 101**0.5, 1, 5 / 26**0.5], rel=1e-6)
    (group,) = find_groups(table, None, radius=1, min_similarity=0.97)
    assert [member.row for member in group] == [0, 1, 2, 3, 4]
    assert {member.similarity for member in group} == {None}
    (group,) = find_groups(table, features, radius=0, min_similarity=1.0)
    assert [member.row for member in group] == [0, 3]
    assert find_groups(table_of(codes[4:], ["d", "e"]), features[4:], radius=1, min_similarity=0.5) == []


def test_many_alike_images_are_one_group() -> None:
    count = 5000
    codes = np.zeros((count, 1), np.uint8)
    features = np.ones((count, 3), np.float16)
    (group,) = find_groups(table_of(codes, [str(row) for row in range(count)]), features, radius=2, min_similarity=0.9)
    assert [member.row for member in group] == list(range(count))


def test_mistakes() -> None:
    table = table_of(np.zeros((2, 1), np.uint8), ["a", "b"])
    with pytest.raises(ParameterError, match="radius must be from 0 to 8 bits, got 9"):
        find_groups(table, None, radius=9, min_similarity=0)
    with pytest.raises(ParameterError, match="min-similarity must be from -1 to 1, got 2"):
        find_groups(table, None, radius=1, min_similarity=2)


def test_the_command_over_a_collection(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run(project, tmp_path / "run", bits=64)
    photos = folder / "photos"
    shutil.copy(photos / "day 0/000.jpg", photos / "copy.jpg")
    model = str(folder / "models/hashnet.safetensors")
    monkeypatch.chdir(tmp_path)
    assert main(["add", "mine", str(photos), "--model", model, "--workers", "0"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")}
    capsys.readouterr()
    assert main(["duplicates", "--collection", "mine", "--radius", "0", "--csv", "groups.csv", "--json"]) == 0
    message = json.loads(capsys.readouterr().out)
    assert message["images"] == 25
    (group,) = message["groups"]
    assert [(Path(item["name"]).name, item["exact"]) for item in group] == [("copy.jpg", False), ("000.jpg", True)]
    assert len({item["id"] for item in group}) == 1
    assert main(["duplicates", "--collection", "mine", "--radius", "64", "--min-similarity", "-1"]) == 0
    assert "1 groups, 25 of 25 images; nothing was deleted" in capsys.readouterr().out
    assert main(["duplicates", "--collection", "mine", "--radius", "64", "--codes-only", "--csv", "groups.csv"]) == 0
    with open("groups.csv", newline="", encoding="utf-8") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    assert len(rows) == 25
    assert rows[0]["distance"] == "0"
    assert rows[0]["similarity"] == ""
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jpg")} == before
