"""One's own photos: trees, labels, replaced files; and the list of data sets that a person reads."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from PIL import Image

from ssdh.__main__ import main
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.params import validate
from ssdh.datasets import registry
from ssdh.datasets.prepare import prepare, write_images
from ssdh.features.images import open_images, read_manifest

FOLDER = registry.get("folder")


def photo(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 1, 2)).save(path)
    return path


def _params(root: Path, **data: Any) -> Any:
    return FOLDER.Params(root=str(root), **data)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message).rstrip("\n")), format="{message}")
    yield lines
    logger.remove(sink)


def test_tree_without_labels(tmp_path: Path) -> None:
    """Sorted by path, deep, any case of extension; what is hidden or no picture is not looked at."""
    for number, name in enumerate(["b.png", "a/z.JPG", "a/b/c.webp", "Ünïcode name.bmp"]):
        photo(tmp_path / name, number)
    photo(tmp_path / ".hidden.png")
    photo(tmp_path / ".thumbnails" / "t.png")
    for name in ("README.md", "notes.txt", "photos.dvc", "Thumbs.db"):
        (tmp_path / name).write_text("text")
    FOLDER.ensure(_params(tmp_path))
    raw = FOLDER.read(_params(tmp_path))
    assert raw.names == ["a/b/c.webp", "a/z.JPG", "b.png", "Ünïcode name.bmp"]
    assert raw.labels.shape == (4, 0)
    assert raw.classes == ()


@pytest.mark.parametrize(
    "folder", ["#recycle", "@Recycle", "@Recently-Snapshot", "$RECYCLE.BIN", "$Recycle.Bin", "lost+found", "@EADIR"]
)
def test_what_was_deleted_is_no_photo(tmp_path: Path, folder: str) -> None:
    for name in ("a.jpg", f"{folder}/b.jpg", f"c/{folder}/deep/d.jpg", "my #recycle/e.jpg"):
        photo(tmp_path / name)
    assert FOLDER.read(_params(tmp_path)).names == ["a.jpg", "my #recycle/e.jpg"]


def test_what_is_passed_over_is_counted_and_said(tmp_path: Path, log: list[str]) -> None:
    for name in ("a.jpg", "b.jpg", "c/d.jpg", "c/e.png"):
        photo(tmp_path / name)
    for name in ("@eaDir/a.jpg", "c/__MACOSX/x.jpg", ".thumbnails/a.jpg", "c/.git/a.png"):  # four folders
        photo(tmp_path / name)
    for name in ("._a.jpg", "c/d_small.jpg", "screenshots/deep/f.png", "screenshots/g.PNG"):  # four files
        photo(tmp_path / name)
    for name in ("1.CR2", "c/2.cr2", "3.dng", "4.jxl", "5.heic", "notes.txt", "screenshots/6.cr2"):
        (tmp_path / name).write_bytes(b"x")
    params = _params(tmp_path, exclude=["*_small.jpg", "screenshots/*"])
    FOLDER.ensure(params)
    raw = FOLDER.read(params)
    assert raw.names == ["a.jpg", "b.jpg", "c/d.jpg", "c/e.png"]
    assert raw.counts == {"left_out": 5, "unread": 5}  # an excluded raw file is left out too
    [line] = [line for line in log if "passed over" in line]
    assert line.endswith(
        "passed over 4 hidden or thumbnails' folders; 5 hidden or excluded files; "
        "formats that are not read: 2 .cr2, 1 .dng, 1 .heic, 1 .jxl"
    )
    log.clear()
    for folder in ("@eaDir", "screenshots", ".thumbnails"):
        shutil.rmtree(tmp_path / folder)
    FOLDER.read(_params(tmp_path / "c"))
    assert len([line for line in log if "passed over" in line]) == 1


def test_a_plain_folder_says_nothing_of_what_was_passed_over(tmp_path: Path, log: list[str]) -> None:
    for name in ("a.jpg", "b/c.png"):
        photo(tmp_path / name)
    (tmp_path / "README.md").write_text("text")
    assert FOLDER.read(_params(tmp_path)).counts == {"left_out": 0, "unread": 0}
    assert not [line for line in log if "passed over" in line]


@pytest.mark.parametrize(
    ("pattern", "left"), [("b/*", ["a.jpg"]), ("[ab].jpg", ["b/c.jpg"]), ("A.JPG", ["a.jpg", "b/c.jpg"])]
)
def test_patterns_fit_whole_paths_or_names_and_mind_the_case(tmp_path: Path, pattern: str, left: list[str]) -> None:
    for name in ("a.jpg", "b/c.jpg"):
        photo(tmp_path / name)
    assert FOLDER.read(_params(tmp_path, exclude=[pattern])).names == left


def test_a_folder_of_formats_that_are_not_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "1.heic").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"holds no images that are read \(formats that are not read: 1 \.heic\): put photos"
    ):
        FOLDER.ensure(_params(tmp_path))


HEIF = """
import sys
from PIL import Image, ImageFile

