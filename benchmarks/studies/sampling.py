"""Thresholds of sampled pairs beside those of all pairs: `python -m benchmarks.studies.sampling --features FILE.npz`.

For disjoint subsets of the features and several seeds each: the largest distance between the thresholds of a fit of
`structure.max_pairs` sampled pairs and those of the fit of all pairs, in feature space (recipe `published`) and on the
manifold (the recipe `manifold`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import STUDIES, table, write_results
from ssdh.core.params import read_params, section
from ssdh.structure.distances import PairDistances
from ssdh.structure.fit import embed, fit_pairs
from ssdh.structure.params import StructureParams
from ssdh.structure.vectors import power_normalise

SPACES = {"feature": "features", "manifold": "manifold"}  # `structure.space`, as the table calls it


def compared(
    features: NDArray[np.float16], recipe: str, images: int, counts: Sequence[int], subsets: int, seeds: int
) -> list[dict[str, Any]]:
    """For each number of pairs the largest errors over subsets and seeds, and the share of fits with both ≤ 0.002."""
    params: StructureParams = section(read_params() | {"recipe": recipe}, "structure", StructureParams)

    def thresholds(pairs: PairDistances) -> NDArray[np.float64]:
        fitted = fit_pairs(pairs, alpha=params.alpha, beta=params.beta, bins=params.bins)[0]
        return np.array([fitted.threshold_similar, fitted.threshold_dissimilar])

    order = np.random.default_rng(0).permutation(len(features))
    result: dict[int, list[NDArray[np.float64]]] = {count: [] for count in counts}
    for rows in order[: images * subsets].reshape(subsets, images):
        values = power_normalise(features[np.sort(rows)].astype(np.float32), params.power)
        embedded = embed(values, params, seed=0)
        pairs = PairDistances(values if embedded is None else embedded)
        whole = thresholds(pairs)
        for count, errors in result.items():
            errors += [np.abs(thresholds(pairs.sample(count, seed)) - whole) for seed in range(seeds)]
    return [
        {
            "distances": SPACES[params.space],
            "images": images,
            "pairs": count,
            "fits": len(errors),
            "similar, largest": float(np.max(errors, axis=0)[0]),
            "dissimilar, largest": float(np.max(errors, axis=0)[1]),
            "both ≤ 0.002": float((np.array(errors) <= 0.002).all(axis=1).mean()),
        }
        for count, errors in result.items()
    ]


def main() -> None:
    """Print the table and write `benchmarks/studies/sampling.json`."""
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
        *compared(features, "published", chosen.images, [10**7, 10**6], chosen.subsets, chosen.seeds),
        *compared(features, "published", 2 * chosen.images, [10**7], half, chosen.seeds),
        *compared(features, "manifold", chosen.images, [10**7], half, chosen.seeds),
    ]
    print(table(rows))
    print(write_results("sampling", rows, STUDIES / "sampling.json"))


if __name__ == "__main__":
    main()
