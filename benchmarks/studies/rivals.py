"""Settings of every learned method by one rule: as many trials each, scored on validation queries of other splits.

    python -m benchmarks.studies.rivals --features FILE.npz --views FILE.npy [--methods greedyhash,bihalf]

A trial is a recipe with the values of one cell of its grid (GRIDS); TRIALS cells of each method are drawn, each at most
once, with a fixed seed. Its score is the mAP@5000 at 32 bits of validation queries (`selection.validation_split`), mean
of the splits SEEDS, which are not those of published figures. All runs are written to `benchmarks/studies/rivals.json`;
what is there is not measured again.

A rival's file has the values of its best trial. The recipes of SSDH keep theirs: those of the paper, and `manifold`
those of a longer search (`benchmarks.studies.selection`), so `benchmarks.quality --settings trials` measures them with
their best trial as well.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from benchmarks.common import table, write_results
from benchmarks.quality import PROJECT, load, load_views, recipe_codes, recipe_pairs, score
from benchmarks.settings import TRIALS as KEPT
from benchmarks.settings import with_values
from benchmarks.studies.selection import TOPK, validation_split
from ssdh.core.params import read_params, section
from ssdh.features.params import ViewsParams
from ssdh.structure.params import StructureParams
from ssdh.training.method import chosen_method

TRIALS, SEEDS, BITS = 8, (100, 101), 32
RIVALS = ("greedyhash", "bihalf", "sdc", "mls3rduh", "cibhash", "cimon", "crovca")
OURS = ("published", "centred", "soft", "manifold")
Values = dict[str, float]  # by dotted names of params.yaml

# What is drawn: learning rate, length, batch, and the method's own weights; the rest is as its file has it. A method
# with hidden layers or two views costs more an epoch and gets fewer.
LONG: dict[str, tuple[float, ...]] = {
    "train.lr": (0.0003, 0.001, 0.003),
    "train.epochs": (10, 20, 50),
    "train.batch_size": (64, 128, 256),
}
SHORT = LONG | {"train.epochs": (5, 10, 20)}
PAPER = LONG | {"train.lr": (0.001, 0.01, 0.1), "structure.alpha": (1.0, 1.5, 2.0), "structure.beta": (1.0, 1.5, 2.0)}
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "greedyhash": LONG | {"train.loss.quantisation": (0.01, 0.1, 1.0)},
    "bihalf": LONG | {"train.loss.gamma": (1.0, 3.0, 6.0, 12.0)},
    "sdc": SHORT | {"train.loss.quantisation": (0.1, 0.3, 1.0)},
    "mls3rduh": LONG | {"train.loss.neighbors": (0.02, 0.06), "train.loss.manifold_neighbors": (0.03, 0.09)},
    "cibhash": SHORT | {"train.loss.temperature": (0.2, 0.3, 0.5, 1.0)},
    "cimon": SHORT | {"train.loss.alpha": (0.5, 1.0, 1.5, 2.0), "train.loss.contrast": (0.1, 0.3, 1.0)},
    "crovca": SHORT | {"train.loss.rate": (0.03, 0.1, 0.3, 1.0)},
    "published": PAPER,
    "centred": PAPER,
    "soft": LONG | {"structure.rank": (32, 48, 64, 128)},
    "manifold": LONG | {"train.unknown_weight": (0.3, 0.5, 1.0), "structure.rank": (32, 48, 64, 128)},
}


def trials(recipe: str) -> list[Values]:
    """The cells of a recipe's grid that are tried, all different."""
    grid = GRIDS[recipe]
    cells = list(itertools.product(*grid.values()))
    drawn = np.random.default_rng(0).choice(len(cells), TRIALS, replace=False)
    return [dict(zip(grid, cells[number], strict=True)) for number in drawn]


def run(
    features: NDArray[np.float32], labels: NDArray[np.uint8], views: Path, recipe: str, values: Values, seed: int
) -> dict[str, Any]:
    """One row: the validation mAP of a trial on a split, how many codes differ, and the processor's seconds."""
    params, split = with_values(read_params() | {"recipe": recipe}, values), validation_split(labels, seed)
    method = chosen_method(params)
    started = time.process_time()
    crops = load_views(views, split)[: section(params, "views", ViewsParams).count]
    pairs = recipe_pairs(features[split.train], section(params, "structure", StructureParams), seed, crops)
    packed = recipe_codes(features, split, pairs, method, BITS, seed, crops)
    seconds = time.process_time() - started
    return {
        "recipe": recipe,
        "values": values,
        "seed": seed,
        "validation_map": score(packed, labels, split, BITS, TOPK),
        "unique_codes": len(np.unique(packed[split.database], axis=0)),
        "seconds": round(seconds, 2),
    }


def standing(rows: Sequence[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """The trials of a recipe that are measured on every split, best first: values, mean mAP, fewest codes, seconds."""
    result = []
    for values in trials(recipe):
        own = [row for row in rows if (row["recipe"], row["values"]) == (recipe, values)]
        if len(own) == len(SEEDS):
            mean = float(np.mean([row["validation_map"] for row in own]))
            least, seconds = min(row["unique_codes"] for row in own), float(np.mean([row["seconds"] for row in own]))
            result.append({"values": values, "validation_map": mean, "unique_codes": least, "seconds": seconds})
    return sorted(result, key=lambda trial: -trial["validation_map"])


def write(rows: Sequence[dict[str, Any]], features: str) -> None:
    """All runs, and the values of the best trial of each method whose trials are all there."""
    tried = {recipe: standing(rows, recipe) for recipe in GRIDS}
    best = {recipe: result[0]["values"] for recipe, result in tried.items() if len(result) == TRIALS}
    head = {"features": features, "trials": TRIALS, "seeds": SEEDS, "bits": BITS, "topk": TOPK, "grids": GRIDS}
    write_results("rivals", head | {"best": best, "runs": rows}, KEPT)


def main() -> None:
    """Measure what is missing, write it, and print the trials of each method, best first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--views", type=Path, required=True, help=".npy with features of views, as benchmarks.quality")
    parser.add_argument("--methods", default=",".join((*RIVALS, *OURS)))
    chosen = parser.parse_args()
    logger.disable("ssdh")
    os.chdir(PROJECT)  # whose params.yaml is read
    data = load(chosen.features)
    known: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))["results"] if KEPT.is_file() else {}
    rows: list[dict[str, Any]] = known.get("runs", [])
    for recipe in chosen.methods.split(","):
        for values, seed in itertools.product(trials(recipe), SEEDS):
            if not any((row["recipe"], row["values"], row["seed"]) == (recipe, values, seed) for row in rows):
                rows.append(run(*data, chosen.views, recipe, values, seed))
                write(rows, chosen.features.name)
        print(f"\n{recipe}")
        print(table(standing(rows, recipe)), flush=True)


if __name__ == "__main__":
    main()
