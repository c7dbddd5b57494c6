"""From "same kind" to "same picture": mAP and recall of the nearest by features for values of `train.neighbor_weight`.

    python -m benchmarks.studies.neighbors --features FILE.npz [--views FILE.npy] [--seeds 2]
        [--plot docs/images/neighbors.svg]

The recipe `manifold` at 64 bits and, with features of views, `manifold_views`, with rivals from
`leaderboard-cifar10.json` beside them in the plot. Every run is written to `benchmarks/studies/neighbors.json`; what is
there is not measured again.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from benchmarks.common import COMMITTED, STUDIES, table, write_results
from benchmarks.quality import Task, draw, load, load_views, recipe_codes, recipe_pairs
from ssdh.core.params import read_params, section
from ssdh.features.params import ViewsParams
from ssdh.structure.params import StructureParams
from ssdh.structure.whitening import Views
from ssdh.training.method import chosen_method

BITS, TOPK = 64, 5000
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
RIVALS = {  # with the settings that are drawn
    "itq": ("ITQ", "authors"),
    "lsh": ("LSH", "authors"),
    "sdc": ("SDC", "chosen"),
    "bihalf": ("Bi-half", "chosen"),
    "greedyhash": ("GreedyHash", "chosen"),
    "mls3rduh": ("MLS3RDUH", "chosen"),
    "cibhash": ("CIBHash", "chosen"),
    "cimon": ("CIMON", "chosen"),
    "crovca": ("CroVCA", "chosen"),
}


def measure(task: Task, recipe: str, weights: list[float], views: Views) -> Iterator[dict[str, Any]]:
    """Yield a row for each weight: both numbers on the split of the task."""
    params = read_params() | {"recipe": recipe}
    train = np.ascontiguousarray(task.features[task.split.train])
    pairs = recipe_pairs(train, section(params, "structure", StructureParams), task.seed, views)
    for weight in weights:
        method = chosen_method(params | {"train": params["train"] | {"neighbor_weight": weight}})
        result = task.codes(recipe_codes(task.features, task.split, pairs, method, BITS, task.seed, views), BITS)
        row = {"recipe": recipe, "weight": weight, "seed": task.seed, "bits": BITS}
        row |= {"map": float(result.precisions.mean()), "recall_10_in_100": result.recall_10_in_100}
        yield row | {"recall_10": result.neighbor_recall_at_10}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the seeds of each recipe and weight, ascending."""
    result = []
    for recipe, weight in sorted({(row["recipe"], row["weight"]) for row in rows}):
        own = [row for row in rows if (row["recipe"], row["weight"]) == (recipe, weight)]
        mean = {key: float(np.mean([row[key] for row in own])) for key in ("map", "recall_10_in_100", "recall_10")}
        result.append({"recipe": recipe, "weight": weight} | mean | {"seeds": len(own)})
    return result


def plot(rows: list[dict[str, Any]], rivals: list[dict[str, Any]], out: Path) -> None:
    """A curve for each recipe, with the rivals at the same length."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        axes.plot([row["recall_10_in_100"] for row in own], [row["map"] for row in own], "o-", label=recipe)
        for row in own:
            place = (row["recall_10_in_100"], row["map"])
            axes.annotate(f"{row['weight']:g}", place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    for row in rivals:
        if row["method"] in RIVALS and row["bits"] == BITS and row["settings"] == RIVALS[row["method"]][1]:
            place = (row["recall_10_in_100"], row["map_mean"])
            axes.plot(*place, "s", color="grey")
            name = RIVALS[row["method"]][0]
            axes.annotate(name, place, xytext=(5, -10), textcoords="offset points", fontsize=8)
    axes.set_xlabel("same picture: ten nearest by features among the first hundred by code")
    axes.set_ylabel("same kind: mAP@5000")
    axes.legend(title="train.neighbor_weight of")
    figure.savefig(out)


def main() -> None:
    """Measure what is missing, print the means, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--views", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    logger.disable("ssdh")
    kept = STUDIES / "neighbors.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))["results"] if kept.is_file() else []
    features, labels = load(chosen.features)
    for seed in range(chosen.seeds):
        task = Task.of(features, labels, draw(labels, 1000, 5000, seed), seed, TOPK)
        for recipe in ("manifold", "manifold_views") if chosen.views else ("manifold",):
            have = {row["weight"] for row in rows if (row["recipe"], row["seed"]) == (recipe, seed)}
            count: int = section(read_params() | {"recipe": recipe}, "views", ViewsParams).count
            views = load_views(chosen.views, task.split)[:count] if count else ()
            for row in measure(task, recipe, [weight for weight in WEIGHTS if weight not in have], views):
                rows.append(row)
                print(table([row]).splitlines()[-1], flush=True)
                write_results("neighbors", rows, kept)
    print(table(means(rows)))
    if chosen.plot:
        rivals = json.loads((COMMITTED / "leaderboard-cifar10.json").read_text(encoding="utf-8"))
        plot(means(rows), rivals, chosen.plot)


if __name__ == "__main__":
    main()
