"""`python -m ssdh remove COLLECTION ID|PATH…`: images out of a collection; the files themselves are left alone."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdh.cli.arguments import whole
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
        help="files, or folders with all that was added from them, or names of embeddings; else ids",
    )
    parser.add_argument(
        "--id", type=whole, action="append", default=[], metavar="N", help="an id, never a name; may be repeated"
    )
    parser.add_argument("--missing", action="store_true", help="every image whose files are all gone")
    parser.add_argument("--force", action="store_true", help="with --missing: also where whole folders are gone")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Remove all of them or, where one is not there, none."""
    from ssdh.features.image_files import is_gone
    from ssdh.search.collection import open_collection

    if bool(options.images or options.id) == options.missing:
        raise ParameterError("name images to remove, or give --missing")
    collection = open_collection(options.collection)
    if options.missing and collection.of_embeddings:
        raise ParameterError("--missing is for photos: of embeddings name rows or ids to remove")
    with collection.writing() as writer:
        if options.missing:
            missing = [path for item in collection.items() for path in item.paths if is_gone(Path(path))]
            if not options.force:
                _refuse_lost_folders({Path(path).parent for path in missing})
            unwanted: list[int | str] = [*missing]
        else:
            ids = {path: item.id for item in collection.items() for path in item.paths}
            unwanted = [*options.id, *(one for text in options.images for one in _stored(text, collection, ids))]
        gone = writer.remove(unwanted)
    names = f"; {gone.paths:,} names removed of images that have others" if gone.paths else ""
    print(f"{options.collection}: {gone.images:,} images removed{names}. It holds {len(collection):,} images.")
    return 0


def _refuse_lost_folders(folders: Iterable[Path]) -> None:
    """Raise ParameterError where one is gone or empty: a drive may not be mounted, and ids are never given again."""
    if lost := sorted(filter(_is_lost, folders)):
        raise ParameterError(
            f"{lost[0]} is gone or empty, and all that was added from it would be removed: mount the drive, or give "
            "--force where that is meant"
        )


def _is_lost(folder: Path) -> bool:
    """Whether a folder is gone or empty, or cannot be looked into."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return True


def _stored(text: str, collection: "Collection", ids: Mapping[str, int]) -> Sequence[int | str]:
    """What the collection has by what a person calls `text`: a name first, else an id.

    ids: of all its names. Raises ParameterError where `text` is the name of one image and the id of another.
    """
    names = [text] if collection.of_embeddings else _paths(text, [Path(path) for path in ids])
    if not text.isdecimal() or int(text) not in ids.values():
        return names
    named = {
        number for path, number in ids.items() if any(path == name or path.startswith(f"{name}/") for name in names)
    }
    if others := sorted(named - {int(text)}):
        raise ParameterError(
            f"{text} is the id of one image and a name of another, whose id is {others[0]}: say which by `--id {text}` "
            f"or `--id {others[0]}`"
        )
    return names if named else [int(text)]


def _paths(text: str, paths: Iterable[Path]) -> Sequence[str]:
    """Those of the collection's `paths` under which it has the file or folder that a person calls `text`.

    `add` keeps a folder's links under their own names, and of a link that is named itself the file behind it. What is
    there under neither is looked for among all files of the collection: it may be another link to one of them.
    """
    path = Path(text)
    behind = path.resolve()
    own = path.parent.resolve() / path.name if path.name not in ("", "..") else behind
    for name in (own, behind):
        if any(name == one or name in one.parents for one in paths):
            return [name.as_posix()]
    same = [one.as_posix() for one in paths if path.is_file() and one.is_file() and one.samefile(path)]
    return same or [behind.as_posix()]
