"""Rows of embeddings to packed codes, from a file or folder in any format that `dataset=embeddings` reads, with names.

    about = encode_embeddings(Path("clip.npz"), Path("hashnet.safetensors"), Path("codes"), "none", rank, options)

Memory does not grow with the rows but for their names and digests.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.core.distributed import Rank, barrier, shared_work
from ssdh.core.errors import DataError
from ssdh.core.files import read_array, write_csv
from ssdh.datasets.embeddings import names_inside, row_numbers, scan
from ssdh.features.blocks import compute_rows
from ssdh.features.embeddings import FORMATS, REASONS, Embeddings, open_embeddings, pass_on
from ssdh.features.forward import BLOCK
from ssdh.hashing.model_file import load_hashnet, read_metadata, takes_embeddings
from ssdh.search.encode import EncodeOptions, encoded_blocks
from ssdh.search.encoded_folder import MANIFEST, finish, open_out, take_apart, write_skipped
from ssdh.search.layout import FeatureKind, Layout, layout_of

Take = Callable[[Rows], NDArray[Any]]  # numbers of rows to the rows (n, D), of any number type


def embeddings_among(inputs: list[Path], model_path: Path) -> Path | None:
    """The file or folder of embeddings that the inputs are; None: they are photos.

    Raises DataError where there is more beside it.
    """
    files = [path for path in inputs if path.suffix.lower() in FORMATS]
    embeddings = inputs if takes_embeddings(read_metadata(model_path)) else files
    if embeddings and len(inputs) > 1:
        raise DataError(f"{embeddings[0]} must be encoded alone: give one file or folder of embeddings, or photos")
    return embeddings[0] if embeddings else None


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings of which every row can be used. names: those that the file holds, or None; digests: SHA-256 by row."""

    path: Path
    embeddings: Embeddings
    names: list[str] | None
    digests: list[str]

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def numbers(self) -> list[str]:
        """The numbers of the rows, which name them where nothing else does."""
        return row_numbers(self.embeddings)

    def as_array(self, work: Path) -> Path:
        """A `.npy` of the rows: the file itself, or a copy in the folder `work`."""
        if self.path.suffix.lower() == ".npy":
            return self.path
        copy = work / "embeddings.npy"
        if not copy.exists():
            digests = np.frombuffer(bytes.fromhex("".join(self.digests)), np.uint8).reshape(-1, 32)
            pass_on(copy, self.embeddings, digests)
        return copy

    def taking(self, work: Path) -> Take:
        """What gives rows by their numbers; mapped anew each time: a standing map would count all that it ever read."""
        array = self.as_array(work)
        return lambda rows: read_array(array)[rows]


def open_file(path: Path, model_path: Path, layout: Layout) -> EmbeddingFile:
    """Look at every row; DataError where one is bad, or where they are not those that the model takes."""
    embeddings = open_embeddings(path)
    if embeddings.shape[1] != layout.dim:
        raise DataError(f"{path} has {embeddings.shape[1]} values a row, {model_path} takes {layout.dim}")
    result = scan(embeddings)
    if result.fault.any():
        row = int(np.flatnonzero(result.fault)[0])
        raise DataError(f"{path}: row {row} {REASONS[result.fault[row]]}: repair it or leave it out")
    return EmbeddingFile(path, embeddings, names_inside(path, embeddings), result.digests)


def encode_array(
    take: Take,
    which: Rows,
    model_path: Path,
    layout: Layout,
    out: Path,
    work: Path,
    rank: Rank,
    options: EncodeOptions,
) -> None:
    """Rows of bytes (n, R) of some rows of embeddings at `out`; continues what the folder `work` holds."""

    def features_of(rows: Rows) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(rows), BLOCK):
            yield np.array(take(which[rows[start : start + BLOCK]]), np.float32)

    compute_rows(out, work, len(which), encoded_blocks(load_hashnet(model_path), features_of, layout, options), rank)


def encode_embeddings(
    path: Path, model_path: Path, out: Path, kind: FeatureKind, rank: Rank, options: EncodeOptions
) -> dict[str, Any]:
    """Encode the rows of a file or folder into the folder `out`; returns the content of its `encode.json`."""
    layout = layout_of(model_path, kind)
    file = open_file(path, model_path, layout)
    if rank.first:
        open_out(out)
    barrier(rank)
    with shared_work(rank, lambda: options.key(model_path, path, layout)) as work:
        if rank.first:
            file.as_array(work)
        barrier(rank)
        rows = work / "rows.npy"
        encode_array(file.taking(work), np.arange(len(file)), model_path, layout, rows, work, rank, options)
        if rank.first:
            take_apart(rows, out, layout)
    about: dict[str, Any] = {"root": str(path), "skipped": 0}
    if rank.first:
        write_csv(
            out / MANIFEST,
            ("row", "path", "sha256"),
            zip(range(len(file)), file.names or file.numbers, file.digests, strict=True),
        )
        write_skipped(out, [])
        about = finish(out, about, layout, model_path)
    barrier(rank)
    return about
