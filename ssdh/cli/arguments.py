"""Options that several subcommands share, and the types of their values."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add `--index`; the kinds are those of `ssdh.search.index.KINDS`, which imports faiss."""
    parser.add_argument(
        "--index",
        choices=("flat", "hnsw", "hash"),
        default="flat",
        help="flat is exact (default); hnsw (a graph) and hash (buckets) are approximate",
    )


def add_collection(parser: argparse.ArgumentParser) -> None:
    """Add `--collection`."""
    parser.add_argument(
        "--collection", type=Path, metavar="FOLDER", help="a collection, in place of the run in this folder"
    )


def add_bits(parser: argparse.ArgumentParser) -> None:
    """Add `--bits`."""
    parser.add_argument(
        "--bits",
        type=positive,
        metavar="K",
        help="the first K bits of each code alone, a length that train.nested named (default: all)",
    )


def model_of(collection: Path | None) -> Path:
    """The model file of a collection, or of the run in this folder."""
    from ssdh.search.collection import MODEL as COLLECTION_MODEL
    from ssdh.search.finished_run import MODEL

    return MODEL if collection is None else collection / COLLECTION_MODEL


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _at_least(1, text)


def whole(text: str) -> int:
    """A whole number of at least 0."""
    return _at_least(0, text)


def positives(text: str) -> list[int]:
    """Whole numbers of at least 1 with commas between them, each once."""
    return _each(text, positive)


def wholes(text: str) -> list[int]:
    """Whole numbers of at least 0 with commas between them, each once."""
    return _each(text, whole)


def words(text: str) -> list[str]:
    """Words with commas between them, each once."""
    return _each(text, str)


def hours(text: str) -> float:
    """A number of hours, at least 0; `inf` has no limit."""
    return _number(text, "hours")


def gibibytes(text: str) -> float:
    """A number of GiB, at least 0."""
    return _number(text, "GiB")


def _number(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be a number of {unit} of at least 0, got {text!r}")
    return value


def _at_least(least: int, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
    return int(text)


def _each(text: str, kind: Callable[[str], T]) -> list[T]:
    """The parts between commas, in their order; an error where there is none."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise argparse.ArgumentTypeError(f"must name at least one, got {text!r}")
    return list(dict.fromkeys(map(kind, parts)))
