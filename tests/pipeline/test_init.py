"""The wheel in a folder of its own, and the pipeline that `ssdh init` writes with it."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from ssdh.cli.init import own_pipeline
from tests.helpers.clone import SMALL

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(project), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=source, check=True)
    return next(folder.glob("ssdh-*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The installed wheel; the heavy packages are those of the tests."""
    target = wheel.parent / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True)
    return target


def run(site: Path, folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ssdh", f"ssdh-{_version(wheel)}.dist-info"}
    assert {"ssdh/py.typed", "ssdh/methods/manifold.yaml", "ssdh/report/style.css", "ssdh/pipeline/params.yaml"} <= set(
        names
    )
    assert "ssdh/pipeline/stages/train.py" in names


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def test_init_writes_a_pipeline_that_runs_and_notices_other_code(site: Path, tmp_path: Path) -> None:
    ssdh = str(site / "bin/ssdh")
    assert run(site, tmp_path, ssdh, "--version").stdout.startswith("ssdh ")
    run(site, tmp_path, ssdh, "init", "mine")
    folder = tmp_path / "mine"
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for name, value in SMALL.items():
        keys = name.split(".")
        block = params
        for key in keys[:-1]:
            block = block[key]
        block[keys[-1]] = yaml.safe_load(value)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    first = run(site, folder, "dvc", "repro").stdout
    assert set(re.findall(r"Running stage '(\w+)'", first)) == set(params_stages(folder))
    assert (folder / "metrics/report.html").is_file()
    second = run(site, folder, "dvc", "repro").stdout
    assert re.findall(r"Running stage '(\w+)'", second) == ["check"]
    recipe = folder / "methods/manifold_views.py"
    recipe.write_text(recipe.read_text(encoding="utf-8") + "# my own\n", encoding="utf-8")
    third = run(site, folder, "dvc", "repro").stdout
    assert re.findall(r"Running stage '(\w+)'", third) == ["check", "train"]
    (folder / "ssdh.txt").write_text("ssdh 0.0.1\nsha256 0\n", encoding="utf-8")
    refused = run(site, folder, "dvc", "repro", check=False)
    assert "check: ssdh.txt is of ssdh 0.0.1, installed is other code" in refused.stderr
    run(site, folder, ssdh, "init", ".")
    assert "# my own" in recipe.read_text(encoding="utf-8")
    assert re.findall(r"Running stage '(\w+)'", run(site, folder, "dvc", "repro").stdout) == ["check"]


def params_stages(folder: Path) -> list[str]:
    return list(yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def test_a_folder_with_other_files_is_left_alone(site: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    done = run(site, tmp_path, str(site / "bin/ssdh"), "init", ".", check=False)
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_only_code_is_replaced_in_dvc_yaml(project: Path) -> None:
    text = (project / "dvc.yaml").read_text(encoding="utf-8")
    mine, theirs = (yaml.safe_load(part) for part in (own_pipeline(text), text))
    assert mine["plots"] == theirs["plots"]
    assert list(mine["stages"]) == list(theirs["stages"])
    for name, stage in theirs["stages"].items():
        kept = [dep for dep in stage["deps"] if not dep.startswith("ssdh/") or "methods" in dep]
        expected = {dep.replace("ssdh/methods", "methods") for dep in kept} | {"ssdh.txt"}
        assert set(mine["stages"][name]["deps"]) == expected, name
        assert len(mine["stages"][name]["deps"]) == len(expected), name
