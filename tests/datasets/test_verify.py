"""Which files are decoded again: whatever the clock and the files' own times say, what is seen is what is there."""

import os
import socket
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from ssdh.core.errors import DataError
from ssdh.core.resume import work_folder
from ssdh.datasets import registry, verify
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


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
def test_what_is_no_file_is_bad_and_never_read(photo: Path) -> None:
    root = photo.parent
    os.mkfifo(root / "pipe.jpg")
    (root / "folder.jpg").mkdir()
    (root / "device.jpg").symlink_to("/dev/zero")
    (root / "gone.jpg").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "socket.jpg"))  # such a path may have a hundred bytes
    names = ["pipe.jpg", "folder.jpg", "device.jpg", "socket.jpg", "gone.jpg", "a.png"]
    result: list[verify.Inspection] = []
    reading = Thread(target=lambda: result.extend(inspect_files(root, names, 0)), daemon=True)
    reading.start()
    reading.join(60)
    special = "not a file but a folder, pipe, socket or device"
    assert [one.reason for one in result] == [special] * 4 + ["cannot be read (No such file or directory)", ""]


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
def test_a_folder_of_photos_with_a_pipe_is_refused_by_name(photo: Path) -> None:
    for number in range(6):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(photo.with_name(f"{number}.png"))
    os.mkfifo(photo.with_name("pipe.jpg"))
    folder = registry.get("folder")
    params = folder.Params(root=str(photo.parent), num_query=2, num_train=3)
    message: list[str] = []

    def ensure() -> None:
        with pytest.raises(DataError) as error:
            folder.ensure(params)
        message.extend(str(error.value).splitlines())

    reading = Thread(target=ensure, daemon=True)
    reading.start()
    reading.join(60)
    assert message[1:] == ["  pipe.jpg: not a file but a folder, pipe, socket or device"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_text_is_bad_and_hurts_no_other(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(b"\xe9t\xe9.png")
    (photo.parent / odd).write_bytes(photo.read_bytes())
    clock(monkeypatch, 10 * 10**9)
    calls = decoded(monkeypatch)
    for _ in range(2):
        first, second = inspect_files(photo.parent, [odd, photo.name], 0)
        assert (first.reason, second.reason) == ("its name is not in UTF-8: rename it", "")
    assert len(calls) == 1
