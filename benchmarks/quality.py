"""Quality of codes on any file of features and labels: every method on the same splits.

    python -m benchmarks.quality --features FILE.npz [--bits 16,32,64,128] [--seeds 5] [--json OUT]
        [--num-query 1000 --num-train 5000 --topk 5000] [--methods float,itq,default,sdc | all] [--views FILE.npy]
        [--settings chosen,authors,trials]

FILE.npz holds `features` (N, D) and `labels` (N,) classes or (N, C) multi-hot; FILE.npy features of views (V, N, D),
for recipes that ask for some (the first ones), the default among them, which without trains as `manifold`; a file
`rows.npy` beside it says, ascending, which rows they are of where not of all.
A seed draws the split (queries as even over the classes as in the protocols, where there is one class an image), the
initial weights and the batches. A method is `float`, a file of `ssdh/evaluation/baselines/`, a recipe of
`ssdh/methods/` or `default`, the one that `params.yaml` names. Settings of a recipe are those of its file (chosen), of
its authors, where its file has them, or of its best trial (trials), where `benchmarks.studies.rivals` tried some. Rows
that OUT holds of other methods stay; `python -m benchmarks.leaderboard` makes a page of them.

A JSON row: method, settings, bits, map_mean and map_std (tie-aware, over the seeds), maps (each seed's), map_at_1000,
unique_codes, neighbor_recall_at_10 (of the ten nearest by features among the first ten by code), recall_10_in_100
(among the first hundred), seconds (of processor time: fit and codes, no mAP), seeds, and collapsed (how many of them
gave codes that hold almost nothing).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `python benchmarks/quality.py` works too

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray

from benchmarks.settings import runs_of, takes_views, with_settings
from ssdh.core.errors import DataError
from ssdh.core.params import read_params, recipe_names, section
from ssdh.core.split import Split
from ssdh.datasets.base import Protocol
from ssdh.datasets.prepare import draw_split
from ssdh.evaluation.baselines import registry
from ssdh.evaluation.baselines._base import CannotFitError, Codes
from ssdh.evaluation.comparison import encode, fit
from ssdh.evaluation.float_search import nearest, sharing, similarity_blocks
from ssdh.evaluation.metrics import neighbors_among_first
from ssdh.evaluation.scored import Ranked
from ssdh.features.params import ViewsParams
from ssdh.hashing import ranking
from ssdh.hashing.codes import hamming, pack, sign_codes, unpack
from ssdh.hashing.retrieval import average_precisions, count_distances
from ssdh.structure.fit import fit_recipe
from ssdh.structure.params import StructureParams
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.structure.thresholds import pseudo_labels
from ssdh.structure.whitening import Views
from ssdh.training.collapse import collapse_statistics, have_collapsed
from ssdh.training.head import train_head
from ssdh.training.loop import Run
from ssdh.training.method import Method, chosen_method

PROJECT = Path(__file__).resolve().parents[1]
METHODS = ("float", "lsh", "pcah", "itq", "published", "default", "soft")
NEAR, DEPTHS = 10, (10, 100)  # the nearest by features, looked for among so many first by code
SCORES = 2**24  # of queries and codes at once
MEANS = ("map_at_1000", "neighbor_recall_at_10", "recall_10_in_100", "seconds")
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


def recipe_pairs(features: NDArray[np.float32], chosen: StructureParams, seed: int, views: Views = ()) -> PairLabels:
    """Pseudo-labels of the train features (n, D) and their views (V, n, D), as the structure stage makes them."""
    fitted = fit_recipe(features, chosen, seed=seed, views=views)
    large = len(features) ** 2 / 2**30 > chosen.max_matrix_gib
    matrix = None if large else pseudo_labels(fitted.pairs, fitted.structure)
    return PairLabels(fitted.pairs.features, fitted.structure, matrix)


def load_views(path: Path, split: Split) -> NDArray[np.floating[Any]]:
    """Features (V, n, D) of the views of a split's train rows."""
    views, listed = np.load(path, mmap_mode="r"), path.with_name("rows.npy")
    rows = np.load(listed) if listed.is_file() else np.arange(views.shape[1])
    if missing := len(np.setdiff1d(split.train, rows)):
        raise DataError(f"{path} lacks {missing} of {len(split.train)} train rows: make the views of this split's rows")
    return np.ascontiguousarray(views[:, np.searchsorted(rows, split.train)])


def recipe_codes(
    features: NDArray[np.float32],
    split: Split,
    pairs: PairLabels,
    method: Method,
    bits: int,
    seed: int,
    views: Views = (),
) -> NDArray[np.uint8]:
    """Packed codes (N, ⌈bits/8⌉) of all features by a hash layer trained on the split's train rows.

    views: features (V, n, D) of the train rows, for recipes that compare some.
    """
    train = np.ascontiguousarray(features[split.train])
    model, _ = train_head(train, pairs, Run(method, bits, seed), views=views)
    with torch.inference_mode():
        return pack(sign_codes(model(torch.from_numpy(features)).numpy()))


