"""`python -m ssdh add COLLECTION PHOTOS…`: codes of photos or embeddings into a folder that grows, made if need be."""

import argparse
import time
from collections.abc import Sequence
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from loguru import logger

from ssdh.cli.arguments import positive
from ssdh.cli.encode import FEATURES, add_encode_options, add_exclude, add_inputs, encode_options_of
from ssdh.core.errors import DataError

if TYPE_CHECKING:
    from ssdh.search.collection import Collection
    from ssdh.search.encode import EncodeOptions, Told


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
    from ssdh.search.encode import Told

    encode_options = encode_options_of(options)
    if (options.collection / DATABASE).exists():
        collection = open_collection(options.collection)
    else:
        collection = create(options.collection, options.model, options.features)
    if options.watch:
        _watch(collection, options, encode_options)
    print(_add(collection, options.inputs, options, encode_options, Told())[0], flush=True)
    return 0


def _watch(collection: "Collection", options: argparse.Namespace, encode_options: "EncodeOptions") -> NoReturn:
    """Add again and again; what is in the way for a while is said once, and added when it is back.

    Until the first addition only another writer is waited for: anything else may be a slip of the pen.
    """
    from ssdh.search.collection import BusyError
    from ssdh.search.encode import Told

    told, troubles, begun = Told(), set[str](), False
    while True:
        there = [path for path in options.inputs if exists(path)]  # noqa: PTH110 (Path's raises what a drive answers)
        now = {f"{path} is gone" for path in options.inputs if path not in there}
        try:
            inputs = there if begun and there else options.inputs
            message, changed = _add(collection, inputs, options, encode_options, told)
            if changed or not begun:
                print(message, flush=True)
            begun = True
        except (DataError, OSError) as error:
            if not begun and not isinstance(error, BusyError):
                raise
            if there:
                now.add(str(error))
        for trouble in sorted(now - troubles):
            logger.warning("{} (looking again every {} s)", trouble, options.watch)
        troubles = now
        time.sleep(options.watch)


def _add(
    collection: "Collection",
    inputs: Sequence[Path],
    options: argparse.Namespace,
    encode_options: "EncodeOptions",
    told: "Told",
) -> tuple[str, bool]:
    """What was added, in words, and whether anything changed."""
    from ssdh.search.collection_add import add_embeddings, add_photos
    from ssdh.search.encode_embeddings import embeddings_among

    embeddings = embeddings_among(list(inputs), collection.model)
    if embeddings is not None and not collection.of_embeddings:
        raise DataError(f"{options.collection} holds photos: embeddings go into one whose model takes them")
    skipped: list[tuple[str, str]] = []
    if embeddings is not None:
        added = add_embeddings(collection, embeddings, encode_options)
    else:
        added, skipped = add_photos(collection, inputs, encode_options, options.exclude, told)
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
