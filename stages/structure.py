"""Distances → thresholds → pseudo-labels of the train images, without any label: `python -m stages.structure`."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from loguru import logger
from numpy.lib.format import open_memmap

from ssdh.core.files import atomic_path, read_array, take_rows, write_array, write_csv, write_json
from ssdh.core.params import Seed, read_params, section
from ssdh.core.split import read_split
from ssdh.core.stage import stage
from ssdh.structure.fit import distance_table, fit_recipe
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import Stored, write_structure
from ssdh.structure.thresholds import pseudo_labels

FEATURES, VIEWS, SPLIT = Path("features/features.npy"), Path("features/views.npy"), Path("data/split")
LABELS, STRUCTURE = Path("features/pseudo_labels.npy"), Path("features/structure.npz")
METRICS, DISTANCES = Path("metrics/structure.json"), Path("metrics/distances.csv")


@stage("structure")
def main() -> None:
    """Fit the half Gaussians on the train images' distances and write labels, thresholds and the histogram."""
    params = read_params()
    chosen: StructureParams = section(params, "structure", StructureParams)
    seed: int = section(params, "seed", Seed)
    logger.info("structure: {}", chosen.model_dump())
    rows = read_split(SPLIT).train
    features = np.asarray(take_rows(read_array(FEATURES), rows), np.float32)
    fitted = fit_recipe(features, chosen, seed=seed, views=read_array(VIEWS))
    structure = fitted.structure
    logger.info(
        "mode {:.4f}; {:.2%} of {} pairs similar (d < {:.4f}), {:.2%} dissimilar (d > {:.4f})",
        *(structure.mode, structure.fraction_similar, structure.num_pairs, structure.threshold_similar),
        *(structure.fraction_dissimilar, structure.threshold_dissimilar),
    )
    n = len(rows)
    if n * n / 2**30 <= chosen.max_matrix_gib:
        with atomic_path(LABELS) as temporary:
            pseudo_labels(fitted.pairs, structure, open_memmap(temporary, mode="w+", dtype=np.int8, shape=(n, n)))
    else:
        logger.info("{} images: no n×n label file; train computes the labels batch by batch", n)
        write_array(LABELS, np.empty((0, 0), np.int8))
    write_structure(STRUCTURE, Stored(structure, rows, chosen.power, fitted.embedding))
    write_json(METRICS, asdict(structure) | {"alpha": fitted.alpha, "beta": fitted.beta})
    write_csv(DISTANCES, *distance_table(structure, fitted.histogram, fitted.edges))


if __name__ == "__main__":
    main()