def score(packed: NDArray[np.uint8], labels: NDArray[np.uint8], split: Split, bits: int, topk: int) -> float:
    """Tie-aware mAP@topk of packed codes of all images."""
    query, database = split.query, split.database
    result = average_precisions(packed[query], packed[database], labels[query], labels[database], bits=bits, topk=topk)
    return float(result.mean())


@dataclass(frozen=True)
class Task:
    """Features (N, D), labels (N, C), the split of a seed, what is measured, and the nearest by features, (q, NEAR)."""

    features: NDArray[np.float32]
    labels: NDArray[np.uint8]
    split: Split
    seed: int
    topk: int
    true: NDArray[np.int64]

    @classmethod
    def of(cls, features: NDArray[np.float32], labels: NDArray[np.uint8], split: Split, seed: int, topk: int) -> "Task":
        """With the nearest found."""
        return cls(features, labels, split, seed, topk, nearest(features, split.query, split.database, NEAR))

    def codes(self, packed: NDArray[np.uint8], bits: int) -> "Measured":
        """Packed codes (N, ⌈bits/8⌉) by Hamming distance."""
        query, database = self.split.query, self.split.database
        counts = count_distances(packed[query], packed[database], self.labels[query], self.labels[database], bits=bits)
        at = [hamming(packed[row, None], packed[database[self.true[i]]])[0] for i, row in enumerate(query)]
        near = [neighbors_among_first(counts.total, np.stack(at), depth).mean() for depth in DEPTHS]
        precisions = ranking.average_precision(counts.total, counts.relevant, self.topk)
        shallow = ranking.average_precision(counts.total, counts.relevant, 1000)
        statistics = collapse_statistics(unpack(packed[database], bits))
        collapsed, unique = have_collapsed(statistics, len(database), bits), statistics["unique_codes"]
        return Measured(precisions, float(shallow.mean()), float(near[0]), float(near[1]), unique, collapsed)

    def scores(self, blocks: Iterable[tuple[slice, NDArray[np.float32]]], packed: NDArray[Any] | None) -> "Measured":
        """Scores (queries, n) by blocks of queries; packed: the codes (N, bytes), if any."""
        precisions, shallow, near = np.empty(len(self.split.query)), [], []
        for block, result in blocks:
            relevant = sharing(self.labels, self.split, block)
            for i, row in enumerate(range(block.start, block.start + len(result))):
                ranked = Ranked.by(result[i])
                total, hits = ranked.total[None], ranked.count(relevant[i])[None]
                precisions[row] = ranking.average_precision(total, hits, self.topk)[0]
                shallow.append(ranking.average_precision(total, hits, 1000)[0])
                group = ranked.group[self.true[row]][None]
                near.append([neighbors_among_first(total, group, depth).mean() for depth in DEPTHS])
        unique = None if packed is None else len(np.unique(packed[self.split.database], axis=0))
        recall = np.mean(near, axis=0)
        return Measured(precisions, float(np.mean(shallow)), float(recall[0]), float(recall[1]), unique)


@dataclass(frozen=True)
class Measured:
    """Of one method, code length and seed: average precision of each query (q,), and means."""

    precisions: NDArray[np.float64]
    map_at_1000: float
    neighbor_recall_at_10: float
    recall_10_in_100: float
    unique_codes: int | None
    collapsed: bool = False
    seconds: float = 0.0


Results = dict[tuple[str, str, int], list[Measured]]  # by method, settings and bits: of each seed


def measure(task: Task, method: str, settings: str, bits: Sequence[int], views: Views = ()) -> dict[int, Measured]:
    """What a method reaches at each length that it can give; seconds are of processor time."""
    if method == "float":
        started = time.process_time()
        results = task.scores(similarity_blocks(task.features, task.split.query, task.split.database), None)
        return {k: replace_seconds(results, started) for k in bits}
    if method in registry.names():
        lengths = {k: baseline(task, method, k) for k in bits}
        return {k: results for k, results in lengths.items() if results}
    params = with_settings(read_params(), method, settings)
    started = time.process_time()
    structure: StructureParams = section(params, "structure", StructureParams)
    views = views[: section(params, "views", ViewsParams).count]
    pairs = recipe_pairs(task.features[task.split.train], structure, task.seed, views)
    shared = time.process_time() - started
    result = {}
    for k in bits:
        started = time.process_time() - shared
        packed = recipe_codes(task.features, task.split, pairs, chosen_method(params), k, task.seed, views)
        ended = time.process_time()
        result[k] = replace_seconds(task.codes(packed, k), started, ended)
    return result


