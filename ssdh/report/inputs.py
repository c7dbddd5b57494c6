"""What the report shows, read from files: the metrics of a run, published numbers and the record of each stage.

A file that does not exist, or that a run without labels left empty, gives an empty part, never an error.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ssdh.core.errors import DataError
from ssdh.core.records import read_timings

Table = dict[str, list[str]]


Floats = NDArray[np.float64]


# After a stage DVC may write its outs once more, as links or copies of those in its cache: start-up and a slow disk.
RELINK_SECONDS, RELINK_BYTES_PER_SECOND = 5, 50e6


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
    """What `dvc.lock` says of one stage: (path, hash) of its outs and folders of code, and its seconds where known.

    seconds: None where the outs in the workspace are not those of a recorded run (they came from DVC's cache).
    """

    name: str
    outs: list[tuple[str, str]]
    code: list[tuple[str, str]]
    seconds: float | None


def read_results(folder: Path) -> Results:
    """Read every file of `metrics/` that the report shows."""
    parts: dict[str, Any] = {}
    for name, part in Results.__dataclass_fields__.items():
        is_table = part.type == Table
        path = folder / f"{name}.{'csv' if is_table else 'json'}"
        if path.is_file():
            parts[name] = read_table(path) if is_table else read_json(path)
    return Results(**parts)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; raises DataError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): run `dvc repro`") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold an object, got {type(value).__name__}: run `dvc repro`")
    return value


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


def stage_records(lock: Path, timings: Path, workspace: Path = Path()) -> list[StageRecord]:
    """The stages of `dvc.lock` in its order, without the report's own; empty where there is no lock file."""
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    except (OSError, TypeError, KeyError):
        return []
    runs = _recorded_runs(timings)
    return [
        StageRecord(
            name=name,
            outs=_hashes(stage.get("outs", [])),
            code=[
                (path, digest)
                for path, digest in _hashes(stage.get("deps", []))
                if path.startswith(("ssdh/", "stages/"))
            ],
            seconds=_seconds(runs.get(name, []), [workspace / out["path"] for out in stage.get("outs", [])]),
        )
        for name, stage in stages.items()
        if name != "report"
    ]


def _hashes(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(entry["path"], str(entry.get("md5", ""))) for entry in entries]


def _recorded_runs(timings: Path) -> dict[str, list[tuple[float, float]]]:
    """(end as a Unix time, seconds) of every recorded run of each stage, oldest first."""
    runs: dict[str, list[tuple[float, float]]] = {}
    for run in read_timings(timings):
        runs.setdefault(run.stage, []).append((run.ended.timestamp(), run.seconds))
    return runs


def _seconds(runs: list[tuple[float, float]], outs: list[Path]) -> float | None:
    """The seconds of the recorded run during which one of `outs` was written; None: they came from DVC's cache.

    `timings.csv` is shared by every workspace of the machine, so the last line of a stage may be another's.
    """
    for end, seconds in reversed(runs):
        for path in outs:
            if not path.exists():
                continue
            status = path.stat()
            relinking = RELINK_SECONDS + status.st_size / RELINK_BYTES_PER_SECOND
            if end - seconds <= status.st_mtime <= end + relinking:
                return seconds
    return None
