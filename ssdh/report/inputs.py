"""What the report shows, read from files: the metrics of a run, published numbers and the record of each stage.

A file that does not exist, or that a run without labels left empty, gives an empty part, never an error.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.files import read_json
from ssdh.core.records import is_code, locked_stages

Table = dict[str, list[str]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Results:
    """The files of `metrics/`: JSON files as dictionaries, CSV files as columns of text."""

    data: dict[str, Any] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Any] = field(default_factory=dict)
    distances: Table = field(default_factory=dict)
    train: Table = field(default_factory=dict)
    validation: Table = field(default_factory=dict)
    pr_curve: Table = field(default_factory=dict)
    precision_at_n: Table = field(default_factory=dict)
    baselines_curves: Table = field(default_factory=dict)
    per_query: Table = field(default_factory=dict)


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
        is_table = part.type == Table
        path = folder / f"{name}.{'csv' if is_table else 'json'}"
        if path.is_file():
            parts[name] = read_table(path) if is_table else read_json(path)
    return Results(**parts)


def read_table(path: Path) -> Table:
    """A CSV file as columns of text; a file without rows gives empty columns."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = [row for row in reader if row]
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def numbers(table: Mapping[str, Sequence[str]], column: str) -> Floats:
    """A column as float64; an absent column is empty, an empty cell NaN.

    >>> numbers({"loss": ["0.5", ""]}, "loss").tolist()
    [0.5, nan]
    """
    return np.array([float(cell) if cell else np.nan for cell in table.get(column, [])], dtype=np.float64)


def select(table: Table, column: str, value: str) -> Table:
    """The rows of `table` whose `column` is `value`.

    >>> select({"method": ["itq", "lsh"], "n": ["1", "2"]}, "method", "lsh")
    {'method': ['lsh'], 'n': ['2']}
    """
    keep = [i for i, cell in enumerate(table.get(column, [])) if cell == value]
    return {name: [cells[i] for i in keep] for name, cells in table.items()}


def published_rows(path: Path, results: Results) -> list[dict[str, str]]:
    """The published values whose protocol is this run's: data set, bits, top-k, numbers of queries and train images."""
    run = {
        "dataset": results.metrics.get("dataset"),
        "bits": results.metrics.get("bits"),
        "topk": results.metrics.get("topk"),
        "num_query": results.data.get("query"),
        "num_train": results.data.get("train"),
    }
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == str(value) for key, value in run.items())]


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
