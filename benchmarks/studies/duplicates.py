"""How well near-identical photos are found: recall and false pairs by kind of change, codes with and without floats.

    python -m benchmarks.studies.duplicates --photos FOLDER --weights vgg16-features.safetensors
    python -m benchmarks.studies.duplicates --million

Every photo is changed in eight ways; a data set is the photos and one change of each, whose true pairs are known. The
hash layer is trained on the photos alone, by `manifold`. Writes `benchmarks/studies/duplicates.json`;
`--million` times a synthetic million of codes instead (`duplicates_million.json`).
"""

import argparse
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.common import STUDIES, write_results
from benchmarks.quality import PROJECT, recipe_codes, recipe_pairs
from ssdh.core.params import read_params, section
from ssdh.core.split import Split
from ssdh.features.backbone import load_backbone
from ssdh.features.forward import BLOCK, run_network
from ssdh.features.image_files import image_files
from ssdh.features.loader import normalise, preprocess
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.search.close_pairs import close_pairs
from ssdh.search.duplicates import find_groups, similarities
from ssdh.search.engines import CodeTable
from ssdh.structure.params import StructureParams
from ssdh.training.params import TrainParams

BITS = (32, 64, 128)
SIMILARITIES = (0.9, 0.95, 0.98)
SEED = 0


def cropped(photo: Image.Image, share: float) -> Image.Image:
    """The middle, `share` of both sides gone."""
    width, height = photo.size
    left, top = round(width * share / 2), round(height * share / 2)
    return photo.crop((left, top, width - left, height - top))


