"""`python -m ssdh show`: `dvc exp show` with the columns that matter: mAP, ITQ beside it, and parameters that vary.

DVC shows every parameter, metric and dependency (some 200 columns) and has no setting for it; this is its own command
with its own options --keep and --drop.
"""

import argparse

from ssdh.experiments import dvc, shell_line

ALWAYS = ("map", "params.yaml:bits")
IF_VARIED = ("itq.map", "params.yaml:dataset", "seed", "recipe")
BLOCKS = ("datasets", "backbone", "structure", "train", "evaluate")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("show", help="experiments with the columns that matter", description=__doc__)
    parser.add_argument("--add", action="append", default=[], metavar="REGEX", help="further columns, such as lsh.map")
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
    command = ["exp", "show", "--no-pager", *columns(options.add)]
    command += ["--sort-by", options.sort_by, "--sort-order", "desc"] if options.sort_by else []
    command += [flag for flag, on in (("-A", options.all_commits), ("--md", options.md), ("--csv", options.csv)) if on]
    if options.dry_run:
        print(shell_line(["dvc", *command]))
    else:
        dvc(*command)
    return 0


def columns(more: list[str]) -> list[str]:
    """The options that keep the columns which always matter, and drop all others but parameters that vary."""
    always = "|".join(f"{name}$" for name in (*ALWAYS, *more))
    kept = "|".join([*(f"{name}$" for name in IF_VARIED), *(rf"{name}\." for name in BLOCKS)])
    dropped = rf"(?!Experiment|rev|typ|parent|State|{always}|{kept})"
    return ["--only-changed", "--keep", f"({always})", "--drop", dropped]
