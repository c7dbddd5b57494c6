"""What is looked for among embeddings: rows of a file of them, or a row of the index by its name or number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.features.embedding_numpy import read_header
from ssdh.features.embeddings import REASONS, open_embeddings
from ssdh.hashing.codes import pack, sign_codes, unpack
from ssdh.hashing.encoder import feature_blocks, outputs_of
from ssdh.hashing.network import HashNet
from ssdh.search.gallery import Encoded
from ssdh.search.index import Index
from ssdh.search.stored_outputs import stored_outputs


def find_queries(
    text: str, find_row: Callable[[str], int | None], index: Index, model: HashNet, device: torch.device
) -> tuple[list[str], Encoded]:
    """(a name each, codes, outputs and embeddings) of what `text` names: a file, else what `find_row` knows.

    A row of the index has its bits alone, and where no features are kept, no outputs but its code. Raises DataError
    where `text` is none of them, or its rows are no embeddings for `model`.
    """
    if Path(text).exists():
        rows = read_queries(Path(text), model.dim)
        return [f"{text}:{row}" for row in range(len(rows))], encode_queries(rows, model, device)
    row = find_row(text)
    if row is None:
        raise DataError(f"{text} is no file of embeddings, no name and no row of the {len(index):,}: give one of them")
    packed = index.packed[row : row + 1]
    if index.features is None:
        own, outputs = np.zeros((1, model.dim), np.float32), unpack(packed, index.bits).astype(np.float32)
    else:
        own = np.asarray(index.features[np.array([row])], np.float32)
        outputs = stored_outputs(model, packed, index.bits, own, device)
    return [text], Encoded(packed, outputs, own)


def encode_queries(features: NDArray[Any], model: HashNet, device: torch.device) -> Encoded:
    """Codes, outputs and features (q, D) of embeddings, of any number type, that were looked at."""
    rows = np.asarray(features, np.float32)
    outputs = outputs_of(feature_blocks(model, rows, device))(np.arange(len(rows)))
    return Encoded(pack(sign_codes(outputs)), outputs, rows)


def read_queries(path: Path, dim: int) -> NDArray[np.float32]:
    """(q, dim) float32 of a file in any format of embeddings; a .npy of one vector (dim,) is one row."""
    if path.suffix.lower() == ".npy" and path.is_file():
        with path.open("rb") as file:
            if read_header(file, path)[0] == (dim,):
                vector = np.load(path, allow_pickle=False).astype(np.float32)
                return _checked(path, vector[None], np.zeros(1, np.uint8))
    embeddings = open_embeddings(path)
    if embeddings.shape[1] != dim:
        raise DataError(
            f"{path} has {embeddings.shape[1]} values a row, the model takes {dim}: give embeddings of one kind"
        )
    blocks = list(embeddings.blocks())
    values = np.concatenate([block.values for block in blocks]).astype(np.float32)
    return _checked(path, values, np.concatenate([block.fault for block in blocks]))


def _checked(path: Path, values: NDArray[np.float32], fault: NDArray[np.uint8]) -> NDArray[np.float32]:
    if fault.any():
        row = int(np.flatnonzero(fault)[0])
        raise DataError(f"{path}: row {row} {REASONS[fault[row]]}: leave it out")
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds NaN or infinity: leave such rows out")
    return values
