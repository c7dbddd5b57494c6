"""Which files are decoded again: whatever the clock and the files' own times say, what is seen is what is there."""

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from ssdh.core.resume import work_folder
from ssdh.datasets import verify
from ssdh.datasets.verify import inspect_files

DAY = 86_400 * 10**9


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    Image.new("RGB", (2, 2), "red").save(path)
    return path


def clock(monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    now = time.time_ns
    monkeypatch.setattr(verify.time, "time_ns", lambda: now() + ahead)


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each file that is decoded."""
    calls: list[int] = []
    decode = verify.decode_image
    monkeypatch.setattr(verify, "decode_image", lambda *arguments: (calls.append(1), decode(*arguments))[1])
    return calls


@pytest.mark.skipif(os.name == "nt", reason="its files have no time of change of status")
def test_a_time_that_a_camera_wrote_ahead_is_no_reason_to_decode_again(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(photo, (4e9, 4e9))  # 2096
    clock(monkeypatch, 10 * 10**9)
    calls = decoded(monkeypatch)
    assert inspect_files(photo.parent, [photo.name], 0) == inspect_files(photo.parent, [photo.name], 0)
    assert len(calls) == 1


def test_with_a_clock_that_jumped_back_every_change_is_seen(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, -DAY)
    calls = decoded(monkeypatch)
    (before,) = inspect_files(photo.parent, [photo.name], 0)
    stat = photo.stat()
    Image.new("RGB", (2, 2), "blue").save(photo)
    os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (after,) = inspect_files(photo.parent, [photo.name], 0)
    assert before.digest != after.digest
    assert len(calls) == 2


def test_unfinished_work_from_the_future_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ssdh-home" / "work" / "other"
    folder.mkdir(parents=True)
    (folder / "half").touch()
    os.utime(folder, (4e9, 4e9))
    with work_folder("mine"):
        assert (folder / "half").exists()
