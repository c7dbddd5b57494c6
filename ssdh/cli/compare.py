"""`python -m ssdh compare EXP1 EXP2`: is the difference of two experiments' mAPs more than noise?

EXP is an experiment's name, any git revision, "workspace", or a path: a per-query CSV file or the folder of a project.
Several with commas are the seeds of one method, `compare short-1,short-2,short-3 long-1,long-2,long-3` in any order:
those of one seed are compared query by query, and the verdict is on the mean over the seeds.
"""

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssdh.cli.arguments import words
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.package import no_pipeline
from ssdh.core.records import parse_lock
from ssdh.experiments.bootstrap import PairedDifference, over_seeds, paired_bootstrap, verdict
from ssdh.experiments.dvc import git, git_file

PER_QUERY, METRICS, DATA, LOCK = "metrics/per_query.csv", "metrics/metrics.json", "metrics/data.json", "dvc.lock"
SAME: tuple[str, ...] = ("dataset", "topk")  # what must agree for two average precisions to mean the same
HELD_OUT = ("train", "database")  # and on the database without train images, whose size these give
STAGES = ("prepare", "extract", "views", "structure", "train", "encode", "evaluate")  # what precisions depend on
SEED = "params.yaml:seed"


@dataclass(frozen=True)
class Experiment:
    """precisions: {manifest row of a query: average precision}; the metrics; the text of dvc.lock.

    The last two are empty beside a lone CSV file.
    """

    name: str
    precisions: dict[int, float]
    metrics: dict[str, Any]
    lock: str


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser(
        "compare", help="say whether two experiments' mAPs differ by more than noise", description=__doc__
    )
    one = "name of an experiment, git revision, workspace, or a path"
    parser.add_argument("first", metavar="EXP1[,…]", type=_names, help=f"{one}; several with commas: one a seed")
    parser.add_argument("second", metavar="EXP2[,…]", type=_names, help="likewise; the difference is EXP2 − EXP1")
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
    groups = [[read_experiment(name, column) for name in names] for names in (options.first, options.second)]
    seeds = by_seed(*groups) if any(len(group) > 1 for group in groups) else {}
    pairs = list(seeds.values()) or [(groups[0][0], groups[1][0])]
    values = [pair(first, second, same=same) for first, second in pairs]
    each = [
        paired_bootstrap(*both, confidence=options.confidence, resamples=options.resamples, seed=options.seed)
        for both in values
    ]
    result, names = each[0], (pairs[0][0].name, pairs[0][1].name)
    if seeds:
        rows = [list(first.precisions) for first, _ in pairs]
        result, names = over_seeds(rows, *zip(*values, strict=True), confidence=options.confidence), ("A", "B")
    if options.json:
        print(json.dumps(_numbers(result) | ({"seeds": _by_seed(seeds, each)} if seeds else {}), indent=2))
        return 0
    if seeds:
        print("\n".join(_table(seeds, each)))
    metrics = pairs[0][0].metrics
    print(verdict(result, *names, (f"mAP@{metrics['topk']}" if "topk" in metrics else "mAP") + database))
    return 0


def _names(text: str) -> list[str]:
    """Names with commas between them; a path may hold some."""
    return [text] if Path(text).exists() else words(text)


Pairs = dict[int, tuple[Experiment, Experiment]]  # by seed


def _numbers(result: PairedDifference) -> dict[str, Any]:
    return asdict(result) | {"beyond_noise": result.beyond_noise}


def _by_seed(seeds: Pairs, results: Sequence[PairedDifference]) -> list[dict[str, Any]]:
    """Each seed's numbers for `--json`, after the names of its experiments."""
    return [
        {"seed": seed, "names": [first.name, second.name], **_numbers(result)}
        for (seed, (first, second)), result in zip(seeds.items(), results, strict=True)
    ]


