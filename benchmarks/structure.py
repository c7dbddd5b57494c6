"""Structure and pseudo-labels beside the usual way, and growth with the number of images.

    python -m benchmarks.structure [--repeats 3] [--images 5000] [--growth 5000,10000,20000,40000]

The usual way: `pdist` (cosine), `squareform`, a copy mirrored at the mode, `scipy.stats.norm.fit`, thresholds, a label
matrix, all on n×n. Both ways take the same float32 features; labels differ a little, since the usual way counts the
diagonal and bins from 0. Times are the best of several rounds in
one run; memory is the peak above the features, the labels included, each in a fresh process.
"""

import argparse
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform
from scipy.stats import norm

from benchmarks.common import best_seconds, peak_mib, write_results
from ssdh.structure import fit_structure, pseudo_labels

BINS = 500


def features(n: int, dim: int) -> NDArray[np.float32]:
    """What a ReLU network gives: clusters, no negative values, a large shared mean; (n, dim) float32."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, dim), dtype=np.float32)
    noisy = centres[rng.integers(0, 20, n)] + 1.5 * rng.standard_normal((n, dim), dtype=np.float32)
    return np.maximum(noisy + np.float32(0.5), 0)


def usual(values: NDArray[np.float32]) -> NDArray[np.int8]:
    """All of the n×n matrix at once, as the common implementations do it: each pair twice, and the diagonal's zeros."""
    matrix = squareform(pdist(values, "cosine"))
    flat = matrix.reshape(-1)
    counts, edges = np.histogram(flat, BINS)
    fullest = int(counts[1:].argmax()) + 1  # the first bin holds the diagonal
    mode = (edges[fullest] + edges[fullest + 1]) / 2
    thresholds = []
    for side in (flat[flat <= mode], flat[flat > mode]):
        mirrored = np.concatenate([side, 2 * mode - side])
        thresholds.append(norm.fit(mirrored)[1])
    labels = np.zeros(matrix.shape, np.int8)
    labels[matrix < mode - 2 * thresholds[0]] = 1
    labels[matrix > mode + 2 * thresholds[1]] = -1
    np.fill_diagonal(labels, 1)
    return labels


def ours(values: NDArray[np.float32], parts: int = 2) -> Any:
    """The fit and, with two parts, the labels."""
    structure = fit_structure(values, alpha=2.0, beta=2.0, bins=BINS)
    return structure if parts == 1 else pseudo_labels(values, structure)


def compare(n: int, dim: int, repeats: int) -> dict[str, Any]:
    """Seconds, memory and agreement of both ways."""
    values = features(n, dim)
    differing = int(np.count_nonzero(usual(values) != ours(values)))
    seconds = best_seconds({"usual": lambda: usual(values), "ours": lambda: ours(values)}, repeats)
    prepare = functools.partial(features, n, dim)
    return {
        "images": n,
        "dimensions": dim,
        "usual_seconds": seconds["usual"],
        "ours_seconds": seconds["ours"],
        "ratio": seconds["usual"] / seconds["ours"],
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
    print(
        f"{'images':>8}{'dims':>6}{'usual s':>9}{'ours s':>8}{'ratio':>7}{'usual MiB':>11}{'ours MiB':>10}{'differ':>8}"
    )
    for dim in (4096, 512):
        row = compare(chosen.images, dim, chosen.repeats)
        compared.append(row)
        print(
            f"{row['images']:>8}{dim:>6}{row['usual_seconds']:>9.2f}{row['ours_seconds']:>8.2f}{row['ratio']:>7.1f}"
            f"{row['usual_mib']:>11.0f}{row['ours_mib']:>10.0f}{row['differing_labels']:>8}",
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
