"""The validation curve, which chooses nothing.

Queries are database images that neither train nor are test queries; the test queries are never looked at.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.core.split import Split
from ssdh.training.collapse import finite_codes

QUERY_STREAM, DATABASE_STREAM = 21, 22  # of the seed's random streams
MAX_QUERIES, MAX_DATABASE = 500, 10_000


def draw_validation(split: Split, seed: int) -> tuple[Rows, Rows]:
    """Draw (queries, database) rows for the curve, disjoint: at most a tenth, or 500, of the images that do not train.

    The database is what remains, at most 10,000 drawn by the seed. Both are empty where every image trains.
    """
    candidates = np.setdiff1d(split.database, split.train)
    count = min(MAX_QUERIES, max(1, len(candidates) // 10)) if len(candidates) > 1 else 0
    queries = np.random.default_rng([seed, QUERY_STREAM]).permutation(candidates)[:count]
    database = split.database[~np.isin(split.database, queries)]
    if len(database) > MAX_DATABASE:
        database = np.random.default_rng([seed, DATABASE_STREAM]).permutation(database)[:MAX_DATABASE]
    return queries, database if count else database[:0]


def validation_map(
    outputs_of: Callable[[Rows], NDArray[Any]], labels: NDArray[np.uint8], queries: Rows, database: Rows
) -> float:
    """The tie-aware mAP over the whole validation database; outputs_of(rows) gives the network's outputs (n, K)."""
    from ssdh.hashing.retrieval import mean_average_precision

    query_codes, database_codes = finite_codes(outputs_of(queries)), finite_codes(outputs_of(database))
    return mean_average_precision(
        query_codes, database_codes, np.asarray(labels[queries]), np.asarray(labels[database])
    )
