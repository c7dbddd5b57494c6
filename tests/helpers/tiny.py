"""A tiny workspace for stages: 168 images of 16 pixels in three classes, a small network, everything in seconds.

`python -m tests.helpers.tiny FOLDER` writes one, to be run by hand.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ssdh.core.files import write_array, write_csv, write_json
from ssdh.core.split import Split, write_split

PROJECT = Path(__file__).resolve().parents[2]
NUM_IMAGES, SIDE = 168, 16  # two full blocks and a part
OUTS = ("metrics/train.csv", "metrics/validation.csv", "models/hashnet.safetensors", "models/codes.npy")


def tiny_images() -> tuple[np.ndarray, np.ndarray]:
    """(images (N, H, W, 3) uint8, labels (N, 3) one-hot): stripes of three widths, shifted and noisy."""
    rng = np.random.default_rng(3)
    classes = rng.integers(0, 3, NUM_IMAGES)
    x = np.arange(SIDE)
    images = np.stack(
        [np.sin((x[None, :] + rng.uniform(0, 9)) * (0.4 + 0.7 * k)) * np.ones((SIDE, 1)) for k in classes]
    )
    noisy = 128 + 90 * images[..., None] + rng.normal(0, 12, (NUM_IMAGES, SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8), np.eye(3, dtype=np.uint8)[classes]


def tiny_params(arch: str = "mobilenet_v3_small", **train: Any) -> dict[str, Any]:
    """The project's own parameters, made small."""
    params: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["bits"] = 12
    params["recipe"] = "centred"
    params["datasets"]["digits"]["images"] |= {"size": 32, "resize": 32}
    params["backbone"]["arch"] = arch
    params["runtime"] |= {"device": "cpu", "workers": 0, "processes": None}
    params["structure"] |= {"alpha": 1.0, "beta": 1.0}
    params["train"] |= {"epochs": 3, "eval_interval": 4, "snapshot_interval": 2, "optimizer": "adam", "lr": 0.02}
    params["train"] |= train
    return params


def write_tiny(folder: Path, params: dict[str, Any]) -> Path:
    """Write `params.yaml`, the placeholder of model files and the outs of `prepare`; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_params(folder, params)
    placeholder = folder / "models/pretrained/none.safetensors"
    placeholder.parent.mkdir(parents=True, exist_ok=True)
    placeholder.touch()
    images, labels = tiny_images()
    names = [(row, f"{row}.png", hashlib.sha256(image).hexdigest()) for row, image in enumerate(images)]
    write_csv(folder / "data/images/manifest.csv", ("row", "path", "sha256"), names)
    write_array(folder / "data/images/images.npy", images)
    write_array(folder / "data/labels.npy", labels)
    write_array(folder / "features/views.npy", np.empty((0, 0, 0), np.float16))
    order = np.random.default_rng(1).permutation(NUM_IMAGES)
    split = Split(query=order[:24], train=np.array([row for row in order[24:] if row % 2]), database=order[24:])
    write_split(folder / "data/split", split, NUM_IMAGES)
    write_json(folder / "metrics/data.json", {"dataset": params["dataset"], "classes": []})
    return folder


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """Replace `params.yaml`."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Run the body with `folder` as the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_stage(folder: Path, *stages: str) -> None:
    """Run stages inside this process."""
    import importlib

    with inside(folder):
        for stage in stages:
            importlib.import_module(f"stages.{stage}").main()


def run_with_views(place: Path) -> Path:
    """A workspace `run` in the folder that has run up to its codes, with two views; its home lies beside it."""
    folder = write_tiny(place / "run", tiny_params() | {"views": {"count": 2}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSDH_HOME", str(place / "home"))
        run_stage(folder, "extract", "views", "structure", "train", "encode")
    return folder


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a stage that runs in a process of its own."""
    own = {"PYTHONPATH": str(PROJECT), "SSDH_HOME": str(home), "OMP_NUM_THREADS": "1", "SSDH_OFFLINE": "1"}
    return os.environ | own | more


def start_stage(folder: Path, home: Path, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND…` in the workspace; returns what it said."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(home, **more),
        capture_output=True,
        text=True,
        check=False,
    )


def results(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that extract, views, train and encode write."""
    names = ("features/features.npy", "features/views.npy", *OUTS)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def copy_tiny(source: Path, target: Path) -> Path:
    """A copy of a workspace."""
    shutil.copytree(source, target)
    return target


if __name__ == "__main__":
    write_tiny(Path(sys.argv[1]), tiny_params())
