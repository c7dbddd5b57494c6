"""A disk that fills up, a tmpfs of some kB: one line that names the file, nothing torn, and on from there with room."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssdh.__main__ import main
from ssdh.search.collection import open_collection
from tests.helpers.finished_run import finished_run
from tests.helpers.tiny import copy_tiny, results, run_stage, run_with_views

pytestmark = pytest.mark.long
Mount = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """A function that makes an empty disk of a size, or gives the present one another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: str) -> Path:
        options = f"size={size}" if not folder.is_mount() else f"remount,size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return folder

    yield resize
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)  # an engine may hold files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose disk was large enough."""
    return run_with_views(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    return finished_run(project, tmp_path_factory.mktemp("run"))


def refused(capfd: pytest.CaptureFixture[str], name: str) -> None:
    """What was said is one line that names a file and the disk."""
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith(name)]
    assert "Traceback" not in "".join(said)
    assert "could not be written" in said[0] or "does not take the codes" in said[0]
    assert "disk" in said[0] or "No space left" in said[0]


@pytest.mark.parametrize("stage", ["extract", "views", "train"])
@pytest.mark.parametrize("size", ["12k", "100k"])
def test_home_is_full(
    stage: str, size: str, whole: Path, disk: Mount, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = copy_tiny(whole, tmp_path / "run")
    monkeypatch.setenv("SSDH_HOME", str(disk(size) / "home"))
    with pytest.raises(SystemExit):
        run_stage(folder, stage)
    refused(capfd, f"{stage}: ")
    assert results(folder) == results(whole)
    disk("50m")
    run_stage(folder, stage)
    assert results(folder) == results(whole)


def test_the_workspace_is_full(
    whole: Path, disk: Mount, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SSDH_HOME", str(tmp_path / "home"))
    folder = copy_tiny(whole, disk("20m") / "run")
    for name in ("models/hashnet.safetensors", "features/features.npy", "models/codes.npy"):
        (folder / name).unlink()
    free = shutil.disk_usage(folder).free
    (folder.parent / "full").write_bytes(bytes(free - (50 << 10)))
    with pytest.raises(SystemExit):
        run_stage(folder, "extract")
    refused(capfd, "extract: ")
    assert not (folder / "features/features.npy").exists()
    (folder.parent / "full").unlink()
    run_stage(folder, "extract", "train", "encode")
    assert results(folder) == results(whole)


@pytest.mark.parametrize("size", ["8k", "20k", "28k", "40k", "60k", "80k", "120k"])
def test_a_collection_on_a_full_disk(
    size: str, run: Path, disk: Mount, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever it ends: SQLite says so by three different errors."""
    monkeypatch.chdir(run)
    command = ["add", str(disk(size) / "collection"), "photos", "--workers", "0"]
    assert main(command) == 1
    refused(capfd, "ssdh: ")
    disk("50m")
    assert main(command) == 0
    collection = open_collection(Path(command[1]))
    assert len(collection) == 24
    assert {path.name for path in collection.folder.iterdir()} <= {
        "collection.sqlite3",
        "model.safetensors",
        "write.lock",
    }


def test_codes_on_a_full_disk(
    run: Path, disk: Mount, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(run)
    command = ["encode", "photos", "--out", str(disk("16k") / "codes"), "--features", "float16", "--workers", "0"]
    assert main(command) == 1
    refused(capfd, "ssdh: ")
    assert not (Path(command[3]) / "encode.json").exists()
    disk("50m")
    assert main(command) == 0
    elsewhere = [*command[:3], str(tmp_path / "codes"), *command[4:]]
    assert main(elsewhere) == 0
    assert (Path(command[3]) / "codes.npy").read_bytes() == (tmp_path / "codes/codes.npy").read_bytes()


ENGINES = ["", "faiss", "lancedb", "milvus", "parquet", "pgvector", "qdrant", "sqlite-vec", "usearch"]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_on_a_full_disk(
    engine: str, run: Path, disk: Mount, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = {"": "torch", "milvus": "pymilvus", "parquet": "pyarrow", "pgvector": "torch", "qdrant": "qdrant_client",
              "sqlite-vec": "apsw"}.get(engine, engine)  # fmt: skip
    pytest.importorskip(module)
    monkeypatch.chdir(run)
    more = ["--to", engine] if engine else ["--no-onnx"]
    command = ["export", str(disk("8k") / "export"), *more]
    assert main(command) == 1
    refused(capfd, "ssdh: ")
    disk("80m")
    assert main(command) == 0
    about = json.loads((Path(command[1]) / "export.json").read_text())
    assert about["images"] == 24
