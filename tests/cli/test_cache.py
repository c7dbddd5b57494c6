"""`python -m ssdh cache`: what it lists, and what it removes."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from ssdh.__main__ import main
from ssdh.features.store import FeatureStore, shelves
from tests.helpers.tiny import run_stage, tiny_params, write_tiny


def test_an_empty_cache(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    assert "0.0 MiB  kept by content, at most 20 GiB: SSDH_FEATURES_GIB" in capsys.readouterr().out
    assert main(["cache", "clean"]) == 0
    assert "removed 0.0 MiB of features" in capsys.readouterr().out


def test_the_list_names_networks_and_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny(tmp_path / "run", tiny_params() | {"views": {"count": 2}})
    run_stage(folder, "extract", "views")
    (tmp_path / "ssdh-home/weights").mkdir()
    (tmp_path / "ssdh-home/weights/a.pth").write_bytes(bytes(3 * 2**20))
    capsys.readouterr()
    assert main(["cache", "list"]) == 0
    message = capsys.readouterr().out.splitlines()
    assert message[0] == f"{tmp_path / 'ssdh-home'}:"
    assert "  weights            3.0 MiB  weights" in message
    rows = [line for line in message if "mobilenet_v3_small penultimate 32 px fp32, weights random, cpu, torch" in line]
    assert len(rows) == 3
    assert sum("168 rows, 0.7 MiB, used today" in line for line in rows) == 1
    assert [line.rpartition(", ")[2] for line in sorted(rows) if "view" in line] == ["view 0", "view 1"]


def test_cleaning_removes_the_longest_unused_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        rows = np.full((2**18, 1), number, np.float32)  # 1 MiB, and 8 MiB of digests
        FeatureStore({"number": number}).add(np.zeros((2**18, 32), np.uint8), rows)
    (first,) = [block for shelf in shelves() if shelf.kind == {"number": 1} for block in shelf.blocks]
    os.utime(first.path.with_suffix(".sha256"), (time.time() - 3.5 * 86_400,) * 2)
    (tmp_path / "ssdh-home/weights").mkdir()
    (tmp_path / "ssdh-home/weights/a.pth").touch()
    main(["cache"])
    assert "262,144 rows, 9.0 MiB, used 3 days ago: of an unknown kind" in capsys.readouterr().out
    assert main(["cache", "clean", "--keep", "0.01"]) == 0  # 10.24 MiB
    assert "removed 9.0 MiB" in capsys.readouterr().out
    assert [shelf.kind for shelf in shelves()] == [{"number": 2}]
    assert main(["cache", "clean"]) == 0
    assert list(shelves()) == []
    assert (tmp_path / "ssdh-home/weights/a.pth").exists()


def test_a_size_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cache", "clean", "--keep", "some"])
    assert "must be a number of GiB of at least 0, got 'some'" in capsys.readouterr().err
