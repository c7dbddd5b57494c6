"""Images a second, from JPEG files to batches of 224 px: the loader with 1 and 2 workers against a plain Pillow loop.

    python -m benchmarks.decoding FOLDER_OF_PHOTOS [--images 800]

The 640×480 JPEGs are mosaics of four photos of the folder (scaled to 320×240, so that they are as detailed as a
camera's pictures are) at quality 90. The plain loop opens, converts, resizes (bicubic), crops with Pillow and stacks
tensors; the loader also compares each file with its SHA-256. Both hand over uint8 batches.
"""

import argparse
import csv
import hashlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import best_seconds, table, write_results
from ssdh.features.images import FileImages
from ssdh.features.loader import eval_loader
from ssdh.features.params import Preprocessing

BATCH = 64


def make_photos(source: Path, folder: Path, count: int) -> list[Path]:
    """Write `count` JPEGs of 640×480, each a mosaic of four real photos drawn with a fixed seed."""
    paths = sorted(path for path in source.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    rng = np.random.default_rng(0)
    written = []
    for number in range(count):
        mosaic = Image.new("RGB", (640, 480))
        for corner, index in enumerate(rng.integers(0, len(paths), 4)):
            with Image.open(paths[index]) as image:
                tile = image.convert("RGB").resize((320, 240), Image.Resampling.BICUBIC)
            mosaic.paste(tile, (320 * (corner % 2), 240 * (corner // 2)))
        written.append(folder / f"{number:05d}.jpg")
        mosaic.save(written[-1], "JPEG", quality=90)
    return written


def plain_loop(paths: list[Path], preprocessing: Preprocessing) -> Iterator[torch.Tensor]:
    """What one writes first: Pillow, one file after another."""
    resize, size = preprocessing.resize, preprocessing.size
    for start in range(0, len(paths), BATCH):
        batch = []
        for path in paths[start : start + BATCH]:
            image = Image.open(path).convert("RGB")
            short = min(image.size)
            image = image.resize(
                (int(resize * image.width / short), int(resize * image.height / short)), Image.Resampling.BICUBIC
            )
            left, top = round((image.width - size) / 2), round((image.height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
            batch.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        yield torch.stack(batch)


def main() -> None:
    """Make the photos, time the three ways in turn, print images a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of JPEG photos")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/decoding.json)")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = make_photos(options.photos, folder, options.images)
        with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("row", "path", "sha256"))
            for row, path in enumerate(paths):
                writer.writerow((row, path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
        source = FileImages.from_manifest(folder / "manifest.csv", folder)
        for resize in (256, 224):
            preprocessing = Preprocessing(resize, 224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

            def loader(workers: int, preprocessing: Preprocessing = preprocessing) -> int:
                blocks = eval_loader(source, preprocessing, batch_size=BATCH, workers=workers)
                return sum(len(block) for block in blocks)

            def pillow(preprocessing: Preprocessing = preprocessing) -> int:
                return sum(len(batch) for batch in plain_loop(paths, preprocessing))

            seconds = best_seconds(
                {
                    "plain Pillow loop": pillow,
                    "loader, in the process": partial(loader, 0),
                    "loader, 1 worker": partial(loader, 1),
                    "loader, 2 workers": partial(loader, 2),
                },
                options.repeats,
            )
            plain = seconds["plain Pillow loop"]
            for way, took in seconds.items():
                speed, ratio = round(len(paths) / took), round(plain / took, 2)
                rows.append({"resize": resize, "way": way, "images_per_second": speed, "ratio": ratio})
    print(table(rows))
    print(write_results("decoding", {"images": options.images, "size": 224, "rows": rows}, options.out))


if __name__ == "__main__":
    main()
