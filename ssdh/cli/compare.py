"""`python -m ssdh compare EXP1 EXP2`: is the difference of two experiments' mAPs more than noise?

EXP is an experiment's name, any git revision, "workspace", or a path: a per-query CSV file or the folder of a project.
"""

import argparse
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssdh.core.errors import DataError, ParameterError
from ssdh.core.package import no_pipeline
from ssdh.experiments.bootstrap import paired_bootstrap, verdict
from ssdh.experiments.dvc import git, git_file

PER_QUERY, METRICS, DATA = "metrics/per_query.csv", "metrics/metrics.json", "metrics/data.json"
SAME: tuple[str, ...] = ("dataset", "topk")  # what must agree for two average precisions to mean the same
HELD_OUT = ("train", "database")  # and on the database without train images, whose size these give


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser(
        "compare", help="say whether two experiments' mAPs differ by more than noise", description=__doc__
    )
    parser.add_argument("first", metavar="EXP1", help="name of an experiment, git revision, workspace, or a path")
    parser.add_argument("second", metavar="EXP2", help="likewise; the difference is EXP2 − EXP1")
    parser.add_argument("--without-train", action="store_true", help="mAP on the database without train images")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the interval (default: 0.95)")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of words")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the verdict; returns 0."""
    if not 0 < options.confidence < 1:
        raise ParameterError(f"--confidence must be between 0 and 1, got {options.confidence}: 0.95 is usual")
    if not 1 <= options.resamples <= 10_000_000:
        raise ParameterError(f"--resamples must be between 1 and 10000000, got {options.resamples}")
    if options.seed < 0:
        raise ParameterError(f"--seed must be at least 0, got {options.seed}")
    column, same, database = "ap", SAME, ""
    if options.without_train:
        column, same, database = "ap_without_train", SAME + HELD_OUT, " without train images"
    first, second = (read_experiment(name, column) for name in (options.first, options.second))
    values = pair(first, second, options.first, options.second, same=same)
    result = paired_bootstrap(*values, confidence=options.confidence, resamples=options.resamples, seed=options.seed)
    if options.json:
        print(json.dumps(asdict(result) | {"beyond_noise": result.beyond_noise}, indent=2))
    else:
        metric = f"mAP@{first[1]['topk']}" if "topk" in first[1] else "mAP"
        print(verdict(result, options.first, options.second, metric + database))
    return 0


def pair(
    first: tuple[dict[int, float], dict[str, Any]],
    second: tuple[dict[int, float], dict[str, Any]],
    *names: str,
    same: tuple[str, ...] = SAME,
) -> tuple[list[float], list[float]]:
    """Average precisions of both in the same order of queries.

    Raises DataError where they cannot be paired: queries or one of the metrics `same` differ.
    """
    (aps, metrics), (others, other_metrics) = first, second
    for key in same:
        if key in metrics and key in other_metrics and metrics[key] != other_metrics[key]:
            raise DataError(
                f"{names[0]} has {key} {metrics[key]} and {names[1]} {other_metrics[key]}: "
                "their average precisions measure different things, so there is nothing to pair"
            )
    if aps.keys() != others.keys():
        raise DataError(
            f"{names[0]} and {names[1]} share {len(aps.keys() & others.keys())} of {len(aps)} and {len(others)} "
            "queries: compare experiments of one data set and one seed, for which the split is the same"
        )
    return list(aps.values()), [others[row] for row in aps]


def read_experiment(name: str, column: str) -> tuple[dict[int, float], dict[str, Any]]:
    """{manifest row of a query: average precision} and the metrics ({} beside a lone CSV file) of an experiment."""
    try:
        text, *beside = _files(name)
        data, metrics = (json.loads(content or "{}") for content in beside)
    except ValueError as error:  # not UTF-8, or no JSON
        raise DataError(f"{name}: its tables cannot be read ({error}): run `dvc repro evaluate`") from None
    import pandas as pd

    try:
        table = pd.read_csv(io.StringIO(text))
    except ValueError as error:
        raise DataError(f"{name}: {PER_QUERY} is no table ({error}): run `dvc repro evaluate`") from None
    if not {"row", column} <= set(table):
        raise DataError(f"{name}: {PER_QUERY} has no columns row and {column}, got {', '.join(table)}")
    try:
        values = table.set_index("row")[column].dropna().astype(float)
        rows = values.index.astype(int)
    except (TypeError, ValueError):
        raise DataError(f"{name}: {PER_QUERY} is not a whole table of numbers: run `dvc repro evaluate`") from None
    if values.empty:
        why = "its images have no labels" if table.empty else f"column {column} is empty: every database image trained"
        raise DataError(f"{name}: {PER_QUERY} holds no average precision ({why})")
    return dict(zip(rows, values, strict=True)), data | metrics


def _files(name: str) -> tuple[str, str, str]:
    """The texts of the per-query table, of the data set's counts and of the metrics, from a path or from git.

    The last two are empty where there is no such file.
    """
    path = Path("." if name == "workspace" else name)
    if path.is_file():
        return path.read_text(encoding="utf-8"), "", ""
    if path.is_dir():
        for folder in (path / "metrics", path):
            if (folder / "per_query.csv").is_file():
                return _text(folder / "per_query.csv"), _text(folder / "data.json"), _text(folder / "metrics.json")
        raise DataError(f"{name} holds no {PER_QUERY}: run `dvc repro evaluate` there")
    revision = _revision(name)
    text = git_file(revision, PER_QUERY)
    if text is None:
        raise DataError(f"{name} ({revision[:7]}) holds no {PER_QUERY}: it was committed before `dvc repro evaluate`")
    return text, git_file(revision, DATA) or "", git_file(revision, METRICS) or ""


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _revision(name: str) -> str:
    """The commit of an experiment's name (refs/exps/…/NAME) or of any other git revision."""
    if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        raise DataError(f"{name} is no path, and {no_pipeline()}")
    experiments = (git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or "").split("\n")
    result = dict(line.split(" ", 1)[::-1] for line in experiments if line.rpartition("/")[2] == name)
    result = {
        ref: commit for ref, commit in result.items() if not ref.startswith(("refs/exps/exec/", "refs/exps/celery/"))
    }
    if len(set(result.values())) > 1:
        raise DataError(f"{name} names {len(result)} experiments: say which one, {' or '.join(sorted(result))}")
    if result:
        return next(iter(result.values()))
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if commit is None:
        raise DataError(f"{name} is no experiment, git revision or path here: `dvc exp list` names the experiments")
    return commit.strip()