def compressed(photo: Image.Image) -> Image.Image:
    """As JPEG of quality 40."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "crop 2%": lambda photo: cropped(photo, 0.02),
    "crop 5%": lambda photo: cropped(photo, 0.05),
    "crop 10%": lambda photo: cropped(photo, 0.10),
    "JPEG 40": compressed,
    "half size": lambda photo: photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC),
    "flipped": ImageOps.mirror,
    "border 5%": lambda photo: ImageOps.expand(photo, round(0.05 * min(photo.size)), "white"),
    "grey": lambda photo: photo.convert("L").convert("RGB"),
}


def features_of(photos: list[Image.Image], weights: Path, size: int) -> dict[str, NDArray[np.float32]]:
    """Features (n, D) of the photos as they are ("") and of each change."""
    images = ImageParams(size=size, weights="file", mean=[0.48235, 0.45882, 0.40784], std=[1 / 255] * 3)
    chosen = BackboneParams(arch="vgg16", layer="pool5", precision="bf16", weights_file=str(weights))
    backbone = load_backbone(chosen, images)

    def batches(change: Callable[[Image.Image], Image.Image]) -> Iterator[torch.Tensor]:
        for start in range(0, len(photos), BLOCK):
            pixels = [np.array(change(photo))[None] for photo in photos[start : start + BLOCK]]
            yield torch.cat([preprocess(one, backbone.preprocessing) for one in pixels])

    result = {}
    for name, change in {"": lambda photo: photo, **CHANGES}.items():
        blocks = run_network(
            backbone.module,
            batches(change),
            torch.device("cpu"),
            "bf16",
            prepare=lambda batch: normalise(batch, backbone.preprocessing),
        )
        result[name] = np.concatenate(list(blocks))
        print(f"features of {name or 'the photos'}", flush=True)
    return result


def scores(pairs: NDArray[np.int64], count: int) -> dict[str, float]:
    """Recall of the `count` true pairs (i, count + i), and how many other pairs were found."""
    true = int((pairs[:, 1] - pairs[:, 0] == count).sum())
    return {"recall": round(true / count, 4), "false_pairs": len(pairs) - true}


def measure(features: dict[str, NDArray[np.float32]]) -> list[dict[str, Any]]:
    """Recall and false pairs of each change, code length, radius and least similarity; None: that one is not asked."""
    params, count = read_params() | {"recipe": "manifold"}, len(features[""])
    train = np.arange(count)
    labels = recipe_pairs(features[""], section(params, "structure", StructureParams), SEED)
    everything = np.concatenate(list(features.values()))
    rows: list[dict[str, Any]] = []
    both = {name: np.concatenate([features[""], changed]) for name, changed in features.items() if name}
    triangle = np.stack(np.triu_indices(2 * count, 1), axis=1)  # all pairs
    cosines = {name: similarities(values, triangle[:, 0], triangle[:, 1]) for name, values in both.items()}
    for name, least in ((name, least) for name in both for least in SIMILARITIES):
        result = triangle[cosines[name] >= least]
        rows.append({"change": name, "bits": None, "radius": None, "similarity": least} | scores(result, count))
    for bits in BITS:
        split = Split(query=train[:0], train=train, database=train)
        codes = recipe_codes(everything, split, labels, section(params, "train", TrainParams), bits, SEED)
        by_name = dict(zip(features, np.split(codes, len(features)), strict=True))
        for name, values in both.items():
            packed = np.concatenate([by_name[""], by_name[name]])
            for radius in (bits // 16, bits // 8, bits // 4):
                near = [np.stack(block, axis=1) for block in close_pairs(packed, bits, radius)]
                pairs = np.concatenate(near) if near else np.empty((0, 2), np.int64)
                about = {"change": name, "bits": bits, "radius": radius}
                rows.append(about | {"similarity": None} | scores(pairs, count))
                similarity = similarities(values, pairs[:, 0], pairs[:, 1])
                for least in SIMILARITIES:
                    rows.append(about | {"similarity": least} | scores(pairs[similarity >= least], count))
    return rows


def million(count: int = 1_000_000, bits: int = 64, dim: int = 64) -> list[dict[str, Any]]:
    """Seconds of all groups of a million, codes around 10,000 centres, one in twenty nearly the same as another."""
    rng = np.random.default_rng(SEED)
    centres = rng.standard_normal((10_000, dim)).astype(np.float32)
    features = np.empty((count, dim), np.float16)
    packed = np.empty((count, bits // 8), np.uint8)
    planes = rng.standard_normal((dim, bits)).astype(np.float32)
    copies = count // 20
    for start in range(0, count, 50_000):
        rows = slice(start, start + 50_000)
        values = centres[rng.integers(0, len(centres), 50_000)] + rng.standard_normal((50_000, dim)).astype(np.float32)
        if start == 0:
            first = values
        if start == count - copies:
            values = first + 0.02 * rng.standard_normal(first.shape).astype(np.float32)
        features[rows] = values
        packed[rows] = np.packbits(values @ planes > 0, axis=1)
    table = CodeTable(packed, bits, range(count), {"name": [""] * count, "sha256": [str(row) for row in range(count)]})
    result = []
    for radius in (2, 4, 8):
        started = time.perf_counter()
        groups = find_groups(table, features, radius=radius, min_similarity=0.98)
        seconds = time.perf_counter() - started
        row = {"images": count, "bits": bits, "radius": radius, "groups": len(groups), "seconds": round(seconds, 1)}
        print(row, flush=True)
        result.append(row)
    return result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder of photos")
    parser.add_argument("--weights", type=Path, help="convolutions of VGG16, as torchvision names them")
    parser.add_argument("--size", type=int, default=128, help="pixels that the network sees (default: 128)")
    parser.add_argument("--million", action="store_true", help="time a synthetic million")
    chosen = parser.parse_args()
    logger.disable("ssdh")
    if chosen.million:
        write_results("duplicates_million", million(), STUDIES / "duplicates_million.json")
        return
    if chosen.photos is None or chosen.weights is None:
        parser.error("--photos and --weights are needed, or --million")
    folder, weights = chosen.photos.resolve(), chosen.weights.resolve()
    os.chdir(PROJECT)
    photos = [Image.open(folder / name).convert("RGB") for name in sorted(image_files(folder))]
    rows = measure(features_of(photos, weights, chosen.size))
    for row in rows:
        print(row)
    result = {"photos": len(photos), "size": chosen.size, "rows": rows}
    write_results("duplicates", result, STUDIES / "duplicates.json")


if __name__ == "__main__":
    main()
