"""Distances along the manifold: a diffusion map of the train images' neighbour graph.

Centre the features, join each image with its k nearest neighbours by cosine, W = D^-½ ½(A + Aᵀ) D^-½, take the top r
eigenpairs (U, λ), weight them by g(λ) = Σ_{t=0..steps} decay^t λ^{t+1}, a truncated random walk, and normalise the rows
of U·g(λ). The cosine distance of two rows replaces that of two features in `ssdh.structure`.

Coifman and Lafon, "Diffusion maps", 2006. The hash layer stays a map of the features: queries need no graph.
scipy's sparse matrices and faiss are imported where they are used: features as they are need neither.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssdh.errors import DataError
from ssdh.structure import StructureParams

if TYPE_CHECKING:
    from scipy import sparse

DENSE_UP_TO = 512  # images; below it all eigenpairs cost milliseconds

Float32 = NDArray[np.float32]


def embed(features: NDArray[Any], params: StructureParams, *, seed: int) -> Float32 | None:
    """The vectors (n, r) whose distances `params.space` asks for; None: the features (n, d) themselves."""
    if params.space == "feature":
        return None
    return diffusion_embedding(
        features, neighbors=params.neighbors, rank=params.rank, steps=params.steps, decay=params.decay, seed=seed
    )


def diffusion_embedding(
    features: NDArray[Any], *, neighbors: int, rank: int, steps: int, decay: float, seed: int = 0
) -> Float32:
    """Embed the rows of `features` (n, d) so that cosine distances follow the manifold; (n, r) float32, unit rows.

    neighbors: k, at most n − 1 are used; rank: r, at most n; steps, decay: the random walk. seed: of the eigensolver's
    start vector. Raises DataError where the graph falls into more pieces than `rank`.
    """
    from scipy.sparse.csgraph import connected_components

    graph = normalised_graph(nearest_neighbours(features, neighbors))
    pieces: int = connected_components(graph, directed=False)[0]
    if pieces > min(rank, len(features)):
        raise DataError(
            f"the graph of {len(features)} train images falls into {pieces} pieces, more than structure.rank = {rank}: "
            f"raise structure.neighbors (now {neighbors}) or structure.rank"
        )
    values, vectors = top_eigenpairs(graph, rank, seed)
    embedding = vectors * walk_weights(values, steps, decay)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding.astype(np.float32)


def nearest_neighbours(features: NDArray[Any], neighbors: int) -> "sparse.csr_array":
    """Adjacency A (n, n): A_ij = 1 where j is among the k nearest of i by the cosine of the centred features, not i."""
    import faiss
    from scipy import sparse

    n = len(features)
    k = min(neighbors, n - 1)
    x = np.asarray(features, np.float32) - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(f"features of train image {bad[0]} hold NaN or infinity: extract them again (features.npy)")
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x /= np.where(norms > 0, norms, 1)
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    found = index.search(x, k + 1)[1]  # (n, k + 1): itself, first unless it has duplicates, and k others
    others = found != np.arange(n)[:, None]
    others[others.all(axis=1), -1] = False  # lost among more than k duplicates: drop the farthest
    columns = found[others]
    return sparse.csr_array((np.ones(n * k), columns, np.arange(0, n * k + 1, k)), shape=(n, n))


def normalised_graph(adjacency: "sparse.csr_array") -> "sparse.csr_array":
    """W = D^-½ ½(A + Aᵀ) D^-½, (n, n) symmetric, eigenvalues in [−1, 1]."""
    from scipy import sparse

    symmetric = (adjacency + adjacency.T) * 0.5
    scale = sparse.diags_array(1 / np.sqrt(symmetric.sum(axis=1)))
    return sparse.csr_array(scale @ symmetric @ scale)


def top_eigenpairs(
    graph: "sparse.csr_array", rank: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest `rank` eigenvalues, descending (r,), and eigenvectors (n, r); each one's largest entry positive."""
    n = graph.shape[0]
    if n <= DENSE_UP_TO or rank >= n:
        values, vectors = np.linalg.eigh(graph.toarray())
        values, vectors = values[-rank:], vectors[:, -rank:]
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(seed).standard_normal(n)
        values, vectors = eigsh(graph, k=rank, which="LA", v0=start)
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return values, vectors * np.sign(largest)


def walk_weights(eigenvalues: NDArray[np.float64], steps: int, decay: float) -> NDArray[np.float64]:
    """g(λ) = Σ_{t=0..steps} decay^t λ^{t+1}."""
    powers = np.arange(steps + 1)
    weights: NDArray[np.float64] = (decay**powers * eigenvalues[:, None] ** (powers + 1)).sum(axis=1)
    return weights
