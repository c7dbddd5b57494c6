"""`python -m ssdh add COLLECTION PHOTOS…`: codes of photos or embeddings into a folder that grows, made if need be."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ssdh.cli.arguments import positive
from ssdh.cli.encode import FEATURES, add_encode_options, add_exclude, add_inputs, encode_options_of
from ssdh.core.errors import DataError

if TYPE_CHECKING:
    from ssdh.search.collection import Collection
    from ssdh.search.encode import EncodeOptions


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("add", help="photos into a collection of codes", description=__doc__)
    parser.add_argument("collection", type=Path, metavar="COLLECTION", help="the collection's folder")
    add_inputs(parser)
    parser.add_argument(
        "--features", choices=FEATURES, default="float16", help="of a new collection: what is kept (default: float16)"
    )
    parser.add_argument(
        "--watch", type=positive, metavar="SECONDS", help="add again every so many seconds, until Ctrl-C ends it"
    )
    add_exclude(parser)
    add_encode_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Add the photos, all or none, and say what was new; with `--watch` again and again."""
    from ssdh.search.collection import DATABASE, create, open_collection

    encode_options = encode_options_of(options)
    if (options.collection / DATABASE).exists():
        collection = open_collection(options.collection)
    else:
        collection = create(options.collection, options.model, options.features)
    print(_add(collection, options, encode_options)[0], flush=True)
    while options.watch:
        time.sleep(options.watch)
        message, changed = _add(collection, options, encode_options)
        if changed:
            print(message, flush=True)
    return 0


def _add(collection: "Collection", options: argparse.Namespace, encode_options: "EncodeOptions") -> tuple[str, bool]:
    """What was added, in words, and whether anything changed."""
    from ssdh.search.collection_add import add_embeddings, add_photos
    from ssdh.search.encode_embeddings import embeddings_among

    embeddings = embeddings_among(options.inputs, collection.model)
    if embeddings is not None and not collection.of_embeddings:
        raise DataError(f"{options.collection} holds photos: embeddings go into one whose model takes them")
    skipped: list[tuple[str, str]] = []
    if embeddings is not None:
        added = add_embeddings(collection, embeddings, encode_options)
    else:
        added, skipped = add_photos(collection, options.inputs, encode_options, options.exclude)
    one, many = ("row", "rows") if embeddings is not None else ("file", "images")
    parts = [f"{added.new:,} {many} added"]
    for count, what in (
        (added.copies, f"{one}s are copies or new names of {many} that were there"),
        (added.unchanged, f"{one}s were there"),
        (added.removed, f"{many} are gone, their {'names' if one == 'row' else 'files'} hold others now"),
        (added.moved, "former names are forgotten, their files were moved"),
        (len(skipped), "files are no images"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    message = f"{options.collection}: {'; '.join(parts)}. It holds {len(collection):,} {many}."
    return message, bool(added.new or added.copies or added.removed or added.moved)
