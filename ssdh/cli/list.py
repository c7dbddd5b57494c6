"""`python -m ssdh list COLLECTION`: id, SHA-256 and files of every image of a collection."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ssdh.core.errors import one_line


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("list", help="the images of a collection", description=__doc__)
    parser.add_argument("collection", type=Path, metavar="COLLECTION", help="the collection's folder")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line an image: its id and the first file; further files, exact copies, in lines below."""
    from ssdh.search.collection import open_collection

    for item in open_collection(options.collection).items():
        if options.json:
            json.dump(asdict(item), sys.stdout)
            print()
        else:
            print(f"{item.id:>8}  {one_line(item.paths[0])}")
            for path in item.paths[1:]:
                print(f"{'':>8}= {one_line(path)}")
    return 0
