"""Quality of codes on any file of features and labels: every method on the same splits.

    python -m benchmarks.quality --features FILE.npz [--bits 16,32,64,128] [--seeds 5] [--json OUT]
        [--num-query 1000 --num-train 5000 --topk 5000] [--methods float,lsh,pcah,itq,published,default,soft]

FILE.npz holds `features` (N, D) and `labels` (N,) classes or (N, C) multi-hot. A seed draws the split (queries as even
over the classes as in the protocols, where there is one class an image), the initial weights and the batches. Recipes
are those of `ssdh/methods`, `default` the one that `params.yaml` names; baselines are `ssdh.evaluation.baselines`. mAP
is tie-aware, deviations are over seeds. JSON: rows {"method", "bits", "map_mean", "map_std", "seconds"}.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python benchmarks/quality.py` works too

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.params import read_params, section
from ssdh.core.split import Split
from ssdh.datasets.base import Protocol
from ssdh.datasets.prepare import draw_split
from ssdh.evaluation.baseline import CannotFitError
from ssdh.evaluation.comparison import encode, fit
from ssdh.evaluation.scored import float_average_precisions
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.retrieval import average_precisions
from ssdh.structure.fit import fit_recipe
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import pseudo_labels
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.method import Method, chosen_method

PROJECT = Path(__file__).resolve().parents[1]
BASELINES = ("lsh", "pcah", "itq")
RECIPES = ("published", "default", "soft")
METHODS = ("float", *BASELINES, *RECIPES)
Row = dict[str, Any]


def load(path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Features (N, D) float32 and labels (N, C) multi-hot of a file."""
    with np.load(path) as data:
        features, labels = data["features"].astype(np.float32), data["labels"]
    if labels.ndim == 1:
        labels = np.eye(int(labels.max()) + 1, dtype=np.uint8)[labels]
    return features, labels.astype(np.uint8)


def draw(labels: NDArray[np.uint8], num_query: int, num_train: int, seed: int) -> Split:
    """The split of a seed."""
    single = bool((labels.sum(axis=1) == 1).all())
    protocol = Protocol(num_query=num_query, num_train=num_train, stratified=single)
    return draw_split(protocol, labels, seed=seed, name="benchmark")


def recipe_pairs(features: NDArray[np.float32], chosen: StructureParams, seed: int) -> PairLabels:
    """Pseudo-labels of the train features (n, D), as the structure stage makes them."""
    fitted = fit_recipe(features, chosen, seed=seed)
    large = len(features) ** 2 / 2**30 > chosen.max_matrix_gib
    matrix = None if large else pseudo_labels(fitted.pairs, fitted.structure)
    return PairLabels(fitted.pairs.features, fitted.structure, matrix)


def recipe_codes(
    features: NDArray[np.float32], split: Split, pairs: PairLabels, method: Method, bits: int, seed: int
) -> NDArray[np.uint8]:
    """Packed codes (N, ⌈bits/8⌉) of all features by a hash layer trained on the split's train rows."""
    train = np.ascontiguousarray(features[split.train])
    model, _ = train_head(train, pairs, Run(method, bits, seed))
    with torch.inference_mode():
        return pack(sign_codes(model(torch.from_numpy(features)).numpy()))


def score(packed: NDArray[np.uint8], labels: NDArray[np.uint8], split: Split, bits: int, topk: int) -> float:
    """Tie-aware mAP@topk of packed codes of all images."""
    query, database = split.query, split.database
    result = average_precisions(packed[query], packed[database], labels[query], labels[database], bits=bits, topk=topk)
    return float(result.mean())


