"""`python -m ssdh cache`: what lies in `$SSDH_HOME`, above all features that are kept by content; and cleaning it."""

import argparse
import time
from pathlib import Path

from ssdh.cli.arguments import gibibytes
from ssdh.core.cache_dir import ssdh_home
from ssdh.features.store import Shelf, evict, shelves, store_limit, store_root

MIB = 2**20
DAY = 86_400


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "cache",
        help="list or clean what is kept in $SSDH_HOME",
        description="List what is kept in $SSDH_HOME. Features are kept by the content of images, so that only new "
        "ones are computed; beyond $SSDH_FEATURES_GIB those go that were not used for longest.",
    )
    parser.add_argument("action", nargs="?", choices=("list", "clean"), default="list", help="default: list")
    parser.add_argument(
        "--keep", type=gibibytes, default=0.0, metavar="GIB", help="clean: keep the last used features, so many GiB"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List, or remove features and say how much; what else lies in `$SSDH_HOME` is never removed here."""
    if options.action == "clean":
        freed = evict(int(min(options.keep, 2**30) * 2**30))
        print(f"removed {freed / MIB:,.1f} MiB of features from {store_root()}")
        return 0
    home = ssdh_home()
    print(f"{home}:")
    for name, what in (("datasets", "raw data sets"), ("weights", "weights"), ("work", "unfinished work")):
        print(f"  {name:9} {_size(home / name) / MIB:12,.1f} MiB  {what}")
    last_used_first = sorted(shelves(), key=_last_used, reverse=True)
    total = sum(_bytes(shelf) for shelf in last_used_first)
    limit = f"at most {store_limit() / 2**30:,.4g} GiB: SSDH_FEATURES_GIB"
    print(f"  {'features':9} {total / MIB:12,.1f} MiB  kept by content, {limit}")
    for shelf in last_used_first:
        print(
            f"    {shelf.rows:,} rows, {_bytes(shelf) / MIB:,.1f} MiB, used {_ago(_last_used(shelf))}: {_named(shelf)}"
        )
    return 0


def _named(shelf: Shelf) -> str:
    """The kind in words: network, size, precision, weights, device, and the view where it is one."""
    kind = shelf.kind
    try:
        words = [
            f"{kind['arch']} {kind['layer']} {kind['preprocessing']['size']} px {kind['precision']}",
            f"weights {kind['weights'].split()[0]}",
            f"{kind['device']['device']}, torch {kind['device']['torch']}",
            *([f"view {kind['view']}"] if "view" in kind else []),
        ]
    except (KeyError, TypeError, AttributeError):
        return "of an unknown kind"
    return ", ".join(words)


def _bytes(shelf: Shelf) -> int:
    return sum(block.size for block in shelf.blocks)


def _last_used(shelf: Shelf) -> float:
    return max((block.used for block in shelf.blocks), default=0.0)


def _ago(when: float) -> str:
    days = int((time.time() - when) // DAY)
    return "today" if days <= 0 else "yesterday" if days == 1 else f"{days} days ago"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
