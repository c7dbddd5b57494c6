"""`python -m ssdh show`: `dvc exp show` with the columns that matter: mAP, ITQ beside it, and parameters that vary.

A run without labels has no mAP: the recall of the nearest by features and along the manifold stand in its place. DVC
shows every parameter, metric and dependency (some 200 columns) and has no setting for it; this is its own command with
its own options --keep and --drop.
"""

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence

from ssdh.core.errors import ParameterError
from ssdh.core.files import read_table
from ssdh.core.package import check_pipeline
from ssdh.experiments.dvc import dvc, shell_line
from ssdh.experiments.fitted_table import fitted

WIDE = 10_000  # columns of what is no terminal

IF_VARIED = ("itq.map", "params.yaml:dataset", "seed", "recipe")
BLOCKS = ("datasets", "backbone", "structure", "train", "views", "evaluate")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("show", help="experiments with the columns that matter", description=__doc__)
    parser.add_argument(
        "--add", action="append", default=[], metavar="REGEX", help="further columns: a part of their names"
    )
    parser.add_argument("--sort-by", metavar="NAME", help="a metric or parameter, such as map")
    parser.add_argument(
        "-A", "--all-commits", action="store_true", help="experiments of all commits, not only the last"
    )
    parser.add_argument("--md", action="store_true", help="as a Markdown table")
    parser.add_argument("--csv", action="store_true", help="as CSV")
    parser.add_argument("--dry-run", action="store_true", help="print the dvc command and stop")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run `dvc exp show`; returns 0."""
    check_pipeline()
    every = ["-A"] if options.all_commits else []
    rows = read_table(dvc("exp", "show", "--csv", *every, quiet=True))
    command = ["exp", "show", "--no-pager", *columns(rows, options.add), *every]
    command += ["--sort-by", options.sort_by, "--sort-order", "desc"] if options.sort_by else []
    command += [flag for flag, on in (("--md", options.md), ("--csv", options.csv)) if on]
    if options.dry_run:
        print(shell_line(["dvc", *command]))
    elif options.md or options.csv:
        print(dvc(*command, quiet=True), end="")
    else:  # DVC's own table squeezes or drops columns where the terminal is narrow, the mAP among them
        shown = read_table(dvc(*command, "--csv", quiet=True))
        width = shutil.get_terminal_size((WIDE, 0)).columns
        print("\n".join(fitted(shown, measures(rows), width)))
    return 0


def columns(rows: Sequence[Mapping[str, str]], more: Sequence[str]) -> list[str]:
    """The options that keep the columns which always matter, and drop all others but parameters that vary.

    rows: all that `dvc exp show` knows, by column. more: regular expressions, found anywhere in a column's name. Raises
    ParameterError where one of them is none, or is found nowhere.
    """
    added = [_anywhere(pattern, list(rows[0]) if rows else []) for pattern in more]
    always = "|".join([*(f"{name}$" for name in (*measures(rows), "params.yaml:bits")), *added])
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
