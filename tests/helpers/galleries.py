"""Small galleries for the tests of the page, and a server that runs one: real images, a plain encoder, no network."""

import csv
import hashlib
import io
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from ssdh.features.images import open_images
from ssdh.hashing.codes import pack, sign_codes
from ssdh.search.engines import CodeTable
from ssdh.search.gallery import Encoded, Gallery
from ssdh.search.index import Index, Kind

UPLOAD_LIMIT = 1 << 20  # bytes of a photo that the tests' servers take


class GreyEncoder:
    """Codes by random projections of an 8×8 grey version: enough for near images to have near codes."""

    min_side = 8

    def __init__(self, bits: int) -> None:
        self.projection = np.random.default_rng(7).normal(size=(64, bits))

    def __call__(self, photos: Sequence[NDArray[np.uint8]]) -> Encoded:
        grey = [np.asarray(Image.fromarray(p).convert("L").resize((8, 8)), float).reshape(64) for p in photos]
        centred = np.array(grey) - np.mean(grey, axis=1, keepdims=True)
        outputs = (centred @ self.projection).astype(np.float32)
        return Encoded(pack(sign_codes(outputs)), outputs, centred.astype(np.float32))

    def stored_outputs(self, packed: NDArray[np.uint8], features: NDArray[Any]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = (features @ self.projection).astype(np.float32)
        return outputs


def digits_gallery(folder: Path, count: int = 1797, bits: int = 32, kind: Kind = "flat") -> Gallery:
    """Handwritten digits of 8×8 pixels as an array set."""
    bunch = load_digits()
    grey = np.rint(bunch.images[:count] * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    names = [f"digits/{row:04d}" for row in range(count)]
    encode = GreyEncoder(bits)
    encoded = encode(list(images))
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    table = CodeTable(encoded.packed, bits, range(count), {"name": names, "sha256": digests})
    return Gallery(
        index=Index(encoded.packed, bits=bits, names=names, features=encoded.features, kind=kind),
        files=lambda: (table, encoded.features),
        images=open_images(folder),
        encode=encode,
        title="digits",
        version="v1",
        classes=list("0123456789"),
        labels=np.eye(10, dtype=np.uint8)[bunch.target[:count]],
    )


def files_gallery(folder: Path, names: Sequence[str], bits: int = 24, size: tuple[int, int] = (300, 200)) -> Gallery:
    """JPEG files of the given names, each a disc on a coloured ground."""
    root = folder / "root"
    rows = []
    for row, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        disc(row, size).save(path, "JPEG", quality=90)
        rows.append((row, name, hashlib.sha256(path.read_bytes()).hexdigest()))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("row", "path", "sha256"), *rows])
    encode = GreyEncoder(bits)
    codes = encode([np.asarray(Image.open(root / name)) for name in names]).packed
    images = open_images(folder, root)
    table = CodeTable(codes, bits, range(len(names)), {"name": names, "sha256": [digest for *_, digest in rows]})
    return Gallery(Index(codes, bits=bits, names=list(names)), images, encode, "folder", "v1", lambda: (table, None))


def disc(seed: int, size: tuple[int, int] = (300, 200)) -> Image.Image:
    """A disc on a ground whose grey runs from side to side; place, size and colours from the seed."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[:height, :width]
    centre, radius = (
        rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height)),
        rng.uniform(0.1, 0.4) * height,
    )
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    ground = (x / width)[..., None] * rng.uniform(0, 200, 3) + rng.uniform(0, 55, 3)
    return Image.fromarray(np.where(inside[..., None], rng.uniform(0, 255, 3), ground).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The image as the bytes of a file."""
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Run the application on a free port of the loopback address; gives the address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        server.force_exit = True  # whoever still holds a connection
        thread.join()
