"""What is on record of earlier runs: hashes in `dvc.lock`, seconds in `$SSDH_HOME/timings.csv` (no out)."""

import contextlib
import csv
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from ssdh.core.cache_dir import ssdh_home
from ssdh.core.errors import DataError
from ssdh.core.yaml_text import parse_yaml

HEADER = "stage,seconds,time,commit\n"


@dataclass(frozen=True)
class Timing:
    """One run of a stage: its name, how many seconds it took, and when it ended."""

    stage: str
    seconds: float
    ended: datetime


def read_timings(path: Path) -> list[Timing]:
    """All recorded runs, oldest first; lines that a killed process left torn are passed over."""
    result: list[Timing] = []
    if not path.is_file():
        return result
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            with contextlib.suppress(TypeError, ValueError):  # a field is missing, or no number and no time
                ended = datetime.fromisoformat(row["time"]).astimezone(UTC)
                result.append(Timing(row["stage"], float(row["seconds"]), ended))
    return result


def record_seconds(name: str, seconds: float) -> None:
    """Append a line (stage, seconds, time, commit) to `$SSDH_HOME/timings.csv`; never fails the stage."""
    path = ssdh_home() / "timings.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = f"{name},{seconds:.3f},{stamp},{_commit()}\n"
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END) == 0:
                line = HEADER + line
            else:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line  # what was killed while it wrote
            file.write(line.encode())
    except OSError as error:
        logger.warning("{} could not be written: {}", path, error)


def _commit() -> str:
    result = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def locked_stages(lock: Path) -> dict[str, Any]:
    """The stages of a `dvc.lock` by name, {} where there is none; raises DataError where it cannot be read."""
    try:
        return parse_lock(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise DataError(f"{lock} cannot be read: remove it and run `dvc repro`") from None


def parse_lock(text: str) -> dict[str, Any]:
    """The stages of a `dvc.lock` by name; raises ValueError for another text, such as one with the marks of a merge."""
    try:
        stages: dict[str, Any] = parse_yaml(text)["stages"]
    except (ValueError, TypeError, KeyError):
        raise ValueError("it is no lock file of DVC") from None
    return stages


def is_code(path: str) -> bool:
    """Whether a dependency of a stage is code: folders of `ssdh` or `ssdh.txt`, recipes, entry points."""
    return path.startswith(("ssdh/", "ssdh.txt", "methods/", "stages/"))


def hashes_by_path(stages: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The hashes that stages recorded for each path they read or wrote; several of one path are of different runs.

    stages: entries of `dvc.lock`.

    >>> hashes_by_path([{"outs": [{"path": "a", "md5": "1"}]}, {"deps": [{"path": "a", "md5": "1"}]}])
    {'a': {'1'}}
    """
    result: dict[str, set[str]] = {}
    for stage in stages:
        for file in (*stage.get("deps", ()), *stage.get("outs", ())):
            result.setdefault(file["path"], set()).add(file.get("md5", ""))
    return result
