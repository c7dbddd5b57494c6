"""Arrays by what they hold, tensors as arrays, and rows at length 1."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = NDArray[np.int64]  # numbers of rows
Counts = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Packed = NDArray[np.uint8]  # codes (n, ⌈bits/8⌉)


def from_tensor(values: Any) -> Any:
    """A tensor of torch, wherever it lies, as an array; bfloat16, which NumPy has not, as float32. Others as they are.

    Known by its methods, so that torch is not imported for it.
    """
    if not hasattr(values, "detach"):
        return values
    tensor = values.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def row_lengths(rows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Lengths (n, 1) of rows (n, D), by which they are divided to be of length 1; that of a row of zeros is 1.

    >>> row_lengths(np.array([[3.0, -4.0], [0.0, 0.0]])).tolist()
    [[5.0], [1.0]]
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 0, lengths, 1)
