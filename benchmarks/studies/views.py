"""Choosing the settings of `manifold_views` on validation queries: its values, each changed alone.

    python -m benchmarks.studies.views --features FILE.npz --views FILE.npy [--bits 32]

As in `selection.py`, validation queries are database images of other splits (seeds 100 and 101) that do not train; no
test query and, in training, no label is read. Beside settings of the recipe a variant may change how many views there
are, which of them whiten the graph (`graph_views`), whether the image itself is a view (`own_view`), how many views are
averaged into one (`averaged`), and over how many unlabelled images the graph is made (`graph_images`, more than train).
Every run is written to `benchmarks/studies/views.json`; what is there is not measured again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from benchmarks.common import STUDIES, table, write_results
from benchmarks.quality import load, load_views, recipe_codes, recipe_pairs, score
from benchmarks.studies.selection import TOPK, Data, validation_split
from ssdh.core.params import read_params, section
from ssdh.core.split import Split
from ssdh.structure.distances import PairDistances
from ssdh.structure.fit import embed, fit_pairs
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import pseudo_labels
from ssdh.structure.vectors import power_normalise
from ssdh.structure.whitening import Views, view_factor, whiten
from ssdh.training.method import chosen_method

SEEDS, RECIPE = (100, 101), "manifold_views"
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"count": 2},
    {"count": 4},
    {"own_view": False},
    {"averaged": 2},
    {"averaged": 3},
    {"graph_views": 0},
    {"graph_views": 0, "count": 2, "train.epochs": 100},  # the recipe as it was
    {"count": 0, "graph_views": 6},  # views in the graph alone
    {"graph_images": 20_000},
    {"structure.view_whitening": 0.3},
    {"structure.view_whitening": 1.0},
    {"structure.view_whitening": 10.0},
    {"structure.rank": 24},
    {"structure.rank": 32},
    {"structure.rank": 96},
    {"structure.neighbors": 10},
    {"structure.neighbors": 30},
    {"structure.alpha": 1.5},
    {"structure.alpha": 2.5},
    {"structure.beta": 1.0},
    {"structure.beta": 3.0},
    {"train.unknown_weight": 0.25},
    {"train.unknown_weight": 1.0},
    {"train.epochs": 100},
    {"train.epochs": 200, "train.schedule": "cosine"},
    {"train.lr": 0.0005},
    {"train.batch_size": 128},
    {"train.batch_size": 512},
    {"train.head": "mlp"},
)


def measure(data: Data, split: Split, views: Views, variant: dict[str, Any], bits: int, seed: int) -> float:
    """Validation mAP of a variant; views: (V, n, D) of the split's train images."""
    params = read_params() | {"recipe": RECIPE}
    for name, value in variant.items():
        group, _, key = name.partition(".")
        if key:
            params = params | {group: params[group] | {key: value}}
    structure: StructureParams = section(params, "structure", StructureParams)
    train = data.features[split.train]
    own = np.asarray(views[: variant.get("count", len(views))], np.float32)
    of_graph = views[: variant.get("graph_views", len(own))]
    pairs = graph_pairs(data, split, structure, of_graph, seed, variant.get("graph_images", 0))
    method = chosen_method(params)
    method.own_view = variant.get("own_view", True)  # type: ignore[misc]
    averaged = variant.get("averaged", 1)
    taken = own.reshape(-1, averaged, *train.shape).mean(axis=1) if len(own) else own
    packed = recipe_codes(data.features, split, pairs, method, bits, seed, taken)
    return score(packed, data.labels, split, bits, TOPK)


def graph_pairs(
    data: Data, split: Split, structure: StructureParams, views: Views, seed: int, graph_images: int
) -> PairLabels:
    """Pseudo-labels of the train images, by a graph of them and of other images, `graph_images` in all."""
    train = np.ascontiguousarray(data.features[split.train])
    if not graph_images:
        return recipe_pairs(train, structure, seed, views)
    others = np.setdiff1d(split.database, split.train)
    more = np.random.default_rng([seed, 2]).choice(others, graph_images - len(train), replace=False)
    own = power_normalise(train, structure.power)
    factor = view_factor(own, views, power=structure.power, strength=structure.view_whitening)
    images = np.concatenate([own, power_normalise(data.features[more], structure.power)])
    vectors = embed(whiten(images, factor), structure, seed=seed)
    assert vectors is not None  # the recipe's space is the manifold
    pairs = PairDistances(np.ascontiguousarray(vectors[: len(train)]))
    fitted, _, _ = fit_pairs(pairs, alpha=structure.alpha, beta=structure.beta, bins=structure.bins)
    return PairLabels(pairs.features, fitted, pseudo_labels(pairs, fitted))


def main() -> None:
    """Measure what is missing, print each variant's mean and its difference from the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--views", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=32)
    chosen = parser.parse_args()
    logger.remove()
    data = Data(*load(chosen.features))
    kept = STUDIES / "views.json"
    runs: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))["results"] if kept.is_file() else []
    for seed in SEEDS:
        split = validation_split(data.labels, seed)
        views = load_views(chosen.views, split)
        for variant in VARIANTS:
            key = {"variant": variant, "seed": seed, "bits": chosen.bits}
            if not any(all(run[name] == value for name, value in key.items()) for run in runs):
                runs.append(key | {"validation_map": measure(data, split, views, variant, chosen.bits, seed)})
                write_results("views", runs, kept)
    own = [run for run in runs if run["bits"] == chosen.bits]
    means = [np.mean([run["validation_map"] for run in own if run["variant"] == variant]) for variant in VARIANTS]
    rows = [
        {"variant": json.dumps(variant), "validation": float(mean), "gain": float(mean - means[0])}
        for variant, mean in zip(VARIANTS, means, strict=True)
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
