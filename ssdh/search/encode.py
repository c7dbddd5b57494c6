"""Photos to packed codes, by a trained network's file alone: `python -m ssdh encode`.

    python -m ssdh encode photos --model models/hashnet.safetensors --out codes --features float16

Work is cut into the pipeline's blocks, so a photo's code is the one that the pipeline gives it, whatever else is
encoded, by however many processes; an interrupted run goes on where it stopped. Memory does not grow with the photos
but for their names. `codes/` then holds `codes.npy` (uint8 (N, ⌈K/8⌉)), `manifest.csv` (row, path, SHA-256),
`features.npy` where they are asked for, `skipped.csv` of files that are no images, and `encode.json`, written last.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.core.device import device_key
from ssdh.core.distributed import Rank, barrier, broadcast, shared_work
from ssdh.core.errors import DataError, one_line
from ssdh.core.files import write_csv
from ssdh.core.resume import fingerprint
from ssdh.datasets.verify import inspect_files
from ssdh.features.backbone import Backbone
from ssdh.features.blocks import compute_rows
from ssdh.features.extract import feature_kind
from ssdh.features.forward import image_blocks
from ssdh.features.image_files import check_there, is_text, list_images
from ssdh.features.images import FileImages
from ssdh.features.reuse import reusing
from ssdh.features.store import FeatureStore, evict, store_limit
from ssdh.hashing.encoder import Blocks, Encoder, described_backbone, feature_blocks, load_encoder, outputs_of
from ssdh.hashing.model_file import image_precision, read_metadata
from ssdh.hashing.network import HashNet
from ssdh.search.encoded_folder import MANIFEST, finish, open_out, take_apart, write_skipped
from ssdh.search.layout import FeatureKind, Layout, layout_of


@dataclass(frozen=True)
class Photos:
    """Image files below `root` that decode whole, by name and SHA-256, and those that do not, with the reason."""

    root: Path
    names: list[str]
    digests: list[str]
    skipped: list[tuple[str, str]]

    def write_manifest(self, path: Path) -> None:
        """Write (row, path, sha256) as `FileImages.from_manifest` reads it."""
        rows = zip(range(len(self.names)), self.names, self.digests, strict=True)
        write_csv(path, ("row", "path", "sha256"), rows)


@dataclass(frozen=True)
class Told:
    """What was said of files before, so that a folder that is watched is not told of the same again and again."""

    said: set[tuple[str, int]] = field(default_factory=set)

    def is_new(self, text: str, changed: int = 0) -> bool:
        """Whether this text was not said yet of a file that had changed at this time; it counts as said from now on."""
        new = (text, changed) not in self.said
        self.said.add((text, changed))
        return new


def find_files(inputs: Sequence[Path], exclude: Sequence[str] = (), told: Told | None = None) -> tuple[Path, list[str]]:
    """(root, names below it, sorted) of photos and of all image files in folders, by the rules of ingestion.

    exclude: patterns of files in the folders, as those of `list_images`; what is passed over there is counted and
    logged, but for what was `told`. Raises DataError where a path does not exist, there is no image file, or the root's
    name is one that no list can hold.
    """
    for path in inputs:
        check_there(path)
    folders = [path.resolve() if path.is_dir() else path.resolve().parent for path in inputs]
    root = Path(commonpath(folders))
    result: set[str] = set()
    for path in inputs:
        own, names = path.resolve(), [""]
        if path.is_dir():
            listing = list_images(own, exclude)
            names = listing.names
            message = f"{one_line(str(path))}: passed over {listing.passed_over()}"
            if listing.passed_over() and (told or Told()).is_new(message):
                logger.warning("{}", message)
        result.update((own / name).relative_to(root).as_posix() for name in names)
    if not result:
        raise DataError(f"{', '.join(map(str, inputs))} holds no image file")
    if not is_text(str(root)):
        raise DataError(f"{one_line(str(root))} is not in UTF-8: rename this folder")
    return root, sorted(result)


def inspect(root: Path, names: list[str], workers: int | None, told: Told | None = None) -> Photos:
    """Hash and decode every file once; what is bad is left out, and logged but for what was `told`.

    DataError where nothing is left.
    """
    inspections = inspect_files(root, names, workers)
    skipped = [(name, item.reason) for name, item in zip(names, inspections, strict=True) if item.reason]
    told = told or Told()
    new = [one for one in skipped if told.is_new(f"{root / one[0]}: {one[1]}", _changed(root / one[0]))]
    for name, reason in new[:10]:
        logger.warning("{} is left out: {}", one_line(str(root / name)), reason)
    if len(new) > 10:
        logger.warning("{:,} further files are left out", len(new) - 10)
    good = [(name, item.digest) for name, item in zip(names, inspections, strict=True) if not item.reason]
    if not good:
        name, reason = skipped[0]
        raise DataError(f"none of {len(names)} files is an image: {one_line(str(root / name))}: {reason}")
    return Photos(root, [name for name, _ in good], [digest for _, digest in good], skipped)


def _changed(path: Path) -> int:
    """When a file's content last changed, in nanoseconds; 0 where that cannot be read."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def encode_rows(
    manifest: Path,
    root: Path,
    model_path: Path,
    layout: Layout,
    out: Path,
    work: Path,
    rank: Rank,
    options: "EncodeOptions",
) -> None:
    """Rows of bytes (N, R) of the manifest's photos at `out`; continues what the folder `work` holds.

    Photos that were seen before do not go through the network again: their features are in the store.
    """
    encoder = load_encoder(model_path)
    source = FileImages.from_manifest(manifest, root)
    features_of = _stored_features_of(encoder, model_path, source, options)
    compute_rows(out, work, len(source), encoded_blocks(encoder.model, features_of, layout, options), rank)
    if rank.first:
        evict(store_limit())


