"""Whole-network training on the device, killed after its first snapshot and resumed; and one that lacks memory."""

import hashlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.card.options import Options, Row
from benchmarks.card.workspace import StageError, Workspace, prepared

OUTS = ("metrics/train.csv", "metrics/validation.csv", "models/hashnet.safetensors", "models/codes.npy")
TOO_LARGE = 2048  # images a batch: VGG16 keeps some 100 MB of each


def rows(options: Options) -> Iterator[Row]:
    """One undisturbed run, one that is killed and resumed; then one line for the lack of memory."""
    source, _ = prepared(options)
    runs = {name: source.copy(options.work / f"interruption-{name}") for name in ("undisturbed", "killed", "large")}
    for run in runs.values():
        run.set(recipe="manifold", bits=64, train__finetune=True, train__precision="bf16", train__epochs=2)
        run.set(train__batch_size=64, train__snapshot_interval=5)
    runs["undisturbed"].run("train", "encode")
    yield _killed(runs["killed"]) | {"same_bytes": _digests(runs["undisturbed"]) == _digests(runs["killed"])}
    if options.device != "cpu":
        yield _out_of_memory(runs["large"])


def _killed(run: Workspace) -> Row:
    """Kill training as soon as its first snapshot lies there, then let it end; how it went."""
    process = run.start("train")
    while process.poll() is None and not list((run.home / "work").glob("*/snapshot.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = run.start("train")
    _, said = again.communicate()
    print(said, end="", file=sys.stderr, flush=True)
    if again.returncode:
        raise StageError(f"train ended with {again.returncode}: {said}")
    run.run("encode")
    continued = [line for line in said.splitlines() if "continuing from the snapshot" in line]
    return {"what": "killed and resumed", "killed_with": process.returncode, "said": continued}


def _digests(run: Workspace) -> dict[str, str]:
    return {name: hashlib.sha256(Path(run.folder / name).read_bytes()).hexdigest() for name in OUTS}


def _out_of_memory(run: Workspace) -> Row:
    run.set(train__batch_size=TOO_LARGE, train__precision="fp32")
    process = run.start("train")
    _, said = process.communicate()
    lines = [line for line in said.splitlines() if line.startswith("train:")]
    return {"what": "out of memory", "exit_code": process.returncode, "said": lines, "traceback": "Traceback" in said}
