"""`python -m ssdh export FOLDER`: codes, names, index and network as files that other software reads.

`--to ENGINE` writes the codes, with ids and names, as that engine loads them, in place of all that.
"""

import argparse
from pathlib import Path

from ssdh.cli.arguments import add_bits, add_collection, add_index, model_of
from ssdh.core.errors import ParameterError
from ssdh.search.engines import ENGINES, SERVERS
from ssdh.search.export_folder import open_folder


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("export", help="codes, index and network for other software", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("export"), metavar="FOLDER", help="default: export"
    )
    parser.add_argument("--no-onnx", action="store_true", help="leave out model.onnx")
    parser.add_argument("--to", choices=ENGINES, metavar="ENGINE", help=f"codes alone, for {', '.join(ENGINES)}")
    parser.add_argument(
        "--uri", metavar="URI", help=f"with --to {' or '.join(SERVERS)}: load the codes into this server, write nothing"
    )
    add_bits(parser)
    add_collection(parser)
    add_index(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the files and list them with their sizes; a folder that cannot take them is refused first."""
    if options.to is None and options.uri is not None:
        raise ParameterError("--uri says where a server is: name the engine with --to")
    if options.uri is None:
        open_folder(options.folder)
    return _all_files(options) if options.to is None else _for_engine(options)


def _all_files(options: argparse.Namespace) -> int:
    from ssdh.search.export import export
    from ssdh.search.finished_run import sample_inputs
    from ssdh.search.nested import check_length, shorter_index
    from ssdh.search.searchable import open_searchable

    model = model_of(options.collection)
    if options.bits is None:
        index = open_searchable(options.collection).open_index(options.index)
    else:
        check_length(model, options.bits)
        index = shorter_index(open_searchable(options.collection).open_index(), options.bits, options.index)
    inputs = None if options.no_onnx or options.collection else sample_inputs(8)
    _list(export(options.folder, model, index, inputs, onnx=not options.no_onnx))
    return 0


def _for_engine(options: argparse.Namespace) -> int:
    from ssdh.search.export_engine import check_uri, export_to
    from ssdh.search.nested import check_length, shorter_table
    from ssdh.search.searchable import open_searchable

    check_uri(options.to, options.uri)
    if options.bits is not None:
        check_length(model_of(options.collection), options.bits)
    table = open_searchable(options.collection).open_table()
    if options.bits is not None:
        table = shorter_table(table, options.bits)
    _list(export_to(options.to, options.folder, table, options.uri))
    if options.uri is not None:
        print(f"{len(table):,} codes are in the collection `codes` at {options.uri}")
    return 0


def _list(paths: list[Path]) -> None:
    for path in paths:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        print(f"{sum(file.stat().st_size for file in files) / 2**20:>10.2f} MiB  {path}")
