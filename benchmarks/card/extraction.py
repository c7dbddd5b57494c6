"""Extraction beside the bare forward pass on a batch that lies on the device, from pixels, without JPEG decoding."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.card.options import Options, Row
from ssdh.core.device import autocast, use_device
from ssdh.core.distributed import Rank
from ssdh.core.files import write_array
from ssdh.core.runtime import num_cores
from ssdh.features.backbone import Backbone, load_backbone
from ssdh.features.blocks import compute_rows
from ssdh.features.forward import BLOCK, image_blocks
from ssdh.features.images import ArrayImages
from ssdh.features.loader import PREFETCH, normalise, preprocess
from ssdh.features.params import BackboneParams, ImageParams

# name: backbone.precision, convolutions in TF32, other products in TF32
PRECISIONS = {
    "fp32": ("fp32", False, False),
    "as it comes": ("fp32", True, False),
    "TF32": ("fp32", True, True),
    "bf16": ("bf16", True, False),
}
MOST_BLOCKS = 900


def rows(options: Options) -> Iterator[Row]:
    """One row for each network and precision."""
    device = use_device(options.device, deterministic=True)  # the default
    with tempfile.TemporaryDirectory() as folder:
        source = _noise(Path(folder), 4 if options.small else MOST_BLOCKS)
        for arch in options.backbones:
            by_cpu: NDArray[np.float32] | None = None
            for name, (precision, convolutions, products) in PRECISIONS.items():
                if products and not arch.startswith("vit"):  # up to the feature layer there are convolutions alone
                    continue
                backbone = _backbone(arch, precision, options)
                if by_cpu is None:
                    by_cpu = _first_block(backbone, source, torch.device("cpu"), "fp32")
                if device.type == "cuda":
                    torch.backends.cudnn.allow_tf32 = convolutions
                    torch.backends.cuda.matmul.allow_tf32 = products
                measured = _measure(backbone, source, device, precision, options.extraction_seconds)
                mine = _first_block(backbone, source, device, precision)
                difference = float(np.linalg.norm(mine - by_cpu) / np.linalg.norm(by_cpu))
                yield {"arch": arch, "precision": name, **measured, "difference_from_cpu": difference}


def _noise(folder: Path, blocks: int) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (blocks * BLOCK, 32, 32, 3), np.uint8)
    write_array(folder / "images/images.npy", pixels)
    return ArrayImages(folder / "images/images.npy")


def _backbone(arch: str, precision: str, options: Options) -> Backbone:
    given = arch == "vgg16" and options.weights is not None
    params: dict[str, Any] = {"arch": arch, "layer": "auto", "precision": precision}
    resize = options.size * 8 // 7  # 256 for 224
    images = ImageParams(size=options.size, resize=resize, weights="file" if given else "random")
    return load_backbone(BackboneParams(**params, weights_file=str(options.weights)), images)


def _first_block(backbone: Backbone, source: ArrayImages, device: torch.device, precision: str) -> Any:
    blocks_of = image_blocks(backbone.module, backbone.preprocessing, source, device, precision)
    return next(blocks_of(np.arange(BLOCK)))


def _measure(
    backbone: Backbone, source: ArrayImages, device: torch.device, precision: str, seconds: float
) -> dict[str, Any]:
    """Images a second: the bare pass, extraction on its way, extraction with its start and end."""
    network = backbone.module.to(device).to(memory_format=torch.channels_last).eval()
    preprocessing = backbone.preprocessing
    block = normalise(preprocess(source.read(np.arange(BLOCK)), preprocessing).to(device), preprocessing)
    block = block.contiguous(memory_format=torch.channels_last)

    def bare(count: int) -> float:
        """Seconds of `count` blocks."""
        started = time.perf_counter()
        with torch.inference_mode(), autocast(device, precision):
            for _ in range(count):
                network(block)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    few = 10 if device.type == "cuda" else 1
    bare(few)
    blocks = min(len(source) // BLOCK, max(4, int(seconds * few / bare(few))))
    workers = num_cores()
    blocks_of = image_blocks(network, preprocessing, source, device, precision, workers)
    done: list[float] = []
    whole, on_its_way, bare_seconds, result = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(2):
            bare_seconds.append(bare(max(1, blocks // 2)) / max(1, blocks // 2))
            place = Path(folder) / str(attempt)
            place.mkdir()
            started = time.perf_counter()
            compute_rows(place / "features.npy", place, blocks * BLOCK, _noted(blocks_of, done), Rank())
            whole.append((time.perf_counter() - started) / blocks)
            first = min(PREFETCH * workers, blocks // 2)  # blocks that may have been there before the first pass
            on_its_way.append((done[-1] - done[first]) / (blocks - 1 - first))
            done.clear()
            result.append(np.load(place / "features.npy"))
    return {
        "layer": backbone.layer,
        "images": blocks * BLOCK,
        "bare_images_s": BLOCK / min(bare_seconds),
        "images_s": BLOCK / min(on_its_way),
        "of_bare": min(bare_seconds) / min(on_its_way),
        "with_start_and_end_images_s": BLOCK / min(whole),
        "with_start_and_end_of_bare": min(bare_seconds) / min(whole),
        "same_bits_twice": bool(np.array_equal(*result)),
    }


def _noted(blocks_of: Callable[[Any], Iterator[Any]], done: list[float]) -> Callable[[Any], Iterator[Any]]:
    """The same blocks; notes when each of them was there."""

    def noting(image_rows: Any) -> Iterator[Any]:
        for block in blocks_of(image_rows):
            done.append(time.perf_counter())
            yield block

    return noting
