"""Kills a stage at a named point, by SIGKILL, in a process of its own.

`POINTS[name] = (stage, patch)`: `patch()` replaces a function by one that kills the process at that point.
"""

import importlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from ssdh.features import blocks, forward, store
from ssdh.training import finetune as whole_network
from ssdh.training import fit as fitting
from ssdh.training import loop as training
from tests.helpers.tiny import inside


def die() -> NoReturn:
    """End this process at once; nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def call(number: int, function: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose call `number` (from 1) is `replacement` instead."""
    calls = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return (replacement if calls == number else function)(*arguments, **options)

    return wrapped


def half_written(path: Path, *_: Any, **__: Any) -> NoReturn:
    """Write something torn and die."""
    path.write_bytes(b"\x93NUMPY torn")
    die()


def inside_block_write() -> None:
    blocks.FLUSH_SECONDS = -1.0
    np.save = call(2, np.save, half_written)  # type: ignore[assignment]


def after_block_write() -> None:
    blocks.FLUSH_SECONDS = -1.0
    Path.replace = call(2, Path.replace, lambda *_: die())  # type: ignore[method-assign]


def between_blocks() -> None:
    blocks.FLUSH_SECONDS = -1.0
    forward._fetched = call(2, forward._fetched, lambda *_: die())


def in_assembly() -> None:
    blocks.FLUSH_SECONDS = -1.0
    store.Kept.read = call(2, store.Kept.read, lambda *_: die())  # type: ignore[method-assign]


def between_values_and_digests() -> None:
    blocks.FLUSH_SECONDS = -1.0
    Path.write_bytes = call(2, Path.write_bytes, lambda *_: die())  # type: ignore[method-assign]


def before_array_rename() -> None:
    def rename(self: Path, target: Path) -> Any:
        if Path(target).name in ("features.npy", "codes.npy"):
            die()
        return replace(self, target)

    replace = Path.replace
    Path.replace = rename  # type: ignore[method-assign,assignment]


def after_outs_before_cleaning() -> None:
    shutil.rmtree = lambda *_, **__: die()


def mid_epoch() -> None:
    step = whole_network.NetworkTrainer.step
    whole_network.NetworkTrainer.step = call(6, step, lambda *_: die())  # type: ignore[method-assign]


def end_of_epoch() -> None:
    end = training.Progress.end_epoch
    training.Progress.end_epoch = call(2, end, lambda *_: die())  # type: ignore[method-assign]


def inside_snapshot_write() -> None:
    torch.save = call(2, torch.save, lambda state, path: half_written(path))


def before_snapshot_rename() -> None:
    def rename(self: Path, target: Path) -> Any:
        if Path(target).name == "snapshot.pt" and Path(target).exists():
            die()
        return replace(self, target)

    replace = Path.replace
    Path.replace = rename  # type: ignore[method-assign,assignment]


def in_validation() -> None:
    fitting.validation_map = call(2, fitting.validation_map, lambda *_: die())


def after_training() -> None:
    fitting.examine_training = lambda *_: die()


def between_outs() -> None:
    import stages.train

    stages.train.save_hashnet = lambda *_: die()


POINTS: dict[str, tuple[str, Callable[[], None]]] = {
    "extract: inside a block's write": ("extract", inside_block_write),
    "extract: between a block's write and its rename": ("extract", after_block_write),
    "extract: between a block's values and their digests": ("extract", between_values_and_digests),
    "extract: between two blocks": ("extract", between_blocks),
    "extract: while the blocks are put together": ("extract", in_assembly),
    "views: between two blocks": ("views", between_blocks),
    "views: between a block's values and their digests": ("views", between_values_and_digests),
    "extract: between the array's write and its rename": ("extract", before_array_rename),
    "extract: with the array in place": ("extract", after_outs_before_cleaning),
    "train: in mid-epoch": ("train", mid_epoch),
    "train: at an epoch's end": ("train", end_of_epoch),
    "train: inside a snapshot's write": ("train", inside_snapshot_write),
    "train: between a snapshot's write and its rename": ("train", before_snapshot_rename),
    "train: in a validation": ("train", in_validation),
    "train: after the last step": ("train", after_training),
    "train: between the curves and the model": ("train", between_outs),
    "encode: between two blocks": ("encode", between_blocks),
    "encode: between the codes' write and their rename": ("encode", before_array_rename),
}


def run(folder: Path, home: Path, stages: list[str], point: str | None) -> None:
    """Run stages in `folder`, dying at `point` if one is named."""
    os.environ["SSDH_HOME"] = str(home)
    torch.set_num_threads(1)
    if point is not None:
        POINTS[point][1]()
    with inside(folder):
        for stage in stages:
            importlib.import_module(f"stages.{stage}").main()
