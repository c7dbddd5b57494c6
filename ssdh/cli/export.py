"""`python -m ssdh export FOLDER`: codes, names, index and network as files that other software reads."""

import argparse
from pathlib import Path

from ssdh.cli.arguments import add_index
from ssdh.search.export_folder import open_folder


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("export", help="codes, index and network for other software", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("export"), metavar="FOLDER", help="default: export"
    )
    parser.add_argument("--no-onnx", action="store_true", help="leave out model.onnx")
    add_index(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the files and list them with their sizes; a folder that cannot take them is refused first."""
    open_folder(options.folder)
    from ssdh.search.export import export
    from ssdh.search.finished_run import MODEL, open_index, sample_images

    index = open_index(options.index)
    images = None if options.no_onnx else sample_images(8)
    for path in export(options.folder, MODEL, index, images, onnx=not options.no_onnx):
        print(f"{path.stat().st_size / 2**20:>10.2f} MiB  {path}")
    return 0
