"""`python -m ssdh add COLLECTION PHOTOS…`: codes of photos or embeddings into a folder that grows, made if need be."""

import argparse
from pathlib import Path

from ssdh.cli.encode import FEATURES, add_exclude, add_how, add_inputs, how_of
from ssdh.core.errors import DataError


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("add", help="photos into a collection of codes", description=__doc__)
    parser.add_argument("collection", type=Path, metavar="COLLECTION", help="the collection's folder")
    add_inputs(parser)
    parser.add_argument(
        "--features", choices=FEATURES, default="float16", help="of a new collection: what is kept (default: float16)"
    )
    add_exclude(parser)
    add_how(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Add the photos, all or none, and say what was new."""
    from ssdh.search.collection import DATABASE, create, open_collection
    from ssdh.search.collection_add import add_embeddings, add_photos
    from ssdh.search.encode_embeddings import embeddings_among

    how = how_of(options)
    if (options.collection / DATABASE).exists():
        collection = open_collection(options.collection)
    else:
        collection = create(options.collection, options.model, options.features)
    embeddings = embeddings_among(options.inputs, collection.model)
    if embeddings is not None and not collection.of_embeddings:
        raise DataError(f"{options.collection} holds photos: embeddings go into one whose model takes them")
    skipped: list[tuple[str, str]] = []
    if embeddings is not None:
        added = add_embeddings(collection, embeddings, how)
    else:
        added, skipped = add_photos(collection, options.inputs, how, options.exclude)
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
    print(f"{options.collection}: {'; '.join(parts)}. It holds {len(collection):,} {many}.")
    return 0
