"""Training snapshots: written atomically, read back only where they fit."""

import pickle
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from ssdh.devices import Rank, is_out_of_memory
from ssdh.errors import DataError
from ssdh.runs import atomic_path


class Snapshots:
    """The last snapshot of one training run, in `folder`; `fingerprint` says which run it belongs to."""

    def __init__(self, folder: Path, fingerprint: str, rank: Rank = Rank()) -> None:  # noqa: B008 (immutable)
        self.path = folder / "snapshot.pt"
        self.fingerprint = fingerprint
        self.rank = rank

    def save(self, state: dict[str, Any]) -> None:
        """Replace the snapshot by `state` (tensors, numbers, texts, lists, dicts); only rank 0 writes."""
        if not self.rank.first:
            return
        with atomic_path(self.path) as temporary:
            try:
                torch.save(state | {"fingerprint": self.fingerprint}, temporary)
            except RuntimeError as error:  # PyTorch's name for a full disk
                raise DataError(f"{self.path} could not be written: {str(error).splitlines()[0]}") from None

    def load(self) -> dict[str, Any] | None:
        """The state of the last snapshot, tensors on the CPU; None, with a log line, where there is none that fits."""
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
