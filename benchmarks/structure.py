"""Structure and pseudo-labels beside the usual way, and growth with the number of images.

    python -m benchmarks.structure [--repeats 3] [--images 5000] [--growth 5000,10000,20000,40000]

The usual way: `pdist` (cosine), `squareform`, the mode, a copy mirrored at the mode, `scipy.stats.norm.fit`,
thresholds, a label matrix, all on n×n. Published code finds the mode with one comparison of the whole matrix for each
of 100 bins from 0 to 1 ("usual"); "lean" is the same with `np.histogram`. All take the same float32 features; labels
differ a little, since the usual way counts the diagonal and bins from 0. Times are the best of several rounds in one
run; memory is the peak above the features, the labels included, each in a fresh process.
"""

import argparse
import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform
from scipy.stats import norm

from benchmarks.common import best_seconds, peak_mib, write_results
from ssdh import PairDistances, fit_structure, pseudo_labels

BINS = 500


def features(n: int, dim: int) -> NDArray[np.float32]:
    """What a ReLU network gives: clusters, no negative values, a large shared mean; (n, dim) float32."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, dim), dtype=np.float32)
    noisy = centres[rng.integers(0, 20, n)] + 1.5 * rng.standard_normal((n, dim), dtype=np.float32)
    return np.maximum(noisy + np.float32(0.5), 0)


def usual(values: NDArray[np.float32]) -> NDArray[np.int8]:
    """All of the n×n matrix at once, as published implementations do it: each pair twice, and the diagonal's zeros."""
    matrix = squareform(pdist(values, "cosine"))
    edges = np.linspace(0, 1, 101)
    counts = [int(np.sum((matrix > low) & (matrix < high))) for low, high in itertools.pairwise(edges)]
    fullest = int(np.argmax(counts))
    return thresholded(matrix, (edges[fullest] + edges[fullest + 1]) / 2)


def lean(values: NDArray[np.float32]) -> NDArray[np.int8]:
    """The usual way with the histogram of one numpy call."""
    matrix = squareform(pdist(values, "cosine"))
    counts, edges = np.histogram(matrix.reshape(-1), BINS)
    fullest = int(counts[1:].argmax()) + 1  # the first bin holds the diagonal
    return thresholded(matrix, (edges[fullest] + edges[fullest + 1]) / 2)


def thresholded(matrix: NDArray[np.float64], mode: float) -> NDArray[np.int8]:
    """Two Gaussians fitted to mirrored copies, and the labels of all n×n distances."""
    flat = matrix.reshape(-1)
    sigmas = []
    for side in (flat[flat <= mode], flat[flat > mode]):
        mirrored = np.concatenate([side, 2 * mode - side])
        sigmas.append(norm.fit(mirrored)[1])
    labels = np.zeros(matrix.shape, np.int8)
    labels[matrix < mode - 2 * sigmas[0]] = 1
    labels[matrix > mode + 2 * sigmas[1]] = -1
    np.fill_diagonal(labels, 1)
    return labels


def ours(values: NDArray[np.float32], parts: int = 2) -> Any:
    """The fit and, with two parts, the labels."""
    pairs = PairDistances(values)
    structure = fit_structure(pairs, alpha=2.0, beta=2.0, bins=BINS)
    return structure if parts == 1 else pseudo_labels(pairs, structure)


def compare(n: int, dim: int, repeats: int) -> dict[str, Any]:
    """Seconds, memory and agreement of the three ways."""
    values = features(n, dim)
    differing = int(np.count_nonzero(lean(values) != ours(values)))
    ways = {"usual": usual, "lean": lean, "ours": ours}
    seconds = best_seconds({name: functools.partial(way, values) for name, way in ways.items()}, repeats)
    prepare = functools.partial(features, n, dim)
    return {
        "images": n,
        "dimensions": dim,
        **{f"{name}_seconds": spent for name, spent in seconds.items()},
        "ratio": seconds["usual"] / seconds["ours"],
        "ratio_lean": seconds["lean"] / seconds["ours"],
        "usual_mib": peak_mib(prepare, usual),
        "ours_mib": peak_mib(prepare, ours),
        "differing_labels": differing,
    }


def growth(n: int, dim: int) -> dict[str, Any]:
    """Seconds and memory for fit and labels of n images; above 25,000 the fit alone, as the matrix is not written."""
    values = features(n, dim)
    parts = 2 if n <= 25_000 else 1
    seconds = best_seconds({"ours": lambda: ours(values, parts)}, 1)["ours"]
    return {
        "images": n,
        "dimensions": dim,
        "parts": "fit and labels" if parts == 2 else "fit",
        "seconds": seconds,
        "nanoseconds_a_pair": seconds / (n * (n - 1) / 2) * 1e9,
        "mib_above_features": peak_mib(functools.partial(features, n, dim), functools.partial(ours, parts=parts)),
        "labels_mib": n * n / 2**20 if parts == 2 else 0.0,
    }


def main() -> None:
    """Print both tables and write `benchmarks/results/structure.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--growth", default="5000,10000,20000,40000", help="numbers of images, 512 dimensions")
    chosen = parser.parse_args()
    compared = []
    header = ("images", "dims", "usual s", "lean s", "ours s", "ratio", "to lean", "usual MiB", "ours MiB", "differ")
    print("".join(f"{name:>10}" for name in header))
    for dim in (4096, 512):
        row = compare(chosen.images, dim, chosen.repeats)
        compared.append(row)
        print(
            f"{row['images']:>10}{dim:>10}{row['usual_seconds']:>10.2f}{row['lean_seconds']:>10.2f}"
            f"{row['ours_seconds']:>10.2f}{row['ratio']:>10.1f}{row['ratio_lean']:>10.1f}"
            f"{row['usual_mib']:>10.0f}{row['ours_mib']:>10.0f}{row['differing_labels']:>10}",
            flush=True,
        )
    grown = []
    print(f"\n{'images':>8}{'dims':>6}{'seconds':>9}{'ns a pair':>11}{'MiB':>7}{'labels MiB':>12}  what")
    for n in filter(None, chosen.growth.split(",")):
        row = growth(int(n), 512)
        grown.append(row)
        print(
            f"{row['images']:>8}{512:>6}{row['seconds']:>9.2f}{row['nanoseconds_a_pair']:>11.2f}"
            f"{row['mib_above_features']:>7.0f}{row['labels_mib']:>12.0f}  {row['parts']}",
            flush=True,
        )
    write_results("structure", {"compared": compared, "growth": grown})


if __name__ == "__main__":
    main()
