"""Spectral hashing: thresholded eigenfunctions of the Laplacian of a uniform box along the principal components.

Weiss, Torralba, Fergus, *Spectral hashing*, NIPS 2008. On an axis of range R the eigenfunctions are
sin(π/2 + mπ(y − min)/R), m = 1, 2, …, with eigenvalues that grow with (mπ/R)²: the smallest of all axes are the bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32
from ssdh.evaluation.baselines._base import CannotFitError, Codes
from ssdh.evaluation.baselines._linear import mean_of, principal_components

TITLE, ABOUT = "Spectral hashing", "waves along the principal components"


@dataclass(frozen=True)
class Waves(Codes):
    """One wave a bit: its axis (bits, D), where it begins on the axis (bits,), and its frequency mπ/R (bits,)."""

    axes: Float32
    start: Float32
    frequency: Float32

    def outputs(self, features: Float32) -> Float32:
        """sin(π/2 + frequency·(y − start)), y along each bit's axis; float32 (n, bits)."""
        waves: Float32 = np.cos(self.frequency * (features @ self.axes.T - self.start))
        return waves


def fit(train: Float32, bits: int, seed: int) -> Codes:
    """Fit to train (n, D), by as many components as there are, at most `bits`; the seed draws nothing.

    Raises CannotFitError where all rows are equal.
    """
    mean = mean_of(train)
    components = principal_components(train - mean, min(bits, train.shape[1], len(train) - 1))
    projected = train @ components.T  # (n, d); its minimum is subtracted again, so the mean need not be
    low, width = projected.min(axis=0), np.ptp(projected, axis=0)
    if not (width > 0).any():
        raise CannotFitError("all train images have the same features")
    axis, mode = choose_modes(width, bits)
    return Waves(components[axis], low[axis], (mode * np.pi / width[axis]).astype(np.float32))


def choose_modes(width: NDArray[np.floating], bits: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Axis and mode m of the `bits` smallest (mπ/R)², R (d,) being the axes' ranges; each (bits,), smallest first.

    >>> choose_modes(np.array([4.0, 1.5]), 4)
    (array([0, 0, 1, 0]), array([1, 2, 1, 3]))
    """
    modes = np.arange(1, bits + 1)
    with np.errstate(divide="ignore"):
        values = modes / width[:, None]  # (d, bits), as the eigenvalues order
    order = np.argsort(values, axis=None, kind="stable")[:bits]
    axis, place = np.unravel_index(order, values.shape)
    return axis, modes[place]
