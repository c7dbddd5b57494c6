"""The counts of `ssdh.hashing.retrieval` on a GPU: a matrix product instead of xor; every count is equal."""

import numpy as np
import torch
from numpy.typing import NDArray

from ssdh.hashing.codes import unpack

BLOCK_PAIRS = 1 << 26  # pairs a step: some 1.5 GB of temporaries on the device


def count_keys(
    query: NDArray[np.uint8],
    database: NDArray[np.uint8],
    query_labels: NDArray[np.uint8],
    database_labels: NDArray[np.uint8],
    bits: int,
    device: str,
) -> NDArray[np.int64]:
    """Items at each key distance + (K + 1)·relevant of each query, int64 (q, 2(K + 1)).

    query (q, ⌈bits/8⌉), database (n, ⌈bits/8⌉): packed; labels (q, C), (n, C): multi-hot. Products of ±1 and of 0/1 are
    whole numbers below 2^24: exact in float32, whatever the device rounds to.
    """
    keys = 2 * (bits + 1)
    num_queries = len(query)
    rows = torch.arange(num_queries, device=device)[:, None] * keys  # (q, 1)
    codes, labels = _tensor(unpack(query, bits), device), _tensor(query_labels != 0, device)
    counts = torch.zeros(num_queries * keys, dtype=torch.int64, device=device)
    step = max(1, BLOCK_PAIRS // max(num_queries, 1))
    for start in range(0, len(database), step):
        part = slice(start, start + step)
        distance = (bits - codes @ _tensor(unpack(database[part], bits), device).T) / 2  # (q, b)
        relevant = labels @ _tensor(database_labels[part] != 0, device).T > 0
        key = distance.long() + (bits + 1) * relevant.long() + rows
        counts += torch.bincount(key.ravel(), minlength=len(counts))
    found: NDArray[np.int64] = counts.view(num_queries, keys).cpu().numpy()
    return found


def _tensor(values: NDArray[np.generic], device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device).float()
