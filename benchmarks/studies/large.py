"""More train images than an n×n matrix allows: seconds and peak memory of structure on the manifold, and of training.

    python -m benchmarks.studies.large --features FILE.npz [--images 100000] [--bits 64]

The recipe `manifold` on the first rows of FILE.npz; where it holds too few, mixtures of two of its rows
follow. No pseudo-label matrix is written: `train` computes the labels of each batch from the embedding.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import STUDIES, write_results
from benchmarks.quality import load
from ssdh.core.params import read_params, section
from ssdh.structure.distances import PairDistances
from ssdh.structure.fit import embed, fit_pairs
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.vectors import power_normalise
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.method import chosen_method


def enough(features: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`count` rows: those of `features` (N, D), then mixtures 0.7·a + 0.3·b of random pairs of them."""
    missing = count - len(features)
    if missing <= 0:
        return features[:count]
    first, second = np.random.default_rng(0).integers(0, len(features), (2, missing))
    return np.concatenate([features, 0.7 * features[first] + 0.3 * features[second]], dtype=np.float32)


def main() -> None:
    """Print seconds of each part and the peak memory, and write `benchmarks/studies/large.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True, help=".npz with features and labels")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--bits", type=int, default=64)
    chosen = parser.parse_args()
    params = read_params() | {"recipe": "manifold"}
    structure: StructureParams = section(params, "structure", StructureParams)
    features = enough(load(chosen.features)[0], chosen.images)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def note(name: str) -> None:
        nonlocal clock
        seconds[name] = time.perf_counter() - clock
        clock = time.perf_counter()
        print(f"{name:<12}{seconds[name]:>8.1f} s", flush=True)

    scaled = power_normalise(features, structure.power)
    embedding = embed(scaled, structure, seed=0)
    note("embedding")
    vectors = scaled if embedding is None else embedding
    result, _, _ = fit_pairs(PairDistances(vectors), alpha=structure.alpha, beta=structure.beta, bins=structure.bins)
    note("fit")
    train_head(features, PairLabels(vectors, result), Run(chosen_method(params), chosen.bits, 0))
    note("training")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB, features of {features.nbytes / 2**20:.0f} MiB included")
    write_results(
        "large",
        {"images": chosen.images, "dimensions": features.shape[1], "seconds": seconds, "peak_mib": peak},
        STUDIES / "large.json",
    )


if __name__ == "__main__":
    main()
