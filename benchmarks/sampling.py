"""Thresholds of sampled pairs beside those of all pairs: `python -m benchmarks.sampling --features FILE.npz`.

For disjoint subsets of the features and several seeds each: the largest distance between the thresholds of a fit of
`structure.max_pairs` sampled pairs and those of the fit of all pairs, in feature space (recipe `published`) and on the
manifold (the default recipe).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import table, write_results
from ssdh.distances import PairDistances
from ssdh.manifold import embed
from ssdh.normalisation import power_normalise
from ssdh.params import read_params, section
from ssdh.structure import StructureParams, fit_pairs

RECIPES = {"published": "features", "manifold": "manifold"}  # both of them in the space that they fit distances in


def errors(vectors: NDArray[np.float32], params: StructureParams, max_pairs: int, seeds: int) -> NDArray[np.float64]:
    """|sampled − whole| of the similar and of the dissimilar threshold, (seeds, 2)."""
    pairs = PairDistances(vectors)

    def thresholds(some: PairDistances) -> NDArray[np.float64]:
        fitted = fit_pairs(some, alpha=params.alpha, beta=params.beta, bins=params.bins)[0]
        return np.array([fitted.threshold_similar, fitted.threshold_dissimilar])

    whole = thresholds(pairs)
    return np.abs([thresholds(pairs.sample(max_pairs, seed)) - whole for seed in range(seeds)])


def compared(
    features: NDArray[np.float16], recipe: str, images: int, max_pairs: int, subsets: int, seeds: int
) -> dict[str, Any]:
    """The largest errors over all subsets and seeds, and the share of fits with both below 0.002."""
    params: StructureParams = section(read_params() | {"recipe": recipe}, "structure", StructureParams)
    order = np.random.default_rng(0).permutation(len(features))
    found = []
    for rows in order[: images * subsets].reshape(subsets, images):
        values = power_normalise(features[np.sort(rows)].astype(np.float32), params.power)
        embedded = embed(values, params, seed=0)
        found.append(errors(values if embedded is None else embedded, params, max_pairs, seeds))
    all_errors = np.concatenate(found)  # (fits, 2)
    return {
        "distances": RECIPES[recipe],
        "images": images,
        "pairs": max_pairs,
        "fits": len(all_errors),
        "similar, largest": float(all_errors[:, 0].max()),
        "dissimilar, largest": float(all_errors[:, 1].max()),
        "both ≤ 0.002": float((all_errors <= 0.002).all(axis=1).mean()),
    }


def main() -> None:
    """Print the table and write `benchmarks/results/sampling.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True, help=".npz with `features` (N, D)")
    parser.add_argument("--images", type=int, default=10_000, help="of a subset; one of twice as many is fitted too")
    parser.add_argument("--subsets", type=int, default=6, help="disjoint; of the manifold and of twice as many half")
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    with np.load(chosen.features) as data:
        features = data["features"]
    half = max(1, chosen.subsets // 2)
    rows = [
        compared(features, "published", chosen.images, 10**7, chosen.subsets, chosen.seeds),
        compared(features, "published", chosen.images, 10**6, chosen.subsets, chosen.seeds),
        compared(features, "published", 2 * chosen.images, 10**7, half, chosen.seeds),
        compared(features, "manifold", chosen.images, 10**7, half, chosen.seeds),
    ]
    print(table(rows))
    print(write_results("sampling", rows))


if __name__ == "__main__":
    main()
