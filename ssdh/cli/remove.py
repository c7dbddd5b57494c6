"""`python -m ssdh remove COLLECTION ID|PATH…`: images out of a collection; the files themselves are left alone."""

import argparse
from collections.abc import Sequence
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
            unwanted: list[int | str] = [
                path for item in collection.items() for path in item.paths if not Path(path).exists()
            ]
        else:
            paths: list[Path] = []
            if not collection.of_embeddings and not all(text.isdecimal() for text in options.images):
                paths = [Path(path) for item in collection.items() for path in item.paths]
            unwanted = [one for text in options.images for one in _stored(text, collection, paths)]
        gone = writer.remove(unwanted)
    print(f"{options.collection}: {gone:,} images removed. It holds {len(collection):,} images.")
    return 0


def _stored(text: str, collection: "Collection", paths: Sequence[Path]) -> Sequence[int | str]:
    """The id, or those of the collection's `paths`, under which it has what a person calls `text`.

    `add` keeps a folder's links under their own names, and of a link that is named itself the file behind it. What is
    there under neither is looked for among all files of the collection: it may be another link to one of them.
    """
    if text.isdecimal():
        return [int(text)]
    if collection.of_embeddings:
        return [text]
    path = Path(text)
    behind = path.resolve()
    own = path.parent.resolve() / path.name if path.name not in ("", "..") else behind
    for name in (own, behind):
        if any(name == one or name in one.parents for one in paths):
            return [name.as_posix()]
    same = [one.as_posix() for one in paths if path.is_file() and one.is_file() and one.samefile(path)]
    return same or [behind.as_posix()]
