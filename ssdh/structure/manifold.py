"""Distances along the manifold: a diffusion map of the train images' neighbour graph.

Centre the features, join each image with its k nearest neighbours by cosine, W = D^-½ ½(A + Aᵀ) D^-½, take the top r
eigenpairs (U, λ), weight them by g(λ) = Σ_{t=0..steps} decay^t λ^{t+1}, a truncated random walk, and normalise the rows
of U·g(λ). The cosine distance of two rows replaces that of two features in `ssdh.structure.fit`.

Coifman and Lafon, "Diffusion maps", 2006. The hash layer stays a map of the features: queries need no graph.
scipy's sparse matrices and faiss are imported where they are used: features as they are need neither.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Float32, row_lengths
from ssdh.core.errors import DataError
from ssdh.core.runtime import on_cores, one_blas_thread

if TYPE_CHECKING:
    from scipy import sparse


NEIGHBOR_SHARE = 3  # an image is joined with at most a third of the others: a complete graph shows no manifold
BLOCK = 1024  # images whose neighbours are searched at once
DENSE_UP_TO = 512  # images; below it all eigenpairs cost milliseconds


def diffusion_embedding(
    features: NDArray[Any], *, neighbors: int, rank: int, steps: int, decay: float, seed: int = 0
) -> Float32:
    """Embed the rows of `features` (n, d) so that cosine distances follow the manifold; (n, r) float32, unit rows.

    neighbors: k, at most a third of the others are used; rank: r, at most n; steps, decay: the random walk. seed: of
    the eigensolver's start vector. Raises DataError where the graph falls into more pieces than `rank`.
    """
    from scipy.sparse.csgraph import connected_components

    adjacency = nearest_neighbours(features, neighbors)
    pieces, piece_of = connected_components(adjacency, directed=False)
    if pieces > min(rank, len(features)):
        raise DataError(
            f"the graph of {len(features)} train images falls into {pieces} pieces, more than structure.rank = {rank}: "
            f"raise structure.neighbors (now {neighbors}) or structure.rank"
        )
    known = component_vectors(adjacency, piece_of) if pieces > 1 else None
    with one_blas_thread():
        values, vectors = top_eigenpairs(normalised_graph(adjacency), rank, seed, known)
    embedding = vectors * walk_weights(values, steps, decay)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding.astype(np.float32)


def nearest_neighbours(features: NDArray[Any], neighbors: int) -> "sparse.csr_array":
    """Adjacency A (n, n): A_ij = 1 where j is among the k nearest of i by the cosine of the centred features, not i.

    features: (n, D), any float type. Raises DataError for NaN or infinity.
    """
    import faiss
    from scipy import sparse

    n = len(features)
    k = max(1, min(neighbors, (n - 1) // NEIGHBOR_SHARE))
    x = np.asarray(features, np.float32) - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(f"features of train image {bad[0]} hold NaN or infinity: extract them again (features.npy)")
    x /= row_lengths(x)

    def search(start: int) -> NDArray[np.int64]:
        faiss.omp_set_num_threads(1)  # of this thread
        nearest: NDArray[np.int64] = faiss.knn(x[start : start + BLOCK], x, k + 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
        return nearest

    # (n, k + 1): itself, first unless it has duplicates, and k others; fixed blocks, each by one core, so that no
    # neighbour depends on how many there are
    nearest = np.concatenate(on_cores(search, range(0, n, BLOCK)))
    others = nearest != np.arange(n)[:, None]
    others[others.all(axis=1), -1] = False  # lost among more than k duplicates: drop the farthest
    columns = nearest[others]
    return sparse.csr_array((np.ones(n * k), columns, np.arange(0, n * k + 1, k)), shape=(n, n))


def normalised_graph(adjacency: "sparse.csr_array") -> "sparse.csr_array":
    """W = D^-½ ½(A + Aᵀ) D^-½, (n, n) symmetric, eigenvalues in [−1, 1]."""
    from scipy import sparse

    scale = sparse.diags_array(1 / np.sqrt(_degrees(adjacency)))
    return sparse.csr_array(scale @ (adjacency + adjacency.T) @ scale * 0.5)


def component_vectors(adjacency: "sparse.csr_array", piece_of: NDArray[np.integer[Any]]) -> "sparse.csr_array":
    """Unit eigenvectors (n, c) of W for its eigenvalue 1, one a connected component: √degree there, 0 elsewhere.

    piece_of: the component, 0 to c − 1, of each image, (n,).
    """
    from scipy import sparse

    degrees = _degrees(adjacency)
    volumes = np.bincount(piece_of, weights=degrees)
    return sparse.csr_array((np.sqrt(degrees / volumes[piece_of]), (np.arange(len(degrees)), piece_of)))


def _degrees(adjacency: "sparse.csr_array") -> NDArray[np.float64]:
    return np.asarray((adjacency + adjacency.T).sum(axis=1)) * 0.5


def top_eigenpairs(
    graph: "sparse.csr_array", rank: int, seed: int = 0, known: "sparse.csr_array | None" = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest `rank` eigenvalues, descending (r,), and eigenvectors (n, r); each one's largest entry positive.

    known: eigenvectors (n, c) for the eigenvalue 1, c ≤ r, of a graph in several pieces: a Lanczos iteration from one
    start vector may miss copies of an eigenvalue, so these are not left to it.
    """
    n = graph.shape[0]
    if n <= DENSE_UP_TO or rank >= n:
        values, vectors = np.linalg.eigh(graph.toarray())
        values, vectors = values[-rank:], vectors[:, -rank:]
    else:
        values, vectors = _largest(graph, rank, seed, known)
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return values, vectors * np.sign(largest)


def _largest(
    graph: "sparse.csr_array", rank: int, seed: int, known: "sparse.csr_array | None"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`rank` eigenpairs by Lanczos, in no order; with `known` ones of eigenvalue 1, these are moved to −2 first."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    start = np.random.default_rng(seed).standard_normal(graph.shape[0])
    if known is None:
        pairs: tuple[NDArray[np.float64], NDArray[np.float64]] = eigsh(graph, k=rank, which="LA", v0=start)
        return pairs
    rest = rank - known.shape[1]
    ones, first = np.ones(known.shape[1]), known.toarray()
    if not rest:
        return ones, first
    lowered = LinearOperator(graph.shape, matvec=lambda x: graph @ x - 3 * (known @ (known.T @ x)), dtype=np.float64)
    values, vectors = eigsh(lowered, k=rest, which="LA", v0=start)
    return np.concatenate([ones, values]), np.concatenate([first, vectors], axis=1)


def walk_weights(eigenvalues: NDArray[np.float64], steps: int, decay: float) -> NDArray[np.float64]:
    """g(λ) = Σ_{t=0..steps} decay^t λ^{t+1}."""
    powers = np.arange(steps + 1)
    weights: NDArray[np.float64] = (decay**powers * eigenvalues[:, None] ** (powers + 1)).sum(axis=1)
    return weights
