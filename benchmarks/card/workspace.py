"""A workspace for the stages: a folder with parameters of its own; the code is the project's. No DVC, no network."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.card.options import Options

PROJECT = Path(__file__).resolve().parents[2]
PLACEHOLDER = Path("models/pretrained/none.safetensors")


class StageError(RuntimeError):
    """A stage that did not end well; its lines are in the text."""


class Workspace:
    """A folder in which stages run, each as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"  # $SSDH_HOME
        if not folder.is_dir():
            folder.mkdir(parents=True)
            shutil.copy(PROJECT / "params.yaml", folder)
            (folder / PLACEHOLDER).parent.mkdir(parents=True)
            (folder / PLACEHOLDER).touch()

    def set(self, **changes: Any) -> None:
        """Change parameters of the project's `params.yaml`; `train__epochs=3` is `train.epochs`."""
        params = yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))
        for name, value in changes.items():
            *blocks, key = name.split("__")
            block = params
            for part in blocks:
                block = block[part]
            block[key] = value
        text = yaml.safe_dump(params, sort_keys=False)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8", newline="\n")

    def start(self, stage: str) -> subprocess.Popen[str]:
        """Start a stage as a process of its own, whose standard error can be read."""
        paths = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"SSDH_HOME": str(self.home), "SSDH_OFFLINE": "1", "PYTHONPATH": paths}
        return subprocess.Popen(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *stages: str) -> dict[str, float]:
        """Run stages; returns the seconds of each. Raises StageError where one fails."""
        seconds = {}
        for stage in stages:
            started = time.perf_counter()
            process = self.start(stage)
            _, said = process.communicate()
            print(said, end="", file=sys.stderr, flush=True)
            if process.returncode:
                raise StageError(f"{stage} ended with {process.returncode}: {said}")
            seconds[stage] = time.perf_counter() - started
        return seconds

    def copy(self, folder: Path) -> "Workspace":
        """A second workspace with the same files, without what its stages left in $SSDH_HOME."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(self.home.name))
        return Workspace(folder)


def prepared(options: Options) -> tuple[Workspace, dict[str, float]]:
    """A workspace with features and structure of recipe `published`, and the seconds of what was run for it.

    It is made once: CIFAR-10 by the field's protocol at 224 px, or the embedded digits, small.
    """
    workspace = Workspace(options.work / "prepared")
    if (workspace.folder / "features/structure.npz").is_file():
        return workspace, {}
    dataset = "cifar10" if options.cifar else "digits"
    images: dict[str, Any] = {"size": options.size, "resize": options.size * 8 // 7}
    images["weights"] = "file" if options.weights and options.trained == "vgg16" else "random"
    workspace.set(dataset=dataset, recipe="published", runtime__device=options.device)
    workspace.set(**{f"datasets__{dataset}__images__{name}": value for name, value in images.items()})
    workspace.set(backbone__arch=options.trained)
    if options.cifar:
        workspace.set(datasets__cifar10__data__root=str(options.cifar))
    if options.weights:
        workspace.set(backbone__weights_file=str(options.weights))
    if options.small:
        workspace.set(**{f"datasets__{dataset}__data__num_train": 200})
    seconds = workspace.run("check", "prepare", "extract", "views", "structure")
    return workspace, seconds
