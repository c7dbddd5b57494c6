"""`python -m ssdh search PHOTO|FOLDER`: the images of the data set that are nearest to a photo.

Of embeddings: `search FILE|NAME|NUMBER`, the rows nearest to those of a file, or to one of the run, by its name or row
number, or of the collection, by its name or id.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from ssdh.cli.arguments import add_bits, add_collection, add_index, model_of, positive, whole
from ssdh.core.errors import DataError, ParameterError, one_line


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("search", help="the images nearest to a photo", description=__doc__)
    parser.add_argument(
        "query",
        nargs="?",
        metavar="PHOTO",
        help="an image file, or a folder of them; of embeddings a file of them (.npy, …), a name, a row number or, "
        "in a collection, an id",
    )
    parser.add_argument("--text", metavar="WORDS", help="in place of a photo, where the network has a text tower")
    parser.add_argument(
        "--top", type=positive, metavar="N", help="so many results at most (default: 20, with --radius all within it)"
    )
    parser.add_argument("--radius", type=whole, metavar="R", help="only images whose code differs in at most R bits")
    parser.add_argument(
        "--rerank",
        type=whole,
        default=0,
        metavar="R",
        help="order the R nearest by code by their features' cosine (default: 0, by code alone)",
    )
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object on standard output")
    add_bits(parser)
    add_collection(parser)
    add_index(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Encode the queries, search, print; returns 0, or raises DataError where none could be read."""
    from ssdh.hashing.model_file import read_metadata, takes_embeddings

    if (options.query is None) == (options.text is None):
        raise ParameterError("give a PHOTO, or --text WORDS")
    model = model_of(options.collection)
    if options.bits is not None:
        from ssdh.search.nested import check_length

        check_length(model, options.bits)
    skipped: list[tuple[Path, str]] = []
    if options.text is not None:
        index, queries = _search_text(options, model)
    elif takes_embeddings(read_metadata(model)):
        index, queries = _search_embeddings(options)
    else:
        index, queries = _search_photos(options, skipped)
    for path, reason in skipped:
        logger.warning("{} is left out: {}", one_line(str(path)), reason)
    if options.json:
        left_out = [{"photo": str(path), "reason": reason} for path, reason in skipped]
        answer = {
            "bits": index.bits,
            "index": index.kind,
            "rerank": options.rerank,
            "images": len(index),
            "queries": queries,
            "skipped": left_out,
        }
        json.dump(answer, sys.stdout, indent=2)
        print()
    else:
        print("\n\n".join(_as_text(query) for query in queries))
    return 0


def _search_embeddings(options: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    """(index, answers) of the rows that the query names in the run or the collection."""
    from ssdh.core.device import select_device
    from ssdh.hashing.model_file import load_hashnet
    from ssdh.search.embedding_queries import find_queries
    from ssdh.search.searchable import open_searchable

    opened = open_searchable(options.collection)
    index, network = _index(options, opened.open_index, features=True), load_hashnet(model_of(options.collection))
    names, encoded = find_queries(options.query, opened.find_row, index, network, select_device("auto"))
    encoded = _queries(options, encoded)
    result = _search(index, encoded, options, _ids(options, opened))
    return index, [
        {"query": name, "code": code.tobytes().hex(), "results": results}
        for name, code, results in zip(names, encoded.packed, result, strict=True)
    ]


def _search_photos(options: argparse.Namespace, skipped: list[tuple[Path, str]]) -> tuple[Any, list[dict[str, Any]]]:
    """(index, answers) of the photos; what cannot be read goes to `skipped`, DataError where nothing can."""
    from ssdh.search.photos import find_photos, read_photos
    from ssdh.search.searchable import open_searchable

    paths = find_photos(Path(options.query))
    opened = open_searchable(options.collection)
    index, encoder = _index(options, opened.open_index, features=options.rerank > 0), opened.open_encoder()
    ids = _ids(options, opened)
    queries: list[dict[str, Any]] = []
    for batch in read_photos(paths, encoder.min_side, skipped):
        encoded = _queries(options, encoder([pixels for _, pixels in batch]))
        result = _search(index, encoded, options, ids)
        queries += [
            {"photo": str(path), "code": code.tobytes().hex(), "results": results}
            for (path, _), code, results in zip(batch, encoded.packed, result, strict=True)
        ]
    if not queries:
        raise DataError("\n".join(f"{one_line(str(path))}: {reason}" for path, reason in skipped))
    return index, queries


def _search_text(options: argparse.Namespace, model: Path) -> tuple[Any, list[dict[str, Any]]]:
    """(index, the one answer) of the text."""
    from ssdh.search.searchable import open_searchable
    from ssdh.search.texts import text_encoder

    encode = text_encoder(model)
    opened = open_searchable(options.collection)
    index = _index(options, opened.open_index, features=options.rerank > 0)
    encoded = _queries(options, encode([options.text]))
    (results,) = _search(index, encoded, options, _ids(options, opened))
    return index, [{"text": options.text, "code": encoded.packed[0].tobytes().hex(), "results": results}]


def _ids(options: argparse.Namespace, opened: Any) -> Any:
    """The ids of the rows of a collection; None for a run."""
    return None if options.collection is None else opened.open_table().ids


def _index(options: argparse.Namespace, open_index: Callable[..., Any], *, features: bool) -> Any:
    """The index of all bits, or of the first `--bits`."""
    if options.bits is None:
        return open_index(options.index, features=features)
    from ssdh.search.nested import shorter_index

    return shorter_index(open_index("flat", features=features), options.bits, options.index)


def _queries(options: argparse.Namespace, encoded: Any) -> Any:
    """Encoded queries, or their first `--bits`."""
    if options.bits is None:
        return encoded
    from ssdh.search.nested import shorter_queries

    return shorter_queries(encoded, options.bits)


def _search(index: Any, encoded: Any, options: argparse.Namespace, ids: Any = None) -> list[list[dict[str, Any]]]:
    """The results of each of the encoded queries; ids: of the rows, where they have some."""
    from ssdh.hashing.rerank import cosines

    top = options.top or 20
    if options.top is None and options.radius is not None:
        top = max(1, int(index.histogram(encoded.packed)[:, : options.radius + 1].sum(axis=1).max()))
    matches = index.search(
        encoded.packed, top, options.radius,
        rerank=options.rerank, query_features=encoded.features, query_outputs=encoded.outputs,
    )  # fmt: skip
    answers = []
    for own, distances, rows in zip(encoded.features, *matches, strict=True):
        there = rows[rows >= 0]
        results = [
            {"distance": int(distance), "row": int(row), "name": index.names[row]}
            | ({} if ids is None else {"id": ids[row]})
            for distance, row in zip(distances, there, strict=False)
        ]
        if options.rerank and index.features is not None:
            for result, cosine in zip(results, cosines(own, index.features[there]), strict=True):
                result["similarity"] = float(cosine)
        answers.append(results)
    return answers


def _as_text(query: dict[str, Any]) -> str:
    lines = [one_line(query.get("photo") or query.get("text") or query["query"])]
    for result in query["results"]:
        similarity = f"{result['similarity']:8.4f}" if "similarity" in result else ""
        number = f"{result['id']:>10}" if "id" in result else ""
        lines.append(f"{result['distance']:>6}{similarity}{number}  {one_line(result['name'])}")
    return "\n".join(lines if query["results"] else [*lines, "        no image within this radius"])
