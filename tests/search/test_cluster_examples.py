"""The examples of docs/scaling.md that encode with the exported network alone give the run's codes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ssdh.__main__ import main
from tests.helpers.docs_blocks import blocks
from tests.helpers.finished_run import finished_run
from tests.helpers.tiny import environment

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its export and `encode_batch.py`."""
    folder = finished_run(project, tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["export"]) == 0
    (folder / "encode_batch.py").write_text(block(project, "onnx"), encoding="utf-8")
    return folder


def block(project: Path, name: str) -> str:
    (result,) = (block.text for block in blocks(project) if block.tag == "engine" and block.words[0] == name)
    return result


def encoded(project: Path, finished: Path, name: str, tmp_path: Path) -> None:
    """Run an example in a copy of the run and compare its codes."""
    script = finished / f"{name}_example.py"
    script.write_text(block(project, name), encoding="utf-8")
    path = os.pathsep.join([str(project), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, script.name], cwd=finished, env=environment(tmp_path / "home", PYTHONPATH=path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [line.split(",")[1] for line in (finished / "data/images/manifest.csv").read_text().splitlines()[1:]]
    table = pq.read_table(finished / "codes")
    result = {
        Path(path).name: code for path, code in zip(*(table[c].to_pylist() for c in ("path", "code")), strict=True)
    }
    codes = np.array([np.frombuffer(result[Path(name).name], np.uint8) for name in names])
    turned = np.bitwise_count(codes ^ np.load(finished / "models/codes.npy")).sum()
    assert turned <= 0.01 * 12 * len(names)  # a bit within rounding of zero may turn


def test_with_python_s_own_processes(project: Path, finished: Path, tmp_path: Path) -> None:
    encoded(project, finished, "processes", tmp_path)
    for path in (finished / "codes").iterdir():
        path.unlink()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install ray")
def test_with_ray_data(project: Path, finished: Path, tmp_path: Path) -> None:
    encoded(project, finished, "ray", tmp_path)
