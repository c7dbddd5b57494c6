"""An encoded image as bytes: its code and, where they are kept, its features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import row_lengths
from ssdh.hashing.codes import pack, sign_codes, width
from ssdh.hashing.model_file import load_hashnet

FeatureKind = Literal["none", "float16", "int8"]

KINDS: tuple[FeatureKind, ...] = get_args(FeatureKind)


@dataclass(frozen=True)
class Layout:
    """How a row of bytes is laid out: a packed code, then `dim` values of the features' kind."""

    bits: int
    dim: int
    kind: FeatureKind

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The features' type; None where none are kept."""
        return None if self.kind == "none" else np.dtype(self.kind)

    def rows(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(n, K + D) outputs and features, or (n, K) outputs, to bytes (n, R)."""
        codes = pack(sign_codes(values[:, : self.bits]))
        if self.kind == "none":
            return codes
        features = stored_features(values[:, self.bits :], self.kind)
        return np.concatenate([codes, features.view(np.uint8)], axis=1)

    def codes(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The packed codes (n, ⌈K/8⌉) of rows."""
        return np.ascontiguousarray(rows[:, : width(self.bits)])

    def features(self, rows: NDArray[np.uint8]) -> NDArray[Any]:
        """The features (n, D) of rows."""
        assert self.dtype is not None
        return np.ascontiguousarray(rows[:, width(self.bits) :]).view(self.dtype)


def stored_features(features: NDArray[np.float32], kind: FeatureKind) -> NDArray[Any]:
    """Features (n, D) as they are kept: directions alone, since only cosines are asked of them.

    float16: at unit length. int8: each row times 127 over its largest absolute value, rounded.

    >>> stored_features(np.array([[3, -4]], np.float32), "float16").tolist()
    [[0.60009765625, -0.7998046875]]
    >>> stored_features(np.array([[2, -4]], np.float32), "int8").tolist()
    [[64, -127]]
    """
    if kind == "int8":
        largest = np.abs(features).max(axis=1, keepdims=True)
        return np.rint(features * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)
    return (features / row_lengths(features)).astype(np.float16)


def layout_of(model_path: Path, kind: FeatureKind) -> Layout:
    """The layout of a model's rows; DataError where the file is no model."""
    model = load_hashnet(model_path)
    return Layout(model.bits, model.dim, kind)