def measure(
    features: NDArray[np.float32],
    labels: NDArray[np.uint8],
    split: Split,
    *,
    bits: Sequence[int],
    seed: int,
    topk: int,
    methods: Sequence[str],
) -> list[tuple[str, int, float, float]]:
    """(method, bits, mAP, seconds) of each method and code length on one split; seconds hold fit and codes, no mAP."""
    params = read_params()
    result: list[tuple[str, int, float, float]] = []
    train = features[split.train]
    if "float" in methods:
        started = time.perf_counter()
        value = float(float_average_precisions(features, labels, split, topk).mean())
        result += [("float", k, value, time.perf_counter() - started) for k in bits]
    for method in (name for name in BASELINES if name in methods):
        for k in bits:
            started = time.perf_counter()
            try:
                fitted = fit(method, train, k, seed)
            except CannotFitError:
                continue
            packed = encode(fitted, features)
            seconds = time.perf_counter() - started
            result.append((method, k, score(packed, labels, split, k, topk), seconds))
    for method in (name for name in methods if name not in ("float", *BASELINES)):
        recipe = params | {"recipe": params["recipe"] if method == "default" else method}
        started = time.perf_counter()
        pairs = recipe_pairs(train, section(recipe, "structure", StructureParams), seed)
        shared = time.perf_counter() - started
        for k in bits:
            started = time.perf_counter()
            packed = recipe_codes(features, split, pairs, chosen_method(recipe), k, seed)
            seconds = time.perf_counter() - started
            result.append((method, k, score(packed, labels, split, k, topk), shared + seconds))
    return result


def summarise(result: Sequence[tuple[str, int, float, float]]) -> list[Row]:
    """Mean and deviation over seeds (of the sample; 0 for a single seed), mean seconds; in the order of first sight."""
    rows: list[Row] = []
    for method, k in dict.fromkeys((method, k) for method, k, _, _ in result):
        values = np.array([(value, seconds) for name, bits, value, seconds in result if (name, bits) == (method, k)])
        deviation = float(values[:, 0].std(ddof=1)) if len(values) > 1 else 0.0
        row = {"method": method, "bits": k, "map_mean": float(values[:, 0].mean()), "map_std": deviation}
        rows.append(row | {"seconds": float(values[:, 1].mean())})
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """One line a method, one column a code length."""
    lengths = list(dict.fromkeys(row["bits"] for row in rows))
    print(f"{'method':<12}" + "".join(f"{k:>18}" for k in lengths) + f"{'seconds':>10}")
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["bits"]: row for row in rows if row["method"] == method}
        cells = [f"{own[k]['map_mean']:.4f} ± {own[k]['map_std']:.4f}" if k in own else "" for k in lengths]
        seconds = float(np.mean([row["seconds"] for row in own.values()]))
        print(f"{method:<12}" + "".join(f"{cell:>18}" for cell in cells) + f"{seconds:>10.1f}", flush=True)


def _absolute(path: str) -> Path:
    return Path(path).resolve()


def main() -> None:
    """Parse the command line, measure seed by seed, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=_absolute, required=True, help=".npz with features and labels")
    parser.add_argument("--bits", default="16,32,64,128")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, …")
    parser.add_argument("--num-query", type=int, default=1000)
    parser.add_argument("--num-train", type=int, default=5000)
    parser.add_argument("--topk", type=int, default=5000)
    parser.add_argument("--methods", default=",".join(METHODS), help="of these, or any recipe of ssdh/methods")
    parser.add_argument("--json", type=_absolute, help="where the rows are written")
    chosen = parser.parse_args()
    logger.disable("ssdh")
    os.chdir(PROJECT)  # whose params.yaml and placeholder of weights are read
    bits, methods = [int(k) for k in chosen.bits.split(",")], chosen.methods.split(",")
    features, labels = load(chosen.features)
    result = []
    for seed in range(chosen.seeds):
        split = draw(labels, chosen.num_query, chosen.num_train, seed)
        result += measure(features, labels, split, bits=bits, seed=seed, topk=chosen.topk, methods=methods)
        print(f"seed {seed} done", flush=True)
    rows = summarise(result)
    print_table(rows)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