def register_heif_opener():
    Image.register_open("HEIF", lambda file, name: Image.open(file), lambda head: head[4:12] == b"ftypheic")
"""


def test_heic_is_read_where_its_plugin_is(tmp_path: Path, project: Path) -> None:
    (tmp_path / "pillow_heif.py").write_text(HEIF)
    code = (
        "from ssdh.features.image_files import EXTENSIONS, UNREAD\n"
        "from PIL import Image\n"
        "print({'.heic', '.heif'} <= EXTENSIONS, '.heic' in UNREAD, 'HEIF' in Image.OPEN)"
    )
    for path, message in ((f"{project}", "False True False"), (f"{project}{os.pathsep}{tmp_path}", "True False True")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == message


@pytest.mark.parametrize("content", ["empty", "readme only", "absent", "a file"])
def test_root_without_images_is_an_error(tmp_path: Path, content: str) -> None:
    root = tmp_path / "photos"
    if content == "a file":
        root.write_text("x")
    elif content != "absent":
        root.mkdir()
        if content == "readme only":
            (root / "README.md").write_text("Put your photos here")
    with pytest.raises(DataError, match=r"photos .*datasets\.folder\.data\.root"):
        FOLDER.ensure(_params(root))


def test_class_sub_folders(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/deep/2.png", "cat/3.png", "bird/4.png"):
        photo(tmp_path / name)
    raw = FOLDER.read(_params(tmp_path))
    assert raw.classes == ("bird", "cat", "dog")
    assert dict(zip(raw.names, raw.labels.argmax(axis=1).tolist(), strict=True)) == {
        "bird/4.png": 0,
        "cat/3.png": 1,
        "cat/deep/2.png": 1,
        "dog/1.png": 2,
    }
    assert FOLDER.read(_params(tmp_path, labels="none")).labels.shape == (4, 0)
    photo(tmp_path / "loose.png")  # one photo beside the folders: they are no classes
    assert FOLDER.read(_params(tmp_path)).labels.shape == (5, 0)
    with pytest.raises(DataError, match=r"1 images .* in no class sub-folder \(loose\.png\)"):
        FOLDER.read(_params(tmp_path, labels="folders"))


def test_single_sub_folder_is_no_class(tmp_path: Path) -> None:
    photo(tmp_path / "2024" / "a.png")
    photo(tmp_path / "2024" / "b.png")
    assert FOLDER.read(_params(tmp_path)).classes == ()
    assert FOLDER.read(_params(tmp_path, labels="folders")).classes == ("2024",)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.png,dog;sky\n2.png,sky\n3.png,\n",
        "\ufeffa\\1.png,dog\r\n./a/1.png, sky \r\n2.png,sky;sky\r\n",
        'filename,labels\n"a/1.png","sky;dog"\n"2.png",sky\n',
    ],
)
def test_labels_file(tmp_path: Path, text: str) -> None:
    for name in ("a/1.png", "2.png", "3.png"):
        photo(tmp_path / name)
    (tmp_path / "labels.csv").write_bytes(text.encode())
    raw = FOLDER.read(_params(tmp_path))
    assert raw.classes == ("dog", "sky")
    assert dict(zip(raw.names, raw.labels.tolist(), strict=True)) == {
        "2.png": [0, 1],
        "3.png": [0, 0],
        "a/1.png": [1, 1],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.png,dog\ngone.png,cat\n", r"1 images of .* \(gone\.png\)"),
        ("1.png,dog,cat\n", "line 1: expected path,label"),
        ("path,label\n1.png\n", "line 2: expected path,label"),
        ("path,label\n", "holds no label"),
        ("../1.png,dog\n", "not a path below the root"),
        ("\xff\xfe1.png,dog\n", "UTF-8"),
    ],
)
def test_labels_file_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    photo(tmp_path / "1.png")
    (tmp_path / "labels.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(DataError, match=message):
        FOLDER.read(_params(tmp_path))


def test_labels_file_asked_for_but_absent(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=r"labels\.csv does not exist"):
        FOLDER.ensure(_params(tmp_path, labels="csv"))


def _written(root: Path, out: Path) -> tuple[list[str], list[str]]:
    params = _params(root)
    FOLDER.ensure(params)
    prepared = prepare(FOLDER.read(params), root=FOLDER.root(params), seed=0, workers=1, name="folder")
    write_images(out, prepared)
    return read_manifest(out)


@pytest.mark.parametrize("keep_times", [False, True])
def test_photo_replaced_under_the_same_name_is_a_new_row(tmp_path: Path, keep_times: bool) -> None:
    """Same name, same size, even the same time of change: the manifest tells them apart, and reading sees the new."""
    root = tmp_path / "photos"
    for number in range(4):
        photo(root / f"{number}.bmp", number)
    names, before = _written(root, tmp_path / "out")
    old = (root / "2.bmp").stat()
    other = photo(tmp_path / "other.bmp", 99)
    assert other.stat().st_size == old.st_size
    if keep_times:
        os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    shutil.copy2(other, root / "2.bmp")
    with pytest.raises(DataError, match="has changed since it was listed"):
        open_images(tmp_path / "out", root).read_bytes(2)  # type: ignore[union-attr]
    again, after = _written(root, tmp_path / "out")
    assert again == names
    assert [old_digest == new for old_digest, new in zip(before, after, strict=True)] == [True, True, False, True]
    open_images(tmp_path / "out", root).read_bytes(2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: photo(root / "15.png", 9), ["0.png", "1.png", "15.png", "2.png", "3.png", "4.png"]),
        (lambda root: (root / "1.png").unlink(), ["0.png", "2.png", "3.png", "4.png"]),
        (lambda root: (root / "1.png").rename(root / "z.png"), ["0.png", "2.png", "3.png", "4.png", "z.png"]),
    ],
)
def test_manifest_follows_the_folder(tmp_path: Path, change: Callable[[Path], Any], expected: list[str]) -> None:
    for number in range(5):
        photo(tmp_path / "photos" / f"{number}.png", number)
    _written(tmp_path / "photos", tmp_path / "out")
    change(tmp_path / "photos")
    assert _written(tmp_path / "photos", tmp_path / "out")[0] == expected


def test_manifest_does_not_name_the_root(tmp_path: Path) -> None:
    """The same photos under another root are the same images: nothing is extracted again."""
    for number in range(4):
        photo(tmp_path / "one" / "sub" / f"{number}.png", number)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    _written(tmp_path / "one", tmp_path / "out1")
    _written(tmp_path / "two", tmp_path / "out2")
    assert (tmp_path / "out1/manifest.csv").read_bytes() == (tmp_path / "out2/manifest.csv").read_bytes()
    assert b"sub/3.png" in (tmp_path / "out1/manifest.csv").read_bytes()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_photos_are_said_before_anything_runs(tmp_path: Path, count: int) -> None:
    for number in range(count):
        photo(tmp_path / f"{number}.png", number)
    with pytest.raises(ParameterError, match=rf"^{count} images are too few, 4 are .*datasets\.folder\.data\.root"):
        registry.get("folder").ensure(_params(tmp_path))
    for number in range(4):
        photo(tmp_path / f"{number}.png", number)
    registry.get("folder").ensure(_params(tmp_path))
    with pytest.raises(ParameterError, match=r"num_query asks for 2 images, at most 1 of 4"):  # three are left to train
        registry.get("folder").ensure(_params(tmp_path, num_query=2))
    with pytest.raises(ParameterError, match=r"num_train must be greater than or equal to 3, got 2"):
        validate(registry.get("folder").Params, {"root": str(tmp_path), "num_train": 2}, "datasets.folder.data")


def test_skipped_photos_are_not_counted(tmp_path: Path) -> None:
    for number in range(6):
        photo(tmp_path / f"{number}.png", number)
    (tmp_path / "5.png").write_bytes(b"no image")
    folder = registry.get("folder")
    folder.ensure(_params(tmp_path, num_query=1, num_train=4, on_bad_image="skip"))
    with pytest.raises(ParameterError, match=r"num_train asks for 5 images, at most 4 of 5 are left"):
        folder.ensure(_params(tmp_path, num_query=1, num_train=5, on_bad_image="skip"))


def test_labels_that_do_not_fit_are_said_before_anything_runs(tmp_path: Path) -> None:
    for number in range(5):
        photo(tmp_path / f"{number}.png", number)
    with pytest.raises(DataError, match=r"5 images of .* are in no class sub-folder"):
        registry.get("folder").ensure(_params(tmp_path, labels="folders"))
    (tmp_path / "labels.csv").write_text("0.png,a\n7.png,b\n")
    with pytest.raises(DataError, match=r"1 images of .*labels\.csv are not in"):
        registry.get("folder").ensure(_params(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not text")
def test_a_name_that_is_no_text_is_said_before_anything_runs(tmp_path: Path) -> None:
    for number in range(5):
        photo(tmp_path / f"{number}.png", number)
    (tmp_path / "4.png").rename(os.fsdecode(bytes(tmp_path) + b"/\xe9t\xe9.png"))
    for use in (registry.get("folder").ensure, registry.get("folder").read):
        with pytest.raises(
            DataError, match=r"1 file names under .* not in UTF-8 \(.*udce9t.*\): rename these files"
        ) as error:
            use(_params(tmp_path, on_bad_image="skip"))
        str(error.value).encode()


# --- python -m ssdh datasets ------------------------------------------------------------------------------------------


def _listing(capsys: pytest.CaptureFixture[str], *names: str) -> tuple[int, str]:
    code = main(["datasets", *names])
    return code, capsys.readouterr().out


@pytest.fixture
def workspace(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(project / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_names_every_set_and_what_is_missing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = _listing(capsys)
    assert code == 0
    for name in registry.names():
        assert f" {name}: " in text
    assert "* digits" in text
    assert f"looked in {workspace / 'ssdh-home' / 'datasets' / 'cifar10'}" in text
    assert "missing: cifar-10-batches-py/" in text


def test_list_shows_where_a_set_was_found(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(workspace / "data/raw/photos/1.png")
    code, text = _listing(capsys, "folder")
    assert (code, text.splitlines()[1:]) == (0, ["    found in data/raw/photos"])


@pytest.mark.parametrize("given", [None, "clip.npy"], ids=["none", "not there"])
def test_list_says_where_embeddings_are_looked_for(
    workspace: Path, capsys: pytest.CaptureFixture[str], given: str | None
) -> None:
    placeholder = "models/pretrained/none.safetensors"
    if given is not None:
        path = workspace / "params.yaml"
        path.write_text(path.read_text().replace(f"features: {placeholder}", f"features: {given}"))
    (workspace / placeholder).parent.mkdir(parents=True)
    (workspace / placeholder).touch()
    code, text = _listing(capsys, "embeddings")
    assert code == 0
    assert text.splitlines()[1:] == [
        f"    looked in {given or placeholder}",
        "    missing: a path to the features (datasets.embeddings.data.features)",
    ]


def test_list_counts_missing_images(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = workspace / "ssdh-home/datasets/nus_wide"
    photo(home / "images/1.jpg")
    (home / "img_tc10.txt").write_text("images/1.jpg\nimages/2.jpg\nimages/3.jpg\n")
    (home / "targets_onehot_tc10.txt").write_text("1 0 0 0 0 0 0 0 0 0\n" * 3)
    code, text = _listing(capsys, "nus_wide_10")
    assert code == 0
    assert "missing: 2 of 3 images" in text


def test_list_of_an_unknown_set_or_a_bad_block(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "imagenet"]) == 1
    assert "dataset must be one of cifar10, " in capsys.readouterr().err
    path = workspace / "params.yaml"
    path.write_text(path.read_text().replace("num_query: 5000", "num_query: many"))
    code, text = _listing(capsys, "nus_wide_10")
    assert code == 1
    assert "datasets.nus_wide_10.data.num_query" in text


def test_a_label_that_each_photo_has_for_itself_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdh.datasets.base.MOST_LABEL_BYTES", 16 * 50)
    for number in range(10):
        photo(tmp_path / f"{number}" / "a.png")
    with pytest.raises(DataError, match="10 different values in 10 rows are names, not classes"):
        FOLDER.read(_params(tmp_path))
    (tmp_path / "labels.csv").write_text("".join(f"{number}/a.png,own {number}\n" for number in range(10)))
    with pytest.raises(DataError, match=r"labels\.csv: 10 different values in 10 rows are names, not classes"):
        FOLDER.read(_params(tmp_path))
    (tmp_path / "labels.csv").write_text("".join(f"{number}/a.png,{number % 3}\n" for number in range(10)))
    assert FOLDER.read(_params(tmp_path)).classes == ("0", "1", "2")
