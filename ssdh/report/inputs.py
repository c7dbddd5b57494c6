"""What the report shows, read from files: the metrics of a run, published numbers and the record of each stage.

A file that does not exist, or that a run without labels left empty, gives an empty part, never an error.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssdh.core.arrays import Float64
from ssdh.core.files import read_json
from ssdh.core.records import is_code, locked_stages


@dataclass(frozen=True)
class Results:
    """The files of `metrics/`: JSON files as dictionaries, CSV files as tables."""

    data: dict[str, Any] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Any] = field(default_factory=dict)
    distances: pd.DataFrame = field(default_factory=pd.DataFrame)
    train: pd.DataFrame = field(default_factory=pd.DataFrame)
    validation: pd.DataFrame = field(default_factory=pd.DataFrame)
    pr_curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    precision_at_n: pd.DataFrame = field(default_factory=pd.DataFrame)
    baselines_curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    per_query: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class StageRecord:
    """What `dvc.lock` says of one stage: (path, hash) of its outs, and of its code."""

    name: str
    outs: list[tuple[str, str]]
    code: list[tuple[str, str]]


def read_results(folder: Path) -> Results:
    """Read every file of `metrics/` that the report shows."""
    parts: dict[str, Any] = {}
    for name, part in Results.__dataclass_fields__.items():
        is_table = part.type is pd.DataFrame
        path = folder / f"{name}.{'csv' if is_table else 'json'}"
        if path.is_file():
            parts[name] = pd.read_csv(path) if is_table else read_json(path)
    return Results(**parts)


def numbers(table: pd.DataFrame, column: str) -> Float64:
    """A column as float64; an absent column is empty, an empty cell NaN."""
    return np.asarray(table.get(column, []), dtype=np.float64)


def published_rows(path: Path, results: Results) -> list[dict[str, str]]:
    """The published values whose protocol is this run's: data set, bits, top-k, numbers of queries and train images."""
    run = {
        "dataset": results.metrics.get("dataset"),
        "bits": results.metrics.get("bits"),
        "topk": results.metrics.get("topk"),
        "num_query": results.data.get("query"),
        "num_train": results.data.get("train"),
    }
    rows: list[dict[str, str]] = pd.read_csv(path, dtype=str).to_dict("records")
    return [row for row in rows if all(row[key] == str(value) for key, value in run.items())]


def stage_records(lock: Path) -> list[StageRecord]:
    """The stages of `dvc.lock` in its order, without the report's own; empty where there is no lock file."""
    return [
        StageRecord(
            name=name,
            outs=_hashes(stage.get("outs", [])),
            code=[(path, digest) for path, digest in _hashes(stage.get("deps", [])) if is_code(path)],
        )
        for name, stage in locked_stages(lock).items()
        if name != "report"
    ]


def _hashes(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(entry["path"], str(entry.get("md5", ""))) for entry in entries]
