"""`python -m ssdh show`: `dvc exp show` with the columns that matter: mAP, ITQ beside it, and parameters that vary.

A run without labels has no mAP: the recall of the nearest by features and along the manifold stand in its place. DVC
shows every parameter, metric and dependency (some 200 columns) and has no setting for it; this is its own command with
its own options --keep and --drop. Of an experiment without results (queued, running, failed) it shows the metrics of
the commit that it started from, and sorts those without a value first where the largest come first: here their cells
are blank, and they are last.
"""

import argparse
import csv
import itertools
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ssdh.core.errors import ParameterError
from ssdh.core.files import read_table
from ssdh.core.package import check_pipeline
from ssdh.core.params import lookup, read_params
from ssdh.experiments.dvc import dvc, shell_line
from ssdh.experiments.fitted_table import ABOUT_ROW, BRANCH, fitted, markdown

WIDE = 10_000  # columns of what is no terminal

IF_VARIED = ("itq.map", "params.yaml:dataset", "seed", "recipe")
WITHOUT_RESULTS = ("Queued", "Running", "Failed")
NO_VALUE = ("!", "nan")  # how DVC writes a metrics file that it cannot read, and a metric that is none
BLOCKS = ("datasets", "backbone", "structure", "train", "views", "evaluate")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("show", help="experiments with the columns that matter", description=__doc__)
    parser.add_argument(
        "--add", action="append", default=[], metavar="REGEX", help="further columns: a part of their names"
    )
    parser.add_argument("--sort-by", metavar="NAME", help="a metric or parameter, such as map")
    parser.add_argument("--sort-order", choices=("desc", "asc"), default="desc", help="asc: the smallest first")
    parser.add_argument(
        "-A", "--all-commits", action="store_true", help="experiments of all commits, not only the last"
    )
    parser.add_argument("--md", action="store_true", help="as a Markdown table")
    parser.add_argument("--csv", action="store_true", help="as CSV")
    parser.add_argument("--dry-run", action="store_true", help="print the dvc command and stop")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run `dvc exp show` and print what it has; returns 0."""
    check_pipeline()
    every = ["-A"] if options.all_commits else []
    rows = with_results(read_table(dvc("exp", "show", "--csv", *every, quiet=True)))
    sort_by = _column(options.sort_by, list(rows[0])) if options.sort_by else None
    command = ["exp", "show", "--no-pager", *columns(rows, options.add, sort_by), *every]
    if options.dry_run:
        command += ["--sort-by", sort_by, "--sort-order", options.sort_order] if sort_by else []
        command += [flag for flag, on in (("--md", options.md), ("--csv", options.csv)) if on]
        print(shell_line(["dvc", *command]))
        return 0
    shown = with_results(read_table(dvc(*command, "--csv", quiet=True)))
    if sort_by:
        shown = ordered(shown, sort_by, descending=options.sort_order == "desc")
    if options.csv:
        writer = csv.DictWriter(sys.stdout, list(shown[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(shown)
    elif options.md:
        print("\n".join(markdown(shown, measures(rows))))
    else:  # DVC's own table squeezes or drops columns where the terminal is narrow, the mAP among them
        width = shutil.get_terminal_size((WIDE, 0)).columns
        print("\n".join(fitted(shown, measures(rows), width)))
    return 0


def with_results(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The rows with blank cells for metrics that are no result of theirs, or no number."""
    params = read_params()
    about = {*ABOUT_ROW, "Created", "State", "Executor"}
    names = [name for name in (rows[0] if rows else ()) if name not in about and not _is_parameter(name, params)]
    return [
        {
            **row,
            **{name: "" for name in names if row.get("State") in WITHOUT_RESULTS or row[name].lower() in NO_VALUE},
        }
        for row in rows
    ]


def _is_parameter(name: str, params: dict[str, Any]) -> bool:
    """Whether a column is one of parameters: DVC puts the file before a name that metrics have too."""
    if ".yaml:" in name:
        return True
    try:
        return not isinstance(lookup(params, name), dict)
    except ParameterError:
        return False


def _column(name: str, names: Sequence[str]) -> str:
    """The column that `--sort-by` means; raises ParameterError where there is none."""
    for candidate in (name, f"params.yaml:{name}", name.removeprefix("params.yaml:")):
        if candidate in names:
            return candidate
    raise ParameterError(f"--sort-by {name!r} is no column: `dvc exp show --csv` has them all")


def ordered(rows: Sequence[dict[str, str]], column: str, *, descending: bool) -> list[dict[str, str]]:
    """The experiments below each commit by a column, numbers before texts; those without a value last either way."""
    result: list[dict[str, str]] = []
    for is_experiment, group in itertools.groupby(rows, key=lambda row: row.get("typ", "").startswith(BRANCH)):
        part = list(group)
        if is_experiment:
            known = [row for row in part if row[column]]
            known.sort(key=lambda row: _order(row[column]), reverse=descending)
            part = known + [row for row in part if not row[column]]
        result += part
    return result


def columns(rows: Sequence[Mapping[str, str]], more: Sequence[str], sort_by: str | None = None) -> list[str]:
    """The options that keep the columns which always matter, and drop all others but parameters that vary.

    rows: all that `dvc exp show` knows, by column. more: regular expressions, found anywhere in a column's name. Raises
    ParameterError where one of them is none, or is found nowhere. sort_by: a column that always matters too.
    """
    added = [_anywhere(pattern, list(rows[0]) if rows else []) for pattern in more]
    own = dict.fromkeys([*measures(rows), "params.yaml:bits", *([re.escape(sort_by)] if sort_by else [])])
    always = "|".join([*(f"{name}$" for name in own), *added])
    kept = "|".join([*(f"{name}$" for name in IF_VARIED), *(rf"(?:params\.yaml:)?{name}\." for name in BLOCKS)])
    dropped = rf"(?!Experiment|rev|typ|parent|State|{always}|{kept})"
    return ["--only-changed", "--keep", f"({always})", "--drop", dropped]


def measures(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns of quality: mAP, and in its place or beside it what rows without an mAP have instead.

    >>> measures([{"map": "0.5", "neighbor_recall_at.10": "0.4"}])
    ['map']
    >>> measures([{"map": "", "neighbor_recall_at.100": "0.6", "neighbor_recall_at.20": "0.4"}])
    ['neighbor_recall_at.20']
    """
    unlabelled = [row for row in rows if not row.get("map")]
    names = {name for row in unlabelled for name, value in row.items() if value}
    recalls = sorted(
        (name for name in names if name.startswith("neighbor_recall_at.")), key=lambda name: (len(name), name)
    )
    instead = [*recalls[:1], *(name for name in ("manifold_recall",) if name in names)]
    return instead if instead and len(unlabelled) == len(rows) else ["map", *instead]


def _order(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text


def _anywhere(pattern: str, names: Sequence[str]) -> str:
    """A pattern that finds `pattern` anywhere in a name, by `re.match` as DVC uses it."""
    whole = f".*(?:{pattern})"
    try:
        matching = [name for name in names if re.match(whole, name)]
    except re.error as error:
        raise ParameterError(f"--add {pattern!r} is no regular expression ({error}): lsh.map is one") from None
    if not matching:
        raise ParameterError(f"--add {pattern!r} is found in no column's name: `dvc exp show --csv` has them all")
    return whole