def _table(seeds: Pairs, results: Sequence[PairedDifference]) -> list[str]:
    """A line a seed: both experiments with their mAPs, the difference and its interval over queries."""
    lines = [("seed", "A", "mAP", "B", "mAP", "B − A", f"{100 * results[0].confidence:g}% over queries")]
    for (seed, (first, second)), result in zip(seeds.items(), results, strict=True):
        maps = f"{result.first:.4f}", f"{result.second:.4f}"
        interval = f"{result.low:+.4f} to {result.high:+.4f}"
        lines.append((str(seed), first.name, maps[0], second.name, maps[1], f"{result.difference:+.4f}", interval))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def by_seed(first: Sequence[Experiment], second: Sequence[Experiment]) -> Pairs:
    """The experiments of both groups that have the same seed, by ascending seed.

    Raises DataError where a seed occurs twice or in one group only, or a group differs in more than its seeds.
    """
    both = []
    for group in (first, second):
        seeds: dict[int, Experiment] = {}
        settings_of_first = _recorded(group[0])[1]
        for one in group:
            seed, settings = _recorded(one)
            if seed in seeds:
                raise DataError(f"{seeds[seed].name} and {one.name} both have seed {seed}: name one experiment a seed")
            names = sorted(settings | settings_of_first)
            if others := [name for name in names if settings.get(name) != settings_of_first.get(name)]:
                named = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
                raise DataError(
                    f"{group[0].name} and {one.name} differ in {named}, not in the seed alone: "
                    "name experiments of one method on each side of the comparison"
                )
            seeds[seed] = one
        both.append(seeds)
    a, b = both
    if a.keys() != b.keys():
        said = (", ".join(map(str, sorted(seeds))) for seeds in both)
        raise DataError("A has seeds {} and B {}: name experiments of the same seeds".format(*said))
    return {seed: (a[seed], b[seed]) for seed in sorted(a)}


def _recorded(one: Experiment) -> tuple[int, dict[str, Any]]:
    """The seed of an experiment's results and all else that is set for them, by `file:name`, as dvc.lock records it.

    params.yaml may have been edited since, or the experiment run in part.
    """
    try:
        stages = parse_lock(one.lock)
    except ValueError as error:
        raise DataError(f"{one.name}: its seed is not known, since it has no whole dvc.lock ({error})") from None
    settings = [
        (f"{file}:{name}", value)
        for stage in STAGES
        for file, values in stages.get(stage, {}).get("params", {}).items()
        for name, value in values.items()
    ]
    seeds = sorted({value for name, value in settings if name == SEED})
    if len(seeds) != 1:
        raise DataError(f"{one.name}: stages of seeds {seeds} stand in its dvc.lock: run `dvc repro evaluate`")
    return seeds[0], {name: value for name, value in settings if name != SEED}


def pair(first: Experiment, second: Experiment, *, same: tuple[str, ...] = SAME) -> tuple[list[float], list[float]]:
    """Average precisions of both in the same order of queries.

    Raises DataError where they cannot be paired: queries or one of the metrics `same` differ.
    """
    for key in same:
        if key in first.metrics and key in second.metrics and first.metrics[key] != second.metrics[key]:
            raise DataError(
                f"{first.name} has {key} {first.metrics[key]} and {second.name} {second.metrics[key]}: "
                "their average precisions measure different things, so there is nothing to pair"
            )
    aps, others = first.precisions, second.precisions
    if aps.keys() != others.keys():
        raise DataError(
            f"{first.name} and {second.name} share {len(aps.keys() & others.keys())} of {len(aps)} and {len(others)} "
            "queries: compare experiments of one data set and one seed, for which the split is the same"
        )
    return list(aps.values()), [others[row] for row in aps]


def read_experiment(name: str, column: str) -> Experiment:
    """An experiment with the average precisions of one column of its per-query table."""
    try:
        text, lock, *beside = _files(name)
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
    return Experiment(name, dict(zip(rows, values, strict=True)), data | metrics, lock)


def _files(name: str) -> tuple[str, str, str, str]:
    """The texts of the per-query table, of dvc.lock, of the data set's counts and of the metrics, by path or from git.

    All but the first are empty where there is no such file.
    """
    path = Path("." if name == "workspace" else name)
    if path.is_file():
        return path.read_text(encoding="utf-8"), "", "", ""
    if path.is_dir():
        for folder in (path / "metrics", path):
            if (folder / "per_query.csv").is_file():
                names = ("per_query.csv", f"../{LOCK}", "data.json", "metrics.json")
                table, lock, data, metrics = (_text(folder / file) for file in names)
                return table, lock, data, metrics
        raise DataError(f"{name} holds no {PER_QUERY}: run `dvc repro evaluate` there")
    revision = _revision(name)
    text = git_file(revision, PER_QUERY)
    if text is None:
        raise DataError(f"{name} ({revision[:7]}) holds no {PER_QUERY}: it was committed before `dvc repro evaluate`")
    lock, data, metrics = (git_file(revision, file) or "" for file in (LOCK, DATA, METRICS))
    return text, lock, data, metrics


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
        raise DataError(
            f"{name} is no experiment, git revision or path here: `dvc exp list` names the experiments, "
            "`dvc queue status` those that wait or failed"
        )
    return commit.strip()
