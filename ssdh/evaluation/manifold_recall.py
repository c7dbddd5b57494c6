"""Choosing between recipes without labels: do the codes keep the neighbours that the manifold shows?

On images that did not train, the reference is the same for every recipe and code length: each image's nearest images in
a diffusion map (`ssdh.structure.manifold`) of power-normalised features. The number is the share of them that the
codes find. It ranks recipes much as the mAP does (`docs/method.md`), so that people with unlabelled photos can choose
too.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.files import take_rows
from ssdh.core.split import Split
from ssdh.evaluation.metrics import neighbors_among_first
from ssdh.hashing.codes import hamming
from ssdh.structure.manifold import diffusion_embedding
from ssdh.structure.vectors import power_normalise

POWER, GRAPH_NEIGHBORS, RANK, STEPS, DECAY = 0.7, 20, 128, 6, 0.9  # of the reference; never a recipe's
LIMIT = 5000  # images looked at
SHARE = 0.02  # of them are an image's nearest
BLOCK_ROWS = 256


def manifold_recall(
    packed: NDArray[np.uint8],
    features: NDArray[Any],
    split: Split,
    *,
    bits: int,
) -> float | None:
    """Mean share of an image's nearest images on the manifold that are as near by code, from 0 to 1.

    packed: (N, ⌈bits/8⌉) codes and features: (N, D) of all images. Looked at are up to LIMIT database images that did
    not train (all of the database where fewer than 100 are left), in the database's order. The k nearest count, k being
    SHARE of them; ties in Hamming distance count by the probability of being among the first k. None for fewer than
    three images, and where their graph is in too many pieces.
    """
    held_out = split.database[~np.isin(split.database, split.train)]
    rows = (held_out if len(held_out) >= 100 else split.database)[:LIMIT]
    if len(rows) < 3:
        return None
    normalised = power_normalise(np.asarray(take_rows(features, rows), np.float32), POWER)
    try:
        embedding = diffusion_embedding(normalised, neighbors=GRAPH_NEIGHBORS, rank=RANK, steps=STEPS, decay=DECAY)
    except DataError:
        return None
    return neighbor_share(packed[rows], embedding, bits=bits, neighbors=max(1, round(SHARE * len(rows))))


def neighbor_share(packed: NDArray[np.uint8], vectors: NDArray[np.float32], *, bits: int, neighbors: int) -> float:
    """Mean share of the `neighbors` nearest by cosine of unit `vectors` (n, r) among the as many nearest by code.

    The expectation over the order of ties (`neighbors_among_first`). An image is no neighbour of its own.
    """
    n = len(packed)
    k = min(neighbors, n - 1)
    shares = 0.0
    for start in range(0, n, BLOCK_ROWS):
        own = np.arange(start, min(start + BLOCK_ROWS, n))
        similarity = vectors[own] @ vectors.T
        similarity[np.arange(len(own)), own] = -np.inf
        true = np.argpartition(-similarity, k - 1, axis=1)[:, :k]  # (b, k)
        distance = hamming(packed[own], packed).astype(np.int64)  # (b, n)
        distance[np.arange(len(own)), own] = bits + 1
        keys = distance + (bits + 2) * np.arange(len(own))[:, None]
        counts = np.bincount(keys.ravel(), minlength=(bits + 2) * len(own)).reshape(len(own), bits + 2)
        at = np.take_along_axis(distance, true, axis=1)  # (b, k)
        shares += float(neighbors_among_first(counts, at, k).sum())
    return shares / (n * k)
