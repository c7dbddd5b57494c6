"""Features of images by a frozen network: what the store has seen before is taken from it, the rest computed.

Computed blocks go into the store as they are finished, so it is also what an interrupted run continues from.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from loguru import logger
from torch import nn

from ssdh.core.arrays import Array, Rows
from ssdh.core.device import device_key
from ssdh.core.distributed import Rank, barrier, broadcast
from ssdh.core.files import file_sha256, write_parts
from ssdh.features.backbone import Backbone
from ssdh.features.blocks import write_beside
from ssdh.features.families.registry import find
from ssdh.features.forward import BLOCK
from ssdh.features.images import ArrayImages, ImageSource
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.features.store import BlockGoneError, Digests, FeatureStore, Kept, evict, missing, store_limit

# the code that turns an image's bytes into a row: another version of it may round otherwise
CODE = (
    *("core/device", "features/backbone", "features/families/base"),
    *("features/decode", "features/forward", "features/loader"),
)

READ = 1024  # rows that are copied at once


@dataclass(frozen=True)
class Pass:
    """One row for each image: `blocks_of(rows)` yields arrays (≤ BLOCK, D) that cover the rows asked for, in order."""

    store: FeatureStore
    blocks_of: Callable[[Rows], Iterator[Array]]


def feature_kind(
    backbone: Backbone,
    params: BackboneParams,
    images: ImageParams,
    source: ImageSource,
    device: torch.device,
    *,
    deterministic: bool,
) -> dict[str, Any]:
    """All that the bits of a feature depend on beside the image itself."""
    import torchvision

    family, _ = find(params.arch)
    return {
        "arch": params.arch,
        "layer": backbone.layer,
        "weights": f"{images.weights} {weights_digest(backbone.module)}",
        "preprocessing": asdict(backbone.preprocessing),
        "precision": params.precision,
        "images": f"pixels {source.shape[1:]}" if isinstance(source, ArrayImages) else "files",
        "device": device_key(device, deterministic),
        "instructions": torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else "",
        "versions": {"torchvision": torchvision.__version__, "pillow": PIL.__version__} | family.versions(),
        "code": code_digest((*CODE, family.module())),
    }


def code_digest(names: Sequence[str]) -> str:
    """SHA-256 of modules of `ssdh`, named by their path without suffix."""
    package = Path(__file__).parents[1]
    digests = "".join(file_sha256(package / f"{name}.py") for name in names)
    return hashlib.sha256(digests.encode()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def compute_features(
    path: Path, shape: tuple[int, ...], rows: Rows, digests: Digests, passes: Sequence[Pass], rank: Rank
) -> None:
    """Write the rows of each pass, one after the other, at `path` as (*shape, D); compute what the store does not hold.

    rows: (n,) manifest rows; digests: (n, 32) of their images; shape: (n,), or (number of passes, n). Rank 0 alone
    looks into the store and writes `path`.
    """
    while True:  # again only where what was there has been removed meanwhile
        lacking = broadcast(_put_together(path, shape, digests, passes) if rank.first else [], rank)
        if not any(map(len, lacking)):
            break
        if rank.first:
            logger.info("{:,} of {:,} rows to compute", sum(map(len, lacking)), len(passes) * len(rows))
        for one, needed in zip(passes, lacking, strict=True):
            _compute(one, rows[needed], digests[needed], rank)
        barrier(rank)
    if rank.first and (freed := evict(store_limit())):
        logger.info("removed {:,} MiB of features, the longest unused (SSDH_FEATURES_GIB)", freed >> 20)


def _compute(one: Pass, rows: Rows, digests: Digests, rank: Rank) -> None:
    """Compute this rank's blocks of the rows and keep them."""
    count = -(-len(rows) // BLOCK)
    mine = slice(count * rank.index // rank.count * BLOCK, count * (rank.index + 1) // rank.count * BLOCK)
    rows, digests = rows[mine], digests[mine]
    if not len(rows):
        return

    def keep(first: int, values: list[Array]) -> None:
        block = np.concatenate(values)
        one.store.add(digests[first * BLOCK : first * BLOCK + len(block)], block)

    write_beside(range(-(-len(rows) // BLOCK)), one.blocks_of(rows), keep)


def _put_together(path: Path, shape: tuple[int, ...], digests: Digests, passes: Sequence[Pass]) -> list[Rows]:
    """Write the array if the store holds all its rows; returns, by pass, those that it lacks."""
    kept = [one.store.find(digests) for one in passes]
    lacking = [missing(one, digests) for one in kept]
    if any(map(len, lacking)):
        return lacking
    try:
        _write(path, shape, kept)
    except BlockGoneError:
        for one in passes:
            one.store.drop_broken()
        return _put_together(path, shape, digests, passes)
    return lacking


def _write(path: Path, shape: tuple[int, ...], kept: Sequence[Kept]) -> None:
    sample = kept[0].read(0, 1)
    starts = range(0, shape[-1], READ)
    parts = (one.read(start, min(start + READ, shape[-1])) for one in kept for start in starts)
    write_parts(path, parts, (*shape, *sample.shape[1:]), sample.dtype)
