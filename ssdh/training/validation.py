"""The validation curve, which chooses nothing, and the look at the codes that notices a collapse.

Queries are database images that neither train nor are test queries; the test queries are never looked at.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.core.errors import SSDHError
from ssdh.core.split import Split
from ssdh.hashing.codes import pack, sign_codes

QUERY_STREAM, DATABASE_STREAM = 21, 22  # of the seed's random streams
MAX_QUERIES, MAX_DATABASE = 500, 10_000
SATURATED = 0.99  # share of outputs of a tanh at exactly ±1; 0 to 0.4 after training as it should be
HUGE = 1e3  # median of outputs that nothing bounds; about 1 after training as it should be
UNMOVED = 1e-6  # of their length; 0.003 and more after three epochs as they should be
FEW = 8  # epochs; the losses of fewer tell nothing
# times the first loss; at most 1.03 with recipes as they are, 1.1 to 1.6 with the pair loss at a decay of 1
WORSE = 1.04


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

    query_codes, database_codes = _codes(outputs_of(queries)), _codes(outputs_of(database))
    return mean_average_precision(
        query_codes, database_codes, np.asarray(labels[queries]), np.asarray(labels[database])
    )


def collapse_statistics(outputs: NDArray[Any]) -> dict[str, int]:
    """Bits that are the same in every code, and different codes, of outputs (n, K).

    Raises SSDHError where an output is no finite number.
    """
    codes = _codes(outputs)
    return {
        "constant_bits": int((codes == codes[0]).all(axis=0).sum()),
        "unique_codes": len(np.unique(pack(codes), axis=0)),
    }


def warn_of_collapse(statistics: dict[str, int], count: int, bits: int, way_out: str) -> bool:
    """Say loudly, and with what to do, that the codes of `count` train images hold (almost) nothing.

    Returns whether they do.
    """
    collapsed = have_collapsed(statistics, count, bits)
    if collapsed:
        logger.warning(
            "COLLAPSED CODES: {} of {} bits are the same for every train image, {} images have {} different codes; {}",
            *(statistics["constant_bits"], bits, count, statistics["unique_codes"], way_out),
        )
    return collapsed


def have_collapsed(statistics: dict[str, int], count: int, bits: int) -> bool:
    """Whether codes of `count` images hold (almost) nothing: a bit is constant, or not one in a hundred differs."""
    return statistics["constant_bits"] > 0 or statistics["unique_codes"] < max(2, min(count, 2**bits) // 100)


def warn_of_saturation(outputs: NDArray[Any], way_out: str) -> bool:
    """Say loudly that outputs (n, K) no longer follow the loss; returns whether that is so.

    Steps that are far too large throw the weights so far that tanh gives exactly ±1, where its slope is 0: the loss
    stays a finite number and codes differ, but they are those of the last throw.
    """
    size = np.abs(outputs)
    saturated = bool((size >= 1).mean() >= SATURATED if size.max() <= 1 else np.median(size) >= HUGE)
    if saturated:
        logger.warning(
            "SATURATED OUTPUTS: of all outputs for the train images {:.0%} are at ±1 or beyond, where training no "
            "longer moves them; {}",
            *((size >= 1).mean(), way_out),
        )
    return saturated


def warn_of_no_learning(losses: Sequence[float], moved: float, way_out: str) -> bool:
    """Say loudly that training from fresh weights has changed nothing, or for the worse; returns whether that is so.

    losses: means of the epochs; of at least FEW, the last quarter is compared with the first. moved: how far the hash
    layer's weights went, as a share of their length: nowhere with a learning rate of 1e-30, or where gradients are
    beyond what float32 can square, which stops Adam.
    """
    last = float(np.mean(losses[-(len(losses) // 4) :])) if len(losses) >= FEW else losses[0]
    learned = moved > UNMOVED and last <= WORSE * losses[0]
    if not learned:
        logger.warning(
            "NOTHING LEARNED: the loss of the first epoch is {:.5g}, of the last {:.5g}, and the weights of the hash "
            "layer moved by {:.2g} of their length; {}",
            *(losses[0], losses[-1], moved, way_out),
        )
    return not learned


def _codes(outputs: NDArray[Any]) -> NDArray[np.int8]:
    if not np.isfinite(outputs).all():
        raise SSDHError("the network's outputs are no longer finite numbers: lower train.lr (params.yaml: train.lr)")
    return sign_codes(outputs)
