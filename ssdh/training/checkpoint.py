"""Training snapshots: written atomically beside the training, read back only where they fit."""

import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from ssdh.core.device import is_out_of_memory
from ssdh.core.distributed import Rank
from ssdh.core.errors import DataError
from ssdh.core.files import atomic_path


class Snapshots:
    """The last snapshot of one training run, in `folder`; `fingerprint` says which run it belongs to.

    A thread writes it: one of VGG16 with its momentum holds 1.07 GB, for which a disk needs longer than a card for a
    hundred steps.
    """

    def __init__(self, folder: Path, fingerprint: str, rank: Rank = Rank()) -> None:  # noqa: B008 (immutable)
        self.path = folder / "snapshot.pt"
        self.fingerprint = fingerprint
        self.rank = rank
        self._writer = ThreadPoolExecutor(1, "snapshot")
        self._writing: Future[None] | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Replace the snapshot by `state` (tensors, numbers, texts, lists, dicts) as it is now; only rank 0 writes.

        Waits for the snapshot before; raises DataError where that one could not be written.
        """
        if self.rank.first:
            self.finish()
            self._writing = self._writer.submit(self._write, _copied(state))

    def finish(self) -> None:
        """Wait until the last snapshot is on the disk; raises DataError where it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: dict[str, Any]) -> None:
        with atomic_path(self.path) as temporary:
            try:
                torch.save(state | {"fingerprint": self.fingerprint}, temporary)
            except RuntimeError as error:  # PyTorch's name for a full disk
                raise DataError(f"{self.path} could not be written: {str(error).splitlines()[0]}") from None

    def load(self) -> dict[str, Any] | None:
        """The state of the last snapshot, tensors on the CPU; None, with a log line, where there is none that fits."""
        self.finish()
        if not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            logger.warning("{} is not a whole snapshot ({}): ignored", self.path, type(error).__name__)
            return None
        if not isinstance(state, dict) or state.get("fingerprint") != self.fingerprint:
            logger.warning("{} belongs to other parameters, inputs or code: ignored", self.path)
            return None
        return state


def _copied(state: Any) -> Any:
    """The state in memory of its own on the CPU, which no later step changes."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(_copied, state))
    return state