def encoded_blocks(
    model: HashNet, features_of: Blocks, layout: Layout, options: "EncodeOptions"
) -> Callable[[Rows], Iterator[NDArray[np.uint8]]]:
    """Blocks of features (≤ BLOCK, D) as rows of bytes (≤ BLOCK, R)."""

    def blocks_of(rows: Rows) -> Iterator[NDArray[np.uint8]]:
        for features in features_of(rows):
            outputs = outputs_of(feature_blocks(model, features, options.device))(np.arange(len(features)))
            yield layout.rows(outputs if layout.kind == "none" else np.concatenate([outputs, features], axis=1))

    return blocks_of


def _stored_features_of(encoder: Encoder, model_path: Path, source: FileImages, options: "EncodeOptions") -> Blocks:
    """Features of photos by the encoder's network, from the store where they are there (a limit of 0: none are)."""
    metadata = read_metadata(model_path)
    network, precision = encoder.model.backbone, image_precision(metadata)
    assert network is not None
    computed = image_blocks(network, encoder.preprocessing, source, options.device, precision, options.workers)
    if store_limit() == 0:
        return computed
    params, images = described_backbone(model_path, metadata)
    backbone = Backbone(network, encoder.model.dim, params.layer, encoder.preprocessing)
    params = params.model_copy(update={"precision": precision})
    kind = feature_kind(backbone, params, images, source, options.device, deterministic=True)
    return reusing(FeatureStore(kind), source.digests(), computed)


@dataclass(frozen=True)
class EncodeOptions:
    """How photos are encoded: the device, and processes that decode."""

    device: torch.device
    workers: int

    def key(self, model_path: Path, manifest: Path, layout: Layout) -> str:
        """The name of unfinished work: the same photos, network, layout, device and code."""
        settings = {"layout": layout.kind} | device_key(self.device, True)
        return fingerprint([model_path, manifest], settings)


# --- into a folder --------------------------------------------------------------------------------------------------


def encode_photos(
    inputs: Sequence[Path],
    model_path: Path,
    out: Path,
    kind: FeatureKind,
    rank: Rank,
    options: EncodeOptions,
    exclude: Sequence[str] = (),
) -> dict[str, Any]:
    """Encode photos into the folder `out`; returns the content of its `encode.json`.

    inputs, exclude: as of `find_files`. Raises DataError where `out` holds other things, a photo or the model cannot be
    read, or no photo is left.
    """
    layout = layout_of(model_path, kind)
    manifest = out / MANIFEST
    root, skipped = Path(), []
    if rank.first:
        open_out(out)
        photos = inspect(*find_files(inputs, exclude), options.workers or None)
        photos.write_manifest(manifest)
        root, skipped = photos.root, photos.skipped
    root = broadcast(root, rank)
    with shared_work(rank, lambda: options.key(model_path, manifest, layout)) as work:
        encode_rows(manifest, root, model_path, layout, work / "rows.npy", work, rank, options)
        if rank.first:
            take_apart(work / "rows.npy", out, layout)
    about: dict[str, Any] = {"root": str(root), "skipped": len(skipped)}
    if rank.first:
        write_skipped(out, skipped)
        about = finish(out, about, layout, model_path)
    barrier(rank)
    return about
