"""`python -m ssdh add COLLECTION PHOTOS…`: codes of photos into a folder that grows, made if need be."""

import argparse
from pathlib import Path

from ssdh.cli.encode import FEATURES, add_how, add_model, how_of


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("add", help="photos into a collection of codes", description=__doc__)
    parser.add_argument("collection", type=Path, metavar="COLLECTION", help="the collection's folder")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="PHOTOS", help="photos, or folders of them")
    add_model(parser)
    parser.add_argument(
        "--features", choices=FEATURES, default="float16", help="of a new collection: what is kept (default: float16)"
    )
    add_how(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Add the photos, all or none, and say what was new."""
    from ssdh.search.collection import DATABASE, create, open_collection
    from ssdh.search.collection_add import add_photos

    how = how_of(options)
    if (options.collection / DATABASE).exists():
        collection = open_collection(options.collection)
    else:
        collection = create(options.collection, options.model, options.features)
    added, skipped = add_photos(collection, options.inputs, how)
    parts = [f"{added.new:,} images added"]
    for count, what in (
        (added.copies, "files are copies or new names of images that were there"),
        (added.unchanged, "files were there"),
        (added.removed, "images are gone, their files hold others now"),
        (len(skipped), "files are no images"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    print(f"{options.collection}: {'; '.join(parts)}. It holds {len(collection):,} images.")
    return 0
