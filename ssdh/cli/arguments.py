"""Options that several subcommands share, and the types of their values."""

import argparse


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add `--index`; the kinds are those of `ssdh.search.KINDS`, which imports faiss."""
    parser.add_argument(
        "--index",
        choices=("flat", "hnsw", "hash"),
        default="flat",
        help="flat is exact (default); hnsw (a graph) and hash (buckets) are approximate",
    )


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1, got 0")
    return value


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)
