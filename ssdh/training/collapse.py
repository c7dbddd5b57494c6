"""A look at what training has made of the codes: collapsed, saturated, or nothing learned, each said loudly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.errors import SSDHError
from ssdh.hashing.codes import pack, sign_codes
from ssdh.training.loop import Progress, Run

SATURATED = 0.99  # share of outputs of a tanh at exactly ±1; 0 to 0.4 after training as it should be
HUGE = 1e3  # median of outputs that nothing bounds; about 1 after training as it should be
UNMOVED = 1e-6  # of their length; 0.003 and more after three epochs as they should be
FEW = 8  # epochs; the losses of fewer tell nothing
# times the first loss; at most 1.03 with recipes as they are, 1.1 to 1.6 with the pair loss at a decay of 1
WORSE = 1.04


@dataclass(frozen=True)
class WaysOut:
    """What to do, for the log line of each mishap."""

    saturation: str
    no_learning: str
    collapse: str


def examine_training(run: Run, progress: Progress, outputs: NDArray[Any], ways_out: WaysOut) -> dict[str, int]:
    """Say loudly what is wrong with the outputs (n, K) for the train images; returns `collapse_statistics` of them.

    A model of `train.init_file` has nothing to learn, so only fresh weights are asked whether they have.
    """
    statistics = collapse_statistics(outputs)
    warn_of_saturation(outputs, ways_out.saturation)
    if run.params.starts_afresh:
        losses = [loss for _, _, loss in progress.epochs]
        warn_of_no_learning(losses, progress.moved, ways_out.no_learning)
    warn_of_collapse(statistics, len(outputs), outputs.shape[1], ways_out.collapse)
    return statistics


def collapse_statistics(outputs: NDArray[Any]) -> dict[str, int]:
    """Bits that are the same in every code, and different codes, of outputs (n, K).

    Raises SSDHError where an output is no finite number.
    """
    codes = finite_codes(outputs)
    return {
        "constant_bits": int((codes == codes[0]).all(axis=0).sum()),
        "unique_codes": len(np.unique(pack(codes), axis=0)),
    }


def warn_of_collapse(statistics: dict[str, int], count: int, bits: int, way_out: str) -> None:
    """Say loudly, and with what to do, where the codes of `count` train images hold (almost) nothing."""
    if have_collapsed(statistics, count, bits):
        logger.warning(
            "COLLAPSED CODES: {} of {} bits are the same for every train image, {} images have {} different codes; {}",
            *(statistics["constant_bits"], bits, count, statistics["unique_codes"], way_out),
        )


def have_collapsed(statistics: dict[str, int], count: int, bits: int) -> bool:
    """Whether codes of `count` images hold (almost) nothing: a bit is constant, or not one in a hundred differs."""
    return statistics["constant_bits"] > 0 or statistics["unique_codes"] < max(2, min(count, 2**bits) // 100)


def warn_of_saturation(outputs: NDArray[Any], way_out: str) -> None:
    """Say loudly where outputs (n, K) no longer follow the loss.

    Steps that are far too large throw the weights so far that tanh gives exactly ±1, where its slope is 0: the loss
    stays a finite number and codes differ, but they are those of the last throw.
    """
    size = np.abs(outputs)
    if (size >= 1).mean() >= SATURATED if size.max() <= 1 else np.median(size) >= HUGE:
        logger.warning(
            "SATURATED OUTPUTS: of all outputs for the train images {:.0%} are at ±1 or beyond, where training no "
            "longer moves them; {}",
            *((size >= 1).mean(), way_out),
        )


def warn_of_no_learning(losses: Sequence[float], moved: float, way_out: str) -> None:
    """Say loudly where training from fresh weights has changed nothing, or for the worse.

    losses: means of the epochs; of at least FEW, the last quarter is compared with the first. moved: how far the hash
    layer's weights went, as a share of their length: nowhere with a learning rate of 1e-30, or where gradients are
    beyond what float32 can square, which stops Adam.
    """
    last = float(np.mean(losses[-(len(losses) // 4) :])) if len(losses) >= FEW else losses[0]
    if not (moved > UNMOVED and last <= WORSE * losses[0]):
        logger.warning(
            "NOTHING LEARNED: the loss of the first epoch is {:.5g}, of the last {:.5g}, and the weights of the hash "
            "layer moved by {:.2g} of their length; {}",
            *(losses[0], losses[-1], moved, way_out),
        )


def finite_codes(outputs: NDArray[Any]) -> NDArray[np.int8]:
    """Codes (n, K) of outputs; SSDHError where one is no finite number."""
    if not np.isfinite(outputs).all():
        raise SSDHError("the network's outputs are no longer finite numbers: lower train.lr (params.yaml: train.lr)")
    return sign_codes(outputs)
