"""A small, quick copy of the project in a git and DVC repository of its own, to run the real pipeline in."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from ssdh.experiments.dvc import ANSWER, PAUSE, TRIES, met_half_written

# dvc commands that read what queue workers write, and may be run twice
BESIDE_WORKERS = (("queue", "status"), ("queue", "start"), ("exp", "show"))

# The whole pipeline in seconds a stage: a small network at 32 px, few epochs; names as `dvc exp run -S` takes them.
SMALL = {
    "backbone.arch": "resnet18",
    "datasets.digits.images.size": "32",
    "datasets.digits.images.resize": "32",
    "datasets.digits.data.num_query": "100",
    "datasets.digits.data.num_train": "300",
    "train.epochs": "3",
    "bits": "12",
}


class Clone:
    """A repository in `folder`; every command runs there with this interpreter's environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder.parent / f"{folder.name}-home"
        self.record = folder.parent / f"{folder.name}-ran.txt"  # the stages that its first run ran
        self.environment = os.environ | {
            "SSDH_HOME": str(self.home),
            "SSDH_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }

    def copy(self, folder: Path) -> "Clone":
        """The same repository, DVC cache and $SSDH_HOME at another place."""
        shutil.copytree(self.folder, folder, symlinks=True)
        other = Clone(folder)
        shutil.copytree(self.home, other.home)
        return other

    def run(self, *command: str, check: bool = True, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; raises with its whole output where it fails and `check` is true."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
        return checked(done) if check else done

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run dvc; what asks beside queue workers is asked again where `ssdh.experiments.dvc.dvc` does so.

        Where another dvc holds the repository's lock it waits, however long; by itself dvc gives up after 3 seconds.
        """
        command = (sys.executable, "-m", "dvc", "--wait-for-lock", *arguments)
        for _ in range(TRIES - 1 if arguments[:2] in BESIDE_WORKERS else 0):
            try:
                done = self.run(*command, check=False, timeout=ANSWER)
            except subprocess.TimeoutExpired:
                continue
            if not (done.returncode and met_half_written(done.stderr)):
                return checked(done) if check else done
            time.sleep(PAUSE)
        return self.run(*command, check=check)

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`; returns the stages whose command ran, in order (cached and restored ones are left out)."""
        return stages_run(self.dvc("repro", *arguments).stdout)

    def wait_for_queue(self) -> None:
        """Wait until no queued experiment is left, as long as it takes while a worker is there to run them."""
        unattended = 0
        while re.search(r"\b(Queued|Running) *$", status := self.dvc("queue", "status").stdout, re.MULTILINE):
            unattended = 0 if self.workers() else unattended + 1
            assert unattended < 10, f"tasks, but no worker\n{status}"
            time.sleep(4)  # asking takes as long as a stage takes to start

    def wait_for_workers(self) -> None:
        """Wait until the workers of an earlier queue have ended; one that is idle does so within some 10 seconds."""
        while self.workers():
            time.sleep(0.5)

    def workers(self) -> list[psutil.Process]:
        """The processes of this repository's queue workers; DVC asks them, and a busy one may be silent too long."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "queue-worker" in process.cmdline() and Path(process.cwd()).is_relative_to(self.folder.resolve()):
                    found.append(process)
        return found

    def commit(self, message: str = "state") -> None:
        """Commit everything that is not ignored."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)

    def set(self, **values: str) -> None:
        """Set parameters in params.yaml, keeping its comments: keys with dots given as `__`."""
        self.set_all({key.replace("__", "."): value for key, value in values.items()})

    def set_all(self, values: dict[str, str]) -> None:
        """Set parameters by dotted name; values are written as YAML reads them."""
        import ruamel.yaml  # DVC's own YAML library: keeps order and comments

        yaml = ruamel.yaml.YAML()
        path = self.folder / "params.yaml"
        params = yaml.load(path)
        for name, value in values.items():
            *parents, last = name.split(".")
            block = params
            for key in parents:
                block = block[key]
            assert last in block, f"params.yaml has no {name}"
            block[last] = yaml.load(value)
        with path.open("w") as file:
            yaml.dump(params, file)


def checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The same, where it went well; raises AssertionError with its whole output where it failed."""
    command = " ".join(map(str, done.args))
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def stages_run(output: str) -> list[str]:
    """The names in DVC's lines `Running stage 'NAME':`."""
    return re.findall(r"Running stage '([^']+)'", output)


def stages_of(home: Path) -> list[str]:
    """The stages that ran with this $SSDH_HOME, in order."""
    path = home / "timings.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row["stage"] for row in csv.DictReader(file)]


def make_clone(project: Path, folder: Path, *, small: bool = True) -> Clone:
    """Copy the working tree (tracked files and new ones that git does not ignore) and commit it in a new repository.

    The committed `dvc.lock` and metrics of the default run stay behind when `small`: its parameters are others.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=project, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source, target = project / name, folder / name
        if source.is_file() and not (small and (name == "dvc.lock" or name.startswith("metrics/"))):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    clone = Clone(folder)
    clone.run("git", "init", "-q", "-b", "main")
    if small:
        clone.set_all(SMALL)
    clone.commit("the project as it is")
    return clone
