"""The page's server under 16 clients for half a minute: requests a second, p50 and p99 of each kind of request.

    python -m benchmarks.serve [--seconds 30] [--clients 16] [--images 200000] [--photos]

A server process of its own serves generated images with 64-bit codes; its encoder is a random projection of grey
pixels, so that the server is measured and not a network. With --photos, the run in this folder is served instead
(`python -m ssdh serve`), network included, and every client sends photos of it.
"""

import argparse
import io
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import resident_mib, table, write_results
from ssdh.hashing.codes import pack, sign_codes
from ssdh.search.gallery import Encoded

BITS, SIDE = 64, 64


class GreyEncoder:
    """Codes by random projections of an 8×8 grey version."""

    min_side = 8

    def __init__(self) -> None:
        self.projection = np.random.default_rng(0).normal(size=(64, BITS))

    def __call__(self, photos: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Codes, outputs (n, 64) and features (n, 64)."""
        grey = [np.asarray(Image.fromarray(p).convert("L").resize((8, 8)), float).reshape(64) for p in photos]
        centred = (np.array(grey) - np.mean(grey, axis=1, keepdims=True)).astype(np.float32)
        outputs = self._outputs(centred)
        return Encoded(pack(sign_codes(outputs)), outputs, centred)

    def stored_outputs(self, packed: NDArray[np.uint8], features: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs (n, 64) of features (n, 64)."""
        return self._outputs(features)

    def _outputs(self, features: NDArray[Any]) -> NDArray[np.float32]:
        return (features @ self.projection).astype(np.float32)


def picture(row: int, side: int = SIDE) -> NDArray[np.uint8]:
    """A smooth picture of two colours, (side, side, 3)."""
    rng = np.random.default_rng(row)
    line = np.linspace(0, 1, side)
    shade = np.clip(np.outer(line, line) * rng.uniform(-2, 2) + line * rng.uniform(-1, 1) + 0.5, 0, 1)
    return (shade[..., None] * rng.uniform(0, 255, 3)).astype(np.uint8)


def write_pictures(path: Path, count: int) -> None:
    """The images, as `prepare` writes those of an array set; a thousand in a row are equal."""
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3))
    for start in range(0, count, 1000):
        images[start : start + 1000] = picture(start)
    images.flush()


def serve_generated(count: int, folder: Path, sender: Any) -> None:
    """In a process of its own: open a gallery of `count` images, tell the address and memory, serve."""
    import uvicorn

    from ssdh.features.images import open_images
    from ssdh.search.engines import CodeTable
    from ssdh.search.gallery import Gallery
    from ssdh.search.index import Index
    from ssdh.search.web.app import create_app

    codes = np.random.default_rng(1).integers(0, 256, (count, BITS // 8), dtype=np.uint8)
    names = [f"{row:07d}" for row in range(count)]
    table = CodeTable(codes, BITS, range(count), {"name": names, "sha256": names})
    images = open_images(folder)
    gallery = Gallery(
        Index(codes, bits=BITS, names=names), images, GreyEncoder(), "generated", "v1", lambda: (table, None)
    )
    app = create_app(gallery)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))

    def tell() -> None:
        while not server.started:
            time.sleep(0.02)
        sender.send(server.servers[0].sockets[0].getsockname()[1])
        while True:
            time.sleep(0.5)
            sender.send(resident_mib())

    threading.Thread(target=tell, daemon=True).start()
    server.run()


@contextmanager
def generated(count: int) -> Iterator[tuple[str, Any]]:
    """Serve `count` generated images; gives the address and the pipe that tells the server's memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "images.npy", count)
        process = context.Process(target=serve_generated, args=(count, Path(folder), sender), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{receiver.recv()}", receiver
        finally:
            process.terminate()
            process.join()


@contextmanager
def this_run() -> Iterator[tuple[str, Any]]:
    """Serve the finished run in this folder."""
    command = [sys.executable, "-m", "ssdh", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[3], None
        finally:
            process.terminate()


def load(address: str, clients: int, seconds: float, photos: list[bytes]) -> tuple[dict[str, list[float]], list[str]]:
    """Let `clients` threads browse without a pause; returns milliseconds by kind of request, and what went wrong."""
    times: dict[str, list[float]] = defaultdict(list)
    problems: list[str] = []
    total = httpx.get(f"{address}/api/about", timeout=60).json()["images"]
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        with httpx.Client(base_url=address, timeout=60) as client:
            while time.perf_counter() < end:
                row = int(rng.integers(total))
                photo = photos[int(rng.integers(len(photos)))]
                for kind, method, path, body in (
                    ("sample", "GET", f"/api/images?seed={row}", None),
                    ("neighbours", "GET", f"/api/search?row={row}", None),
                    ("thumbnail", "GET", f"/images/{row}/thumbnail", None),
                    ("photo", "POST", "/api/search", photo),
                ):
                    started = time.perf_counter()
                    try:
                        status = client.request(method, path, content=body).status_code
                        if status != 200:
                            problems.append(f"{path}: {status}")
                    except httpx.HTTPError as error:
                        problems.append(f"{path}: {error!r}")
                    times[kind].append(1000 * (time.perf_counter() - started))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, problems


def jpegs(count: int) -> list[bytes]:
    """Photos to send, 640 px, about 10 kB each."""
    result = []
    for seed in range(count):
        out = io.BytesIO()
        Image.fromarray(picture(seed, 640)).save(out, "JPEG", quality=90)
        result.append(out.getvalue())
    return result


def main() -> None:
    """Print the table and write `benchmarks/results/serve.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--photos", action="store_true", help="serve the run in this folder, network included")
    chosen = parser.parse_args()
    with this_run() if chosen.photos else generated(chosen.images) as (address, memory):
        times, problems = load(address, chosen.clients, chosen.seconds, jpegs(16))
        resident = 0.0
        while memory is not None and memory.poll():
            resident = max(resident, memory.recv())
    rows = [
        {
            "request": kind,
            "count": len(values),
            "a_second": len(values) / chosen.seconds,
            "p50_ms": float(np.percentile(values, 50)),
            "p99_ms": float(np.percentile(values, 99)),
        }
        for kind, values in times.items()
    ]
    what = "the run in this folder" if chosen.photos else f"{chosen.images:,} generated images"
    print(f"{chosen.clients} clients for {chosen.seconds:g} s, {what}: {len(problems)} errors")
    print("\n".join(problems[:10]))
    print(table(rows))
    if resident:
        print(f"\nserver's memory: {resident:.0f} MiB at most")
    settings = {
        "clients": chosen.clients,
        "seconds": chosen.seconds,
        "images": None if chosen.photos else chosen.images,
    }
    write_results("serve", settings | {"errors": len(problems), "server_mib": resident or None, "rows": rows})


if __name__ == "__main__":
    main()
