"""Choosing settings on validation queries: a seeded search whose survivors meet more splits and code lengths.

    python -m benchmarks.studies.selection --features FILE.npz [--candidates 150] [--rounds 3]

A candidate is the recipe as it was before the search (START) with a third of its settings drawn anew from SPACE.
Validation queries are database images of a split that do not train; the split's own test queries are left out. The
splits are others than those of published figures, though of the same 60,000 images: 580 of the 4,845 test queries of
seeds 0 to 4 are validation queries of some split here. A round keeps the best by validation mAP, mean over its splits
and code lengths. START is left only for the best of the last round, and only where that beats it by more than twice the
standard error of their difference over the splits. Every run is written to `benchmarks/studies/selection.json`; what is
there is not measured again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from benchmarks.common import STUDIES, table, write_results
from benchmarks.quality import draw, load, recipe_codes, recipe_pairs, score
from benchmarks.settings import with_values
from ssdh.core.params import read_params, section
from ssdh.core.split import Split
from ssdh.structure.params import StructureParams
from ssdh.training.method import Method, chosen_method

VALIDATION, TOPK = 1000, 5000
SPACE: dict[str, tuple[int, ...] | tuple[float, ...]] = {
    "power": (0.5, 0.6, 0.7, 0.8, 1.0),  # of structure and train alike
    "structure.neighbors": (10, 15, 20, 30, 40),
    "structure.rank": (32, 48, 64, 96, 128, 192),
    "structure.steps": (3, 6, 9, 12),
    "structure.decay": (0.8, 0.9, 0.95),
    "structure.alpha": (1.5, 1.75, 2.0, 2.25),
    "structure.beta": (1.0, 1.5, 2.0, 3.0),
    "train.unknown_weight": (0.3, 0.5, 0.7, 1.0),
    "train.lr": (0.0005, 0.001, 0.002),
    "train.batch_size": (128, 256, 512),
    "train.epochs": (20, 30, 50),
}
Settings = tuple[float, ...]  # one value for each key of SPACE
START: Settings = (0.7, 20, 128, 6, 0.9, 2.0, 2.0, 1.0, 0.001, 256, 30)  # the recipe before the search
# candidates that go in (None: all), seeds of the splits (not those of published figures), code lengths
ROUNDS: tuple[tuple[int | None, tuple[int, ...], tuple[int, ...]], ...] = (
    (None, (100,), (16, 64)),
    (20, (101, 102), (16, 32, 64, 128)),
    (6, (103, 104, 105, 106, 107), (16, 32, 64, 128)),
)


@dataclass(frozen=True)
class Data:
    """Features (N, D) and labels (N, C) of a file."""

    features: NDArray[np.float32]
    labels: NDArray[np.uint8]


def chosen_of(settings: Settings) -> tuple[StructureParams, Method]:
    """`manifold` with these settings: the parameters of its structure, and its method."""
    values = dict(zip(SPACE, settings, strict=True))
    power = values.pop("power")
    own = read_params() | {"recipe": "manifold"}
    params = with_values(own, values | {"structure.power": power, "train.power": power})
    return section(params, "structure", StructureParams), chosen_method(params)


def candidates(count: int) -> list[Settings]:
    """START and `count` − 1 others, drawn with a fixed seed: each setting is drawn anew one time in three."""
    rng = np.random.default_rng(0)
    result = [START]
    while len(result) < count:
        others = [values[rng.integers(len(values))] for values in SPACE.values()]
        drawn = tuple(old if rng.random() < 2 / 3 else new for old, new in zip(START, others, strict=True))
        if drawn not in result:
            result.append(drawn)
    return result


def validation_split(labels: NDArray[np.uint8], seed: int) -> Split:
    """Validation queries in the place of the queries, which are in no part of it."""
    split = draw(labels, 1000, 5000, seed)
    others = np.setdiff1d(split.database, split.train)
    queries = np.sort(np.random.default_rng([seed, 1]).choice(others, VALIDATION, replace=False))
    return Split(query=queries, train=split.train, database=np.setdiff1d(split.database, queries))


def measure(data: Data, settings: Settings, seed: int, bits: Sequence[int]) -> list[dict[str, Any]]:
    """One row for each code length: the validation mAP."""
    structure, method = chosen_of(settings)
    split = validation_split(data.labels, seed)
    pairs = recipe_pairs(data.features[split.train], structure, seed)
    rows = []
    for k in bits:
        packed = recipe_codes(data.features, split, pairs, method, k, seed)
        value = score(packed, data.labels, split, k, TOPK)
        rows.append({"settings": list(settings), "seed": seed, "bits": k, "validation_map": value})
    return rows


def standing(rows: Sequence[dict[str, Any]], settings: Settings, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Validation mAP of each seed, mean over the code lengths, (len(seeds),)."""
    own = [row for row in rows if tuple(row["settings"]) == settings]
    return np.array([np.mean([row["validation_map"] for row in own if row["seed"] == seed]) for seed in seeds])


def verdict(rows: Sequence[dict[str, Any]], field: Sequence[Settings], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Mean of each candidate, its gain on START and the standard error of the gain; best first."""
    reference = standing(rows, START, seeds)
    result: list[dict[str, Any]] = []
    for settings in field:
        gains = standing(rows, settings, seeds) - reference
        error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None
        measured = {"validation": float((gains + reference).mean()), "gain": float(gains.mean()), "error": error}
        result.append(dict(zip(SPACE, settings, strict=True)) | measured)
    return sorted(result, key=lambda row: -row["validation"])


def winner(results: Sequence[dict[str, Any]]) -> Settings:
    """The settings to use: the best of the last round's verdict, or START where its lead could be chance."""
    best = results[0]
    settings = tuple(best[key] for key in SPACE)
    return settings if best["error"] is not None and best["gain"] > 2 * best["error"] else START


def main() -> None:
    """Run the rounds, print each and the winner."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=len(ROUNDS))
    chosen = parser.parse_args()
    logger.remove()
    data = Data(*load(chosen.features))
    kept = STUDIES / "selection.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text())["results"]["runs"] if kept.is_file() else []
    head = {"features": chosen.features.name, "space": SPACE, "start": dict(zip(SPACE, START, strict=True))}
    field = candidates(chosen.candidates)
    results: list[dict[str, Any]] = []
    for most, seeds, bits in ROUNDS[: chosen.rounds]:
        if most is not None:
            best = [tuple(row[key] for key in SPACE) for row in results[:most]]
            field = list(dict.fromkeys([START, *best]))
        for settings in field:
            for seed in seeds:
                have = {r["bits"] for r in rows if tuple(r["settings"]) == settings and r["seed"] == seed}
                if missing := [k for k in bits if k not in have]:
                    rows += measure(data, settings, seed, missing)
            write_results("selection", head | {"runs": rows}, kept)
        results = verdict(rows, field, seeds)
        print(f"\n{len(field)} candidates, splits {seeds}, bits {bits}")
        print(table(results[:12]), flush=True)
    chosen_settings = dict(zip(SPACE, winner(results), strict=True))
    print(f"\nto use: {chosen_settings}")
    write_results("selection", head | {"winner": chosen_settings, "last_round": results, "runs": rows}, kept)


if __name__ == "__main__":
    main()