def baseline(task: Task, method: str, bits: int) -> Measured | None:
    """A baseline at one length; None where it cannot give it."""
    started = time.process_time()
    try:
        fitted = fit(method, np.ascontiguousarray(task.features[task.split.train]), bits, task.seed)
    except CannotFitError:
        return None
    packed = encode(fitted, task.features)
    ended = time.process_time()
    if isinstance(fitted, Codes):
        return replace_seconds(task.codes(packed, bits), started, ended)
    query, database = task.split.query, packed[task.split.database]
    step = max(1, SCORES // len(database))
    blocks = [slice(start, min(start + step, len(query))) for start in range(0, len(query), step)]
    scores = ((block, fitted.scores(task.features[query[block]], database)) for block in blocks)
    return replace_seconds(task.scores(scores, packed), started, ended)


def replace_seconds(found: Measured, started: float, ended: float | None = None) -> Measured:
    """With the processor's seconds since `started`."""
    return replace(found, seconds=(time.process_time() if ended is None else ended) - started)


def summarise(results: Results) -> list[Row]:
    """Mean and deviation over the seeds (of the sample; 0 for one)."""
    rows: list[Row] = []
    for (method, settings, bits), result in results.items():
        maps = np.array([one.precisions.mean() for one in result])
        uniques = [one.unique_codes for one in result if one.unique_codes is not None]
        row: Row = {"method": method, "settings": settings, "bits": bits}
        row |= {"map_mean": float(maps.mean()), "map_std": float(maps.std(ddof=1)) if len(maps) > 1 else 0.0}
        row["maps"] = maps.tolist()
        row |= {name: float(np.mean([getattr(one, name) for one in result])) for name in MEANS}
        row |= {"unique_codes": round(float(np.mean(uniques))) if uniques else None, "seeds": len(result)}
        row["collapsed"] = sum(one.collapsed for one in result)
        rows.append(row)
    return rows


def merged(path: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows of a file, those of the same method, settings and bits replaced by `rows`."""
    kept: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    new = {(row["method"], row.get("settings"), row["bits"]) for row in rows}
    return [row for row in kept if (row["method"], row.get("settings"), row["bits"]) not in new] + list(rows)


def print_table(rows: Sequence[Row]) -> None:
    """One line a method and settings, one column a code length."""
    lengths = sorted({row["bits"] for row in rows})
    print(f"{'method':<26}" + "".join(f"{k:>18}" for k in lengths) + f"{'seconds':>10}")
    for key in dict.fromkeys((row["method"], row["settings"]) for row in rows):
        own = {row["bits"]: row for row in rows if (row["method"], row["settings"]) == key}
        cells = [f"{own[k]['map_mean']:.4f} ± {own[k]['map_std']:.4f}" if k in own else "" for k in lengths]
        seconds = float(np.mean([row["seconds"] for row in own.values()]))
        print(f"{key[0] + ', ' + key[1]:<26}" + "".join(f"{c:>18}" for c in cells) + f"{seconds:>10.1f}", flush=True)


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
    parser.add_argument("--methods", default=",".join(METHODS), help="float, baselines, recipes, default; or all")
    parser.add_argument("--settings", default="chosen", help="of recipes: chosen, authors, trials")
    parser.add_argument("--views", type=_absolute, help=".npy with features of views (V, N, D)")
    parser.add_argument("--json", type=_absolute, help="where the rows are written, beside those of other methods")
    chosen = parser.parse_args()
    logger.disable("ssdh")
    os.chdir(PROJECT)  # whose params.yaml and placeholder of weights are read
    bits, methods = [int(k) for k in chosen.bits.split(",")], chosen.methods.split(",")
    known = ["float", "default", *registry.names(), *recipe_names()]
    if methods == ["all"]:
        own = read_params()["recipe"]  # the default
        methods = [name for name in known if name != own and (chosen.views or not takes_views(name))]
    if unknown := [name for name in methods if name not in known]:
        parser.error(f"--methods {','.join(unknown)}: known are {', '.join(known)}")
    if chosen.json and "default" not in methods:
        methods.insert(0, "default")  # what every method is compared with, query by query
    if not chosen.views and chosen.json and any(takes_views(row["method"]) for row in merged(chosen.json, ())):
        parser.error(f"{chosen.json} has rows of recipes that take views: give --views, or the default would have none")
    runs = [(method, settings) for method in methods for settings in runs_of(method, chosen.settings.split(","))]
    features, labels = load(chosen.features)
    results: Results = {}
    for seed in range(chosen.seeds):
        task = Task.of(features, labels, draw(labels, chosen.num_query, chosen.num_train, seed), seed, chosen.topk)
        views = load_views(chosen.views, task.split) if chosen.views else ()
        for method, settings in runs:
            for k, result in measure(task, method, settings, bits, views).items():
                results.setdefault((method, settings, k), []).append(result)
                if result.collapsed:
                    print(
                        f"COLLAPSED CODES: {method}, {settings}, {k} bits, {result.unique_codes} different", flush=True
                    )
            print(f"seed {seed}: {method}, {settings}", flush=True)
            rows = summarise(results)
            if chosen.json:  # after every method, so that what was measured is not lost
                whole = merged(chosen.json, rows)
                chosen.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8", newline="\n")
    print_table(summarise(results))


if __name__ == "__main__":
    main()
