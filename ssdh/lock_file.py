"""What `dvc.lock` records of the stages' files."""

from collections.abc import Iterable, Mapping
from typing import Any


def hashes_by_path(stages: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The hashes that stages recorded for each path they read or wrote; several of one path are of different runs.

    stages: entries of `dvc.lock`.

    >>> hashes_by_path([{"outs": [{"path": "a", "md5": "1"}]}, {"deps": [{"path": "a", "md5": "1"}]}])
    {'a': {'1'}}
    """
    found: dict[str, set[str]] = {}
    for stage in stages:
        for file in (*stage.get("deps", ()), *stage.get("outs", ())):
            found.setdefault(file["path"], set()).add(file.get("md5", ""))
    return found
