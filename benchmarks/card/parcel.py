"""What the card's machine must be given, 50 MB, since it has no network.

`python -m benchmarks.card.parcel pack --jpegs TAR --weights FILE .card` here, with CIFAR-10 as a tar of JPEGs
(`train|test/CLASS/NAME.jpg`) and VGG16's convolutions; it downloads wheels of what that machine lacks. There, with
Python 3.12:

    pip install --no-index --no-deps --target /tmp/site .card/*.whl; export PYTHONPATH=/tmp/site
    python -m benchmarks.card.parcel unpack .card
    python -m benchmarks.card --out DIR --weights .card/weights.safetensors --cifar .card
"""

import argparse
import io
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from ssdh.datasets.cifar10 import BATCHES, FOLDER, META

WHEELS = ("loguru", "pydantic")
PLATFORM = ("--only-binary=:all:", "--implementation=cp", "--python-version=3.12", "--platform=manylinux_2_17_x86_64")


def pack(parcel: Path, jpegs: Path, weights: Path) -> None:
    """Write the weights, the wheels and `jpegs.npz`: tables that all the JPEGs have in common are kept once."""
    parcel.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, parcel / "weights.safetensors")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(parcel), *PLATFORM]
    subprocess.run([*pip, *WHEELS], check=True)
    names, contents = [], []
    with tarfile.open(jpegs) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                names.append(member.name)
                contents.append(file.read())
    pixels = np.frombuffer(b"".join(contents), np.uint8)
    np.savez_compressed(parcel / "jpegs.npz", names=names, bytes=pixels, sizes=[len(content) for content in contents])


def unpack(parcel: Path) -> None:
    """Write `cifar-10-batches-py/` in the layout of the official archive."""
    with np.load(parcel / "jpegs.npz") as file:
        names = [name.split("/")[-3:] for name in file["names"]]
        contents = np.split(file["bytes"], np.cumsum(file["sizes"])[:-1])
    images = np.empty((len(names), 3, 32, 32), np.uint8)
    for row, content in enumerate(contents):
        with Image.open(io.BytesIO(content.tobytes())) as image:
            images[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    classes = sorted({name for _, name, _ in names})
    labels = np.array([classes.index(name) for _, name, _ in names])
    order = np.random.default_rng(10).permutation(len(names))  # class by class before
    is_test = np.array([split == "test" for split, _, _ in names])[order]
    parts = [*np.array_split(order[~is_test], len(BATCHES) - 1), order[is_test]]
    folder = parcel / FOLDER
    folder.mkdir(exist_ok=True)
    for batch, rows in zip(BATCHES, parts, strict=True):
        fields = {"data": images[rows].reshape(len(rows), -1), "labels": labels[rows].tolist()}
        (folder / batch).write_bytes(pickle.dumps(fields, protocol=2))
    (folder / META).write_bytes(pickle.dumps({"label_names": classes}, protocol=2))
    print(f"{len(names):,} images in {folder}")


def main() -> None:
    """Pack here or unpack there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing, unpacking = commands.add_parser("pack"), commands.add_parser("unpack")
    for command in (packing, unpacking):
        command.add_argument("parcel", type=Path)
    for name in ("--jpegs", "--weights"):
        packing.add_argument(name, type=Path, required=True)
    chosen = parser.parse_args()
    if chosen.command == "pack":
        pack(chosen.parcel, chosen.jpegs, chosen.weights)
    else:
        unpack(chosen.parcel)


if __name__ == "__main__":
    main()
