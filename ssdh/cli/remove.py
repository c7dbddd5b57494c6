"""`python -m ssdh remove COLLECTION ID|PATH…`: images out of a collection; the files themselves are left alone."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ssdh.core.errors import ParameterError

if TYPE_CHECKING:
    from ssdh.search.collection import Collection


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("remove", help="images out of a collection", description=__doc__)
    parser.add_argument("collection", type=Path, metavar="COLLECTION", help="the collection's folder")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="ID|PATH",
        help="ids, files, or folders with all that was added from them; or names of embeddings",
    )
    parser.add_argument("--missing", action="store_true", help="every image whose files are all gone")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Remove all of them or, where one is not there, none."""
    from ssdh.search.collection import open_collection

    if bool(options.images) == options.missing:
        raise ParameterError("name images to remove, or give --missing")
    collection = open_collection(options.collection)
    if options.missing and collection.of_embeddings:
        raise ParameterError("--missing is for photos: of embeddings name rows or ids to remove")
    with collection.writing() as writer:
        if options.missing:
            expected: list[int | str] = [
                path for item in collection.items() for path in item.paths if not Path(path).exists()
            ]
        else:
            expected = [int(text) if text.isdecimal() else _path(text, collection) for text in options.images]
        gone = writer.remove(expected)
    print(f"{options.collection}: {gone:,} images removed. It holds {len(collection):,} images.")
    return 0


def _path(text: str, collection: "Collection") -> str:
    """The name under which the collection has what a person calls `text`."""
    return text if collection.of_embeddings else Path(text).resolve().as_posix()
