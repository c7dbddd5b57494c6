"""`python -m ssdh duplicates`: groups of near-identical images of the run or of a collection, to be reviewed.

Exact copies are found by hash, others by codes and then features. Nothing is deleted.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdh.cli.arguments import add_collection, whole
from ssdh.core.errors import one_line
from ssdh.core.files import check_writable, write_csv

if TYPE_CHECKING:
    from ssdh.search.duplicates import Member
    from ssdh.search.engines import CodeTable


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("duplicates", help="groups of near-identical images", description=__doc__)
    parser.add_argument("--radius", type=whole, metavar="R", help="bits that may differ (default: an eighth of them)")
    parser.add_argument(
        "--min-similarity",
        type=float,
        metavar="S",
        help="least cosine of their features (default: 0.9)",
    )
    parser.add_argument("--codes-only", action="store_true", help="let codes alone decide, by --radius")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the groups as a table, to review")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object on standard output")
    add_collection(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Find the groups and print them, the largest first."""
    if options.csv is not None:
        check_writable(options.csv)
    from ssdh.search.duplicates import SIMILARITY, find_groups, usual_radius
    from ssdh.search.searchable import open_searchable

    opened = open_searchable(options.collection)
    table, features = opened.open_files(features=not options.codes_only)
    radius = usual_radius(table.bits) if options.radius is None else options.radius
    similarity = SIMILARITY if options.min_similarity is None else options.min_similarity
    groups = find_groups(table, features, radius=radius, min_similarity=similarity)
    if options.csv is not None:
        _write(options.csv, table, groups)
    if options.json:
        least = None if features is None else similarity
        shown = [[_as_json(table, member) for member in group] for group in groups]
        json.dump(
            {"images": len(table), "radius": radius, "min_similarity": least, "groups": shown}, sys.stdout, indent=2
        )
        print()
        return 0
    for number, group in enumerate(groups, start=1):
        print(f"group {number}: {len(group)} images")
        for member in group:
            similarity = "" if member.similarity is None else f"  {member.similarity:.3f}"
            copy = "  (exact copy)" if member.exact else ""
            print(f"{member.distance:>6}{similarity}  {one_line(table.metadata['name'][member.row])}{copy}")
        print()
    print(f"{len(groups):,} groups, {sum(map(len, groups)):,} of {len(table):,} images; nothing was deleted")
    return 0


def _as_json(table: "CodeTable", member: "Member") -> dict[str, Any]:
    similarity = {} if member.similarity is None else {"similarity": round(member.similarity, 6)}
    return {
        "id": int(table.ids[member.row]),
        "name": table.metadata["name"][member.row],
        "distance": member.distance,
        **similarity,
        "exact": member.exact,
    }


def _write(path: Path, table: "CodeTable", groups: "list[list[Member]]") -> None:
    rows = (
        (
            number,
            table.ids[member.row],
            table.metadata["name"][member.row],
            table.metadata["sha256"][member.row],
            member.distance,
            "" if member.similarity is None else f"{member.similarity:.6g}",
            int(member.exact),
        )
        for number, group in enumerate(groups, start=1)
        for member in group
    )
    write_csv(path, ("group", "id", "name", "sha256", "distance", "similarity", "exact_copy"), list(rows))
