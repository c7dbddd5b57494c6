"""`python -m ssdh datasets`: every data set, its size, where it was found and what is missing."""

import argparse
from pathlib import Path
from typing import Any

from ssdh.core.errors import SSDHError
from ssdh.core.params import lookup, read_params, validate
from ssdh.datasets import registry
from ssdh.datasets.base import DataParams


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "datasets",
        help="list the data sets: sizes, where each was found, what is missing",
        description="List the data sets of params.yaml without touching the network; * marks the chosen one.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a few lines a set; returns 0, or 1 where a parameter block cannot be read."""
    params = read_params()
    failed = False
    for name in options.names or registry.names():
        dataset = registry.get(name)
        mark = "*" if params.get("dataset") == name else " "
        count = "any number of" if dataset.num_images is None else f"{dataset.num_images:,}"
        print(f"{mark} {name}: {dataset.title}; {count} {dataset.unit}, {dataset.about}")
        try:
            where, missing = _find(params, name)
        except SSDHError as error:
            failed = True
            where, missing = None, str(error).splitlines()
        if where is not None:
            print(f"    {'found in' if not missing else 'looked in'} {where}")
        if missing:
            print(f"    missing: {', '.join(missing)}")
    return int(failed)


def _find(params: dict[str, Any], name: str) -> tuple[Path | None, list[str]]:
    dataset = registry.get(name)
    data: DataParams = validate(dataset.Params, lookup(params, f"datasets.{name}.data"), f"datasets.{name}.data")
    found = dataset.find(data)
    missing = list(found.missing)
    if not missing:
        absent, listed = dataset.missing_images(data)
        missing += [f"{absent:,} of {listed:,} images"] if absent else []
    return found.where or dataset.root(data), missing
