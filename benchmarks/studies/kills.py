"""Kill a real `dvc repro` at random and compare what comes out: `python -m benchmarks.studies.kills --kills 20`.

A small clone of the project trains a whole network. Each run is killed (SIGKILL) after a random time: dvc and the
stage, dvc alone (the stage runs on), or the stage alone. The next `dvc repro` continues. Whenever one comes to its end,
features, model, codes and metrics must be, byte for byte, those of a run that nobody disturbed; then all is removed,
and the next round begins.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import STUDIES, table, write_results
from tests.helpers.clone import Clone, make_clone

PROJECT = Path(__file__).resolve().parents[2]
MODES = ("dvc and stage", "dvc alone", "stage alone")
SETTINGS = {
    "backbone.arch": "mobilenet_v3_small",
    "recipe": "centred",
    "train.finetune": "true",
    "train.epochs": "4",
    "train.batch_size": "24",
    "train.snapshot_interval": "5",
    "train.eval_interval": "20",
}


def results(folder: Path) -> dict[str, bytes]:
    """Bytes of everything that the pipeline puts out but the report, which names the time."""
    names = ["features/features.npy", "features/pseudo_labels.npy", "models/hashnet.safetensors", "models/codes.npy"]
    names += [
        str(path.relative_to(folder)) for path in sorted((folder / "metrics").glob("*")) if path.suffix != ".html"
    ]
    return {name: (folder / name).read_bytes() for name in names}


def start(clone: Clone) -> subprocess.Popen[bytes]:
    """Start `dvc repro evaluate` in a session of its own."""
    log = (clone.folder.parent / "repro.log").open("ab")
    command = [sys.executable, "-m", "dvc", "repro", "evaluate"]
    return subprocess.Popen(
        command, cwd=clone.folder, env=clone.environment, stdout=log, stderr=log, start_new_session=True
    )


def stage_of(process: subprocess.Popen[bytes]) -> tuple[str, list[psutil.Process]]:
    """The stage that runs under dvc ("none" between stages) and its processes."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        named = [(child, " ".join(child.cmdline())) for child in children]
    except psutil.Error:
        return "none", []
    stages = [line.split("stages.")[1].split()[0] for _, line in named if "-m stages." in line]
    return (stages[0] if stages else "none"), [child for child, line in named if "stages." in line]


def kill(process: subprocess.Popen[bytes], mode: str) -> str:
    """Kill as `mode` says; returns the stage that was running."""
    stage, members = stage_of(process)
    if mode == "dvc alone" or (mode == "stage alone" and not members):
        process.kill()
    elif mode == "stage alone":
        for member in members:
            member.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return stage


def begin_again(clone: Clone) -> None:
    """Remove every result and DVC's memory of it."""
    clone.run("git", "checkout", "-q", "--", ".")
    clone.run("git", "clean", "-q", "-f", "-d", "-x", "-e", ".dvc/config*")
    shutil.rmtree(clone.folder / ".dvc/cache", ignore_errors=True)


def run(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Do it; raises AssertionError at the first byte that differs."""
    rng = random.Random(seed)
    clone = make_clone(PROJECT, folder / "clone")
    clone.set_all(SETTINGS)
    clone.commit("settings")
    started = time.perf_counter()
    assert start(clone).wait() == 0, (folder / "repro.log").read_text()
    seconds = time.perf_counter() - started
    expected = results(clone.folder)
    begin_again(clone)
    done: list[dict[str, Any]] = []
    rounds = 0
    while True:
        process = start(clone)
        wait = rng.uniform(0, seconds)
        mode = MODES[rng.randrange(len(MODES))]
        try:
            code = process.wait(timeout=wait if len(done) < kills else None)
        except subprocess.TimeoutExpired:
            done.append({"kill": len(done) + 1, "after_s": round(wait, 2), "what": mode, "stage": kill(process, mode)})
            continue
        assert code == 0, (folder / "repro.log").read_text()[-3000:]
        result = results(clone.folder)
        assert result.keys() == expected.keys()
        different = [name for name in expected if result[name] != expected[name]]
        assert not different, f"after {done}: {different} differ"
        rounds += 1
        if len(done) >= kills:
            return {"undisturbed_s": seconds, "rounds_compared": rounds, "files": sorted(expected), "kills": done}
        begin_again(clone)


def main() -> None:
    """Print every kill and write `benchmarks/studies/kills.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(chosen.kills, chosen.seed, Path(folder))
    print(table(result["kills"]))
    print(
        f"{len(result['kills'])} kills, {result['rounds_compared']} rounds that came to their end, "
        f"{len(result['files'])} files the same bytes as undisturbed ({result['undisturbed_s']:.0f} s)"
    )
    print(write_results("kills", result, STUDIES / "kills.json"))


if __name__ == "__main__":
    main()
