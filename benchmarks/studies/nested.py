"""One training for every length beside a training for each: mAP at 16, 32, 64 and 128 bits.

    python -m benchmarks.studies.nested --features FILE.npz [--views FILE.npy] [--seeds 2]

`manifold` or, with features of views, `manifold_views`, on validation queries of other splits, as in `selection.py`
(seeds 100 and 101), and on the test queries of the first seeds. Every run is written to
`benchmarks/studies/nested.json`; what is there is not measured again. Rows of the way `joint, b^p` are of the loss
before, which this program no longer has: every length changed all of its bits, and a length of b bits weighed b^p.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from benchmarks.common import STUDIES, table, write_results
from benchmarks.quality import draw, load, load_views, recipe_codes, recipe_pairs, score
from benchmarks.studies.selection import TOPK, Data, validation_split
from ssdh.core.params import read_params, section
from ssdh.core.split import Split
from ssdh.features.params import ViewsParams
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.whitening import Views
from ssdh.training.method import chosen_method

LENGTHS = (16, 32, 64, 128)
SELECTION_SEEDS = (100, 101)
Codes = dict[int, NDArray[np.uint8]]  # packed, by length


def separate_codes(
    params: dict[str, Any], data: Data, split: Split, pairs: PairLabels, views: Views, seed: int
) -> Codes:
    """Codes of a training for each length."""
    method = chosen_method(params)
    return {bits: recipe_codes(data.features, split, pairs, method, bits, seed, views) for bits in LENGTHS}


def nested_codes(params: dict[str, Any], data: Data, split: Split, pairs: PairLabels, views: Views, seed: int) -> Codes:
    """Codes of one training: the first bits of its longest."""
    method = chosen_method(params | {"train": params["train"] | {"nested": list(LENGTHS[:-1])}})
    packed = recipe_codes(data.features, split, pairs, method, LENGTHS[-1], seed, views)
    return {bits: np.ascontiguousarray(packed[:, : bits // 8]) for bits in LENGTHS}


WAYS = {"separate": separate_codes, "nested": nested_codes}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the seeds, of each recipe, way and kind of queries."""
    result = []
    for recipe, queries, way in dict.fromkeys(key(row)[:3] for row in rows):
        own = [row["map"] for row in rows if key(row)[:3] == (recipe, queries, way)]
        mean = {str(bits): float(np.mean([results[str(bits)] for results in own])) for bits in LENGTHS}
        result.append({"recipe": recipe, "queries": queries, "way": way} | mean | {"seeds": len(own)})
    return result


def key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    """What a row is of."""
    return row["recipe"], row["queries"], row["way"], row["seed"]


def main() -> None:
    """Measure what is missing and print the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--views", type=Path, help=".npy with features of views (V, N, D)")
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args()
    logger.remove()
    kept = STUDIES / "nested.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))["results"] if kept.is_file() else []
    data = Data(*load(chosen.features))
    recipe = "manifold_views" if chosen.views else "manifold"
    params = read_params() | {"recipe": recipe}
    structure: StructureParams = section(params, "structure", StructureParams)
    asked: ViewsParams = section(params, "views", ViewsParams)
    plan = [("validation", seed) for seed in SELECTION_SEEDS] + [("test", seed) for seed in range(chosen.seeds)]
    for queries, seed in plan:
        split = validation_split(data.labels, seed) if queries == "validation" else draw(data.labels, 1000, 5000, seed)
        views = load_views(chosen.views, split)[: asked.count] if chosen.views else ()
        pairs = recipe_pairs(np.ascontiguousarray(data.features[split.train]), structure, seed, views)
        for way, codes_of in WAYS.items():
            row = {"recipe": recipe, "queries": queries, "seed": seed, "way": way}
            if key(row) in map(key, rows):
                continue
            codes = codes_of(params, data, split, pairs, views, seed)
            maps = {str(bits): score(packed, data.labels, split, bits, TOPK) for bits, packed in codes.items()}
            rows.append(row | {"map": maps})
            write_results("nested", rows, kept)
    print(table(means(rows)))


if __name__ == "__main__":
    main()
