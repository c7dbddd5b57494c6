"""How often the pseudo-labels are right: where they meet the images' labels, for a report; nothing learns from it."""

import numpy as np
from numpy.typing import NDArray

from ssdh.structure.pseudo_labels import PairLabels

PAIR_ROWS = 20_000  # train images whose pairs are compared with the labels: at most 200 million pairs
BLOCK_PAIRS = 4_000_000


def pair_precision(pairs: PairLabels, labels: NDArray[np.uint8]) -> dict[str, float]:
    """How often the pseudo-labels are right, over the pairs i < j of (the first 20,000) train images.

    labels: (n, C) of the train images, in the order of `pairs`. similar_precision: share of the pairs labelled similar
    that share a label; dissimilar_precision: share of those labelled dissimilar that share none. Without such pairs,
    or without labels, the key is left out.
    """
    n = min(len(pairs), PAIR_ROWS)
    present = (labels[:n] != 0).astype(np.float32)
    right, all_pairs = {1: 0, -1: 0}, {1: 0, -1: 0}
    step = max(1, BLOCK_PAIRS // max(n, 1))
    for start in range(0, n if labels.shape[1] else 0, step):
        rows, others = np.arange(start, min(start + step, n)), np.arange(start, n)
        later = rows[:, None] < others  # each pair once
        pseudo = pairs.block(rows, others)
        share = present[rows] @ present[others].T > 0
        for sign in (1, -1):
            chosen = (pseudo == sign) & later
            all_pairs[sign] += int(np.count_nonzero(chosen))
            right[sign] += int(np.count_nonzero(chosen & (share if sign == 1 else ~share)))
    names = {1: "similar_precision", -1: "dissimilar_precision"}
    return {names[sign]: right[sign] / count for sign, count in all_pairs.items() if count}
