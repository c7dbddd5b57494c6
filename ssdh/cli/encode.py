"""`python -m ssdh encode PHOTOS… --model FILE --out FOLDER`: codes of photos or embeddings by a trained network alone.

Resumable, by several processes (`--processes`, or under torchrun), a million images without holding them in memory.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ssdh.cli.arguments import positive, whole
from ssdh.core.errors import ParameterError
from ssdh.core.files import check_writable, missing_result

if TYPE_CHECKING:
    from ssdh.search.encode import EncodeOptions

FEATURES = ("none", "float16", "int8")  # `ssdh.search.layout.KINDS`, which imports torch


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("encode", help="codes of any photos or embeddings", description=__doc__)
    add_inputs(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where codes.npy is to be written")
    parser.add_argument(
        "--features",
        choices=FEATURES,
        default="none",
        help="also write features.npy, as float16 or int8 (default: none)",
    )
    add_exclude(parser)
    add_encode_options(parser)
    parser.add_argument("--processes", type=positive, default=None, help="processes that share the photos (default: 1)")
    parser.set_defaults(run=run)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add what is encoded, and `--model`."""
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="PHOTOS",
        help="photos and folders of them, or one file or folder of embeddings",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("models/hashnet.safetensors"),
        metavar="FILE",
        help="the trained network (default: models/hashnet.safetensors)",
    )


def add_exclude(parser: argparse.ArgumentParser) -> None:
    """Add `--exclude`."""
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files in folders whose path there, or name, fits, such as '*_small.jpg'; may be repeated",
    )


def add_encode_options(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--workers`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--workers", type=whole, default=None, help="processes that decode (default: one a core)")


def run(options: argparse.Namespace) -> int:
    """Encode; rank 0 says where the codes are."""
    from ssdh.core.distributed import process_group, relaunch

    if not options.model.exists():
        raise missing_result(options.model)
    check_writable(options.out / "codes.npy")
    if relaunch("ssdh", options.processes, options.arguments):
        return 0
    from ssdh.search.encode import encode_photos
    from ssdh.search.encode_embeddings import embeddings_among, encode_embeddings

    encode_options = encode_options_of(options)
    embeddings = embeddings_among(options.inputs, options.model)
    with process_group(encode_options.device) as rank:
        if embeddings is not None:
            about = encode_embeddings(embeddings, options.model, options.out, options.features, rank, encode_options)
        else:
            about = encode_photos(
                options.inputs, options.model, options.out, options.features, rank, encode_options, options.exclude
            )
        if rank.first:
            print(f"{options.out / 'codes.npy'}: {about['images']:,} codes of {about['bits']} bits")
    return 0


def encode_options_of(options: argparse.Namespace) -> "EncodeOptions":
    """Device and decoding processes by the options; ParameterError where there is no such device."""
    from ssdh.core.device import use_device
    from ssdh.core.runtime import RuntimeParams
    from ssdh.search.encode import EncodeOptions

    try:
        RuntimeParams._is_a_device(options.device)
    except ValueError as error:
        raise ParameterError(f"--device {error}, got {options.device!r}") from None
    runtime = RuntimeParams(
        device=options.device, workers=options.workers, processes=None, deterministic=True, log_level="INFO"
    )
    return EncodeOptions(use_device(options.device, deterministic=True), runtime.num_workers)
