"""Photos or embeddings to packed codes, by a trained network's file alone: `python -m ssdh encode`.

    python -m ssdh encode photos --model models/hashnet.safetensors --out codes --features float16

Work is cut into the pipeline's blocks, so a photo's code is the one that the pipeline gives it, whatever else is
encoded, by however many processes; an interrupted run goes on where it stopped. Memory does not grow with the photos
but for their names. `codes/` then holds `codes.npy` (uint8 (N, ⌈K/8⌉)), `manifest.csv` (row, path, SHA-256),
`features.npy` where they are asked for, `skipped.csv` of files that are no images, and `encode.json`, written last.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.device import device_key
from ssdh.core.distributed import Rank, barrier, broadcast, shared_work
from ssdh.core.errors import DataError, one_line
from ssdh.core.files import atomic_path, file_sha256, read_array, write_csv, write_json
from ssdh.core.resume import fingerprint
from ssdh.datasets.verify import inspect_files
from ssdh.features.backbone import Backbone
from ssdh.features.blocks import compute_rows
from ssdh.features.extract import feature_kind
from ssdh.features.forward import image_blocks
from ssdh.features.image_files import image_files, is_text
from ssdh.features.images import FileImages, Rows
from ssdh.features.reuse import reusing
from ssdh.features.store import FeatureStore, evict, store_limit
from ssdh.hashing.codes import pack, sign_codes, width
from ssdh.hashing.encoder import (
    Blocks,
    Encoder,
    described_backbone,
    feature_blocks,
    load_encoder,
    outputs_of,
    packed,
)
from ssdh.hashing.model_file import image_precision, load_hashnet, read_metadata
from ssdh.hashing.network import HashNet

FeatureKind = Literal["none", "float16", "int8"]

KINDS: tuple[FeatureKind, ...] = get_args(FeatureKind)

ABOUT, MANIFEST = "encode.json", "manifest.csv"

COPY_ROWS = 1 << 16  # rows in memory at once where finished arrays are copied


@dataclass(frozen=True)
class Photos:
    """Image files below `root` that decode whole, by name and SHA-256, and those that do not, with the reason."""

    root: Path
    names: list[str]
    digests: list[str]
    skipped: list[tuple[str, str]]

    def write_manifest(self, path: Path) -> None:
        """Write (row, path, sha256) as `FileImages` reads it."""
        rows = zip(range(len(self.names)), self.names, self.digests, strict=True)
        write_csv(path, ("row", "path", "sha256"), rows)


def find_files(inputs: Sequence[Path]) -> tuple[Path, list[str]]:
    """(root, names below it, sorted) of photos and of all image files in folders; hidden ones are left out.

    Raises DataError where a path does not exist, there is no image file, or a name is one that no list can hold.
    """
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path} does not exist: give photos or folders of photos")
    folders = [path.resolve() if path.is_dir() else path.resolve().parent for path in inputs]
    root = Path(commonpath(folders))
    found: set[str] = set()
    for path in inputs:
        own = path.resolve()
        files = (own / name for name in image_files(own)) if path.is_dir() else [own]
        found.update(file.relative_to(root).as_posix() for file in files)
    if not found:
        raise DataError(f"{', '.join(map(str, inputs))} holds no image file")
    if unnamed := sorted(name for name in found if not is_text(f"{root}/{name}")):
        raise DataError(f"{len(unnamed)} file names are not in UTF-8 ({one_line(f'{root}/{unnamed[0]}')}): rename them")
    return root, sorted(found)


def inspect(root: Path, names: list[str], workers: int | None) -> Photos:
    """Hash and decode every file once; what is bad is logged and left out. DataError where nothing is left."""
    inspections = inspect_files(root, names, workers)
    skipped = [(name, item.reason) for name, item in zip(names, inspections, strict=True) if item.reason]
    for name, reason in skipped[:10]:
        logger.warning("{} is left out: {}", one_line(str(root / name)), reason)
    if len(skipped) > 10:
        logger.warning("{:,} further files are left out", len(skipped) - 10)
    good = [(name, item.digest) for name, item in zip(names, inspections, strict=True) if not item.reason]
    if not good:
        raise DataError(f"none of {len(names)} files is an image: {root / skipped[0][0]}: {skipped[0][1]}")
    return Photos(root, [name for name, _ in good], [digest for _, digest in good], skipped)


# --- rows: a code and, where they are kept, features, as bytes ------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How a row of bytes is laid out: a packed code, then `dim` values of the features' kind."""

    bits: int
    dim: int
    kind: FeatureKind

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The features' type; None where none are kept."""
        return None if self.kind == "none" else np.dtype(self.kind)

    def rows(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(n, K + D) outputs and features, or (n, K) outputs, to bytes (n, R)."""
        codes = pack(sign_codes(values[:, : self.bits]))
        if self.kind == "none":
            return codes
        features = stored_features(values[:, self.bits :], self.kind)
        return np.concatenate([codes, features.view(np.uint8)], axis=1)

    def codes(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The packed codes (n, ⌈K/8⌉) of rows."""
        return np.ascontiguousarray(rows[:, : width(self.bits)])

    def features(self, rows: NDArray[np.uint8]) -> NDArray[Any]:
        """The features (n, D) of rows."""
        assert self.dtype is not None
        return np.ascontiguousarray(rows[:, width(self.bits) :]).view(self.dtype)


def stored_features(features: NDArray[np.float32], kind: FeatureKind) -> NDArray[Any]:
    """Features (n, D) as they are kept: directions alone, since only cosines are asked of them.

    float16: at unit length. int8: each row times 127 over its largest absolute value, rounded.

    >>> stored_features(np.array([[3, -4]], np.float32), "float16").tolist()
    [[0.60009765625, -0.7998046875]]
    >>> stored_features(np.array([[2, -4]], np.float32), "int8").tolist()
    [[64, -127]]
    """
    if kind == "int8":
        largest = np.abs(features).max(axis=1, keepdims=True)
        return np.rint(features * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(length > 0, length, 1)).astype(np.float16)


def layout_of(model_path: Path, kind: FeatureKind) -> Layout:
    """The layout of a model's rows; DataError where the file is no model."""
    model = load_hashnet(model_path)
    return Layout(model.bits, model.dim, kind)


def encode_rows(
    manifest: Path, root: Path, model_path: Path, layout: Layout, out: Path, work: Path, rank: Rank, how: "How"
) -> None:
    """Rows of bytes (N, R) of the manifest's photos at `out`; continues what the folder `work` holds.

    Photos that were seen before do not go through the network again: their features are in the store.
    """
    encoder = load_encoder(model_path)
    source = FileImages(manifest, root)
    features_of = _stored_features_of(encoder, model_path, source, how)

    def blocks_of(rows: Rows) -> Iterator[NDArray[np.uint8]]:
        for features in features_of(rows):
            outputs = outputs_of(feature_blocks(encoder.model, features, how.device))(np.arange(len(features)))
            yield layout.rows(outputs if layout.kind == "none" else np.concatenate([outputs, features], axis=1))

    compute_rows(out, work, len(source), blocks_of, rank)
    if rank.first:
        evict(store_limit())


def _stored_features_of(encoder: Encoder, model_path: Path, source: FileImages, how: "How") -> Blocks:
    """Features of photos by the encoder's network, from the store where they are there (a limit of 0: none are)."""
    metadata = read_metadata(model_path)
    network, precision = encoder.model.backbone, image_precision(metadata)
    assert network is not None
    computed = image_blocks(network, encoder.preprocessing, source, how.device, precision, how.workers)
    if store_limit() == 0:
        return computed
    params, images = described_backbone(model_path, metadata)
    backbone = Backbone(network, encoder.model.dim, params.layer, encoder.preprocessing)
    params = params.model_copy(update={"precision": precision})
    kind = feature_kind(backbone, params, images, source, how.device, deterministic=True)
    return reusing(FeatureStore(kind), source.digests(), computed)


@dataclass(frozen=True)
class How:
    """How the work is done: the device, and processes that decode."""

    device: torch.device
    workers: int

    def key(self, model_path: Path, manifest: Path, layout: Layout) -> str:
        """The name of unfinished work: the same photos, network, layout, device and code."""
        settings = {"layout": layout.kind} | device_key(self.device, True)
        return fingerprint([model_path, manifest], settings)


# --- into a folder --------------------------------------------------------------------------------------------------


def encode_photos(
    inputs: Sequence[Path], model_path: Path, out: Path, kind: FeatureKind, rank: Rank, how: How
) -> dict[str, Any]:
    """Encode photos into the folder `out`; returns the content of its `encode.json`.

    Raises DataError where `out` holds other things, a photo or the model cannot be read, or no photo is left.
    """
    layout = layout_of(model_path, kind)
    manifest = out / MANIFEST
    root, skipped = Path(), []
    if rank.first:
        _open_out(out)
        photos = inspect(*find_files(inputs), how.workers or None)
        photos.write_manifest(manifest)
        root, skipped = photos.root, photos.skipped
    root = broadcast(root, rank)
    with shared_work(rank, lambda: how.key(model_path, manifest, layout)) as work:
        encode_rows(manifest, root, model_path, layout, work / "rows.npy", work, rank, how)
        if rank.first:
            _take_apart(work / "rows.npy", out, layout)
    about: dict[str, Any] = {"root": str(root), "skipped": len(skipped)}
    if rank.first:
        _write_skipped(out, skipped)
        about = _finish(out, about, layout, model_path)
    barrier(rank)
    return about


def encode_embeddings(
    path: Path, model_path: Path, out: Path, kind: FeatureKind, rank: Rank, how: How
) -> dict[str, Any]:
    """Encode the rows of a `.npy` (N, D) into the folder `out`; returns the content of its `encode.json`."""
    model = load_hashnet(model_path)
    features = read_array(path)
    layout = Layout(model.bits, model.dim, kind)
    if features.ndim != 2 or features.shape[1] != layout.dim or features.dtype.kind != "f":
        raise DataError(f"{path} holds {features.dtype} {features.shape}, {model_path} takes floats (N, {layout.dim})")
    if rank.first:
        _open_out(out)
    barrier(rank)
    with shared_work(rank, lambda: how.key(model_path, path, layout)) as work:
        compute_rows(out / "codes.npy", work, len(features), packed(_checked(model, features, path, how)), rank)
    about: dict[str, Any] = {"root": str(path), "skipped": 0}
    if rank.first:
        digests = (hashlib.sha256(np.ascontiguousarray(row).data).hexdigest() for row in features)
        write_csv(out / MANIFEST, ("row", "path", "sha256"), ((i, str(i), text) for i, text in enumerate(digests)))
        if kind != "none":
            parts = (stored_features(np.asarray(part, np.float32), kind) for part in _parts(features))
            _write_parts(out / "features.npy", parts, (len(features), layout.dim), layout.dtype)
        _write_skipped(out, [])
        about = _finish(out, about, layout, model_path)
    barrier(rank)
    return about


def _checked(model: HashNet, features: NDArray[Any], path: Path, how: How) -> Blocks:
    outputs = feature_blocks(model, features, how.device)

    def blocks_of(rows: Rows) -> Iterator[NDArray[np.float32]]:
        start = 0
        for block in outputs(rows):
            if np.isnan(block).any():
                row = int(rows[start + int(np.flatnonzero(np.isnan(block).any(axis=1))[0])])
                raise DataError(f"{path}: row {row} is not finite: repair it or leave it out")
            start += len(block)
            yield block

    return blocks_of


def _open_out(out: Path) -> None:
    """Make the folder; DataError where it is none or holds other things than an `encode` wrote."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name a new or empty folder (--out)")
    if out.is_dir():
        own = {MANIFEST, ABOUT, "codes.npy", "features.npy", "skipped.csv"}
        others = [path.name for path in out.iterdir() if path.name not in own and ".tmp" not in path.name]
        if others:
            raise DataError(f"{out} holds other things ({others[0]}): name a new or empty folder (--out)")
    (out / ABOUT).unlink(missing_ok=True)


def _finish(out: Path, about: dict[str, Any], layout: Layout, model_path: Path) -> dict[str, Any]:
    if layout.kind == "none":
        (out / "features.npy").unlink(missing_ok=True)
    about = {
        "bits": layout.bits,
        "images": len(read_array(out / "codes.npy")),
        "features": layout.kind,
        "model_sha256": file_sha256(model_path),
        **about,
    }
    write_json(out / ABOUT, about)
    return about


def _write_skipped(out: Path, skipped: Sequence[tuple[str, str]]) -> None:
    if skipped:
        write_csv(out / "skipped.csv", ("path", "reason"), skipped)
    else:
        (out / "skipped.csv").unlink(missing_ok=True)


def _take_apart(path: Path, out: Path, layout: Layout) -> None:
    rows = read_array(path)
    _write_parts(
        out / "codes.npy", map(layout.codes, _parts(rows)), (len(rows), width(layout.bits)), np.dtype(np.uint8)
    )
    if layout.dtype is not None:
        _write_parts(out / "features.npy", map(layout.features, _parts(rows)), (len(rows), layout.dim), layout.dtype)


def _parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (np.asarray(array[start : start + COPY_ROWS]) for start in range(0, len(array), COPY_ROWS))


def _write_parts(
    path: Path, parts: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any] | None
) -> None:
    """Write one array of rows that come in parts."""
    assert dtype is not None
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).data)
