"""Pseudo-labels of any block of pairs, from the stored matrix or computed on the fly: the same to the bit.

`structure.npz` holds the thresholds and, for the manifold, the embedding; above `structure.max_matrix_gib` the stored
matrix has shape (0, 0) and a batch's labels come from two features (or embedding rows) and the two thresholds.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.files import atomic_path, missing_result, take_rows
from ssdh.structure.thresholds import Structure, near_threshold, ternary
from ssdh.structure.vectors import distances, exact_distances, power_normalise, shifted_unit_vectors

ELEMENT_BYTES = 100  # bytes of a row of the matrix that are copied in the time of looking up one element at random


class PairLabels:
    """Labels S and affinities of pairs of train images; row numbers count the train images, 0 to n − 1.

    vectors: (n, d) features or embedding rows whose cosine distances were fitted. matrix: (n, n) int8, or None (or
    shape (0, 0)) to compute every block from the vectors.
    """

    def __init__(self, vectors: NDArray[Any], structure: Structure, matrix: NDArray[np.int8] | None = None) -> None:
        if matrix is not None and matrix.size and matrix.shape != (len(vectors),) * 2:
            raise DataError(
                f"pseudo-labels of shape {matrix.shape} do not fit {len(vectors)} train images: run dvc repro"
            )
        self.vectors = vectors
        self.structure = structure
        self.matrix = np.ascontiguousarray(matrix) if matrix is not None and matrix.size else None
        self._shifted: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def block(self, i: NDArray[np.integer[Any]], j: NDArray[np.integer[Any]]) -> NDArray[np.int8]:
        """Return S[i][:, j], (len(i), len(j)) int8: 1 similar, −1 dissimilar, 0 unknown; S_ii = 1."""
        if self.matrix is not None:
            whole_rows: NDArray[np.int8] = self.matrix[i]  # as fast as memory, unlike single elements of it
            return whole_rows.take(j, axis=1)
        distances = self.distances(i, j)
        similar, dissimilar = self.structure.threshold_similar, self.structure.threshold_dissimilar
        labels = ternary(distances, similar, dissimilar)
        rows, columns = np.divmod(near_threshold(distances.ravel(), similar, dissimilar), len(j))
        exact = exact_distances(self.vectors, np.asarray(i)[rows], np.asarray(j)[columns])
        labels[rows, columns] = ternary(exact, similar, dissimilar)
        labels[np.asarray(i)[:, None] == np.asarray(j)] = 1
        return labels

    def blocks(self, batches: NDArray[np.integer[Any]]) -> NDArray[np.int8]:
        """Return S of the pairs within each of m batches of row numbers (m, B): (m, B, B) int8."""
        n = len(self)
        if self.matrix is not None and batches.shape[1] * ELEMENT_BYTES < n:
            rows = batches.astype(np.int64)
            return self.matrix.ravel().take(rows[:, :, None] * n + rows[:, None])
        return np.stack([self.block(rows, rows) for rows in batches])

    def affinities(self, i: NDArray[np.integer[Any]], j: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return the cosine similarities 1 − d, (len(i), len(j)) float32: the targets of `train.target: soft`."""
        return 1 - self.distances(i, j)

    def distances(self, i: NDArray[np.integer[Any]], j: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Return d, (len(i), len(j)) float32."""
        if self._shifted is None:
            self._shifted = shifted_unit_vectors(self.vectors)
        x, half = self._shifted
        return distances(x[i], x[j], half[i], half[j])


@dataclass(frozen=True)
class Stored:
    """What `structure.npz` holds.

    rows: (n,) manifest rows of the train images; power: of the features; embedding: (n, r) vectors whose distances were
    fitted, or None where they are those of the features.
    """

    structure: Structure
    rows: NDArray[np.int64]
    power: float = 0.0
    embedding: NDArray[np.float32] | None = None

    def vectors(self, features: NDArray[Any]) -> NDArray[Any]:
        """The vectors (n, ·) whose distances were fitted; features: (N, D) of all images, in manifest order."""
        if self.embedding is not None:
            return self.embedding
        return power_normalise(np.asarray(take_rows(features, self.rows), np.float32), self.power)


def write_structure(path: Path, stored: Stored) -> None:
    """Write `structure.npz`: the fields of Structure, `rows`, `power`, and `embedding` if there is one."""
    structure, embedding = stored.structure, stored.embedding
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in asdict(structure).items()}
    arrays |= {"rows": stored.rows, "power": np.asarray(stored.power)}
    if embedding is not None:
        arrays["embedding"] = embedding
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_structure(path: Path) -> Stored:
    """Read `structure.npz`; raises DataError where it is missing or broken."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            structure = Structure(**{item.name: stored[item.name].item() for item in fields(Structure)})
            return Stored(structure, stored["rows"], stored["power"].item(), stored.get("embedding"))
    except FileNotFoundError:
        raise missing_result(path) from None
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise DataError(f"{path} is not a whole structure file ({error}): remove it and run `dvc repro`") from None


def open_pair_labels(structure_path: Path, matrix: NDArray[np.int8] | None, features: NDArray[Any]) -> PairLabels:
    """Build the labels of the train images from the outs of the structure stage.

    features: (N, D) of all images, row order = manifest; only the train rows are read, and only where there is no
    embedding.
    """
    stored = read_structure(structure_path)
    return PairLabels(stored.vectors(features), stored.structure, matrix)
