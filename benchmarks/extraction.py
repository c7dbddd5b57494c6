"""Extraction against the bare forward pass: `python -m benchmarks.extraction [--arch vgg16] [--size 64]`.

Images a second of the extract stage's own path (decode, resize, normalise, forward, write, assemble) and of the network
alone on a block that lies on the device; fp32 and bf16, both in channels-last memory, and the usual loop (DataLoader,
contiguous memory, one array in memory) beside them.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common import best_seconds, table, write_results
from ssdh.core.device import device_name, use_device
from ssdh.core.distributed import Rank
from ssdh.core.files import write_array, write_csv
from ssdh.core.runtime import num_cores
from ssdh.core.stage import configure_logging
from ssdh.features.backbone import build_network
from ssdh.features.blocks import compute_rows
from ssdh.features.forward import BLOCK, image_blocks
from ssdh.features.images import open_images
from ssdh.features.loader import normalise, preprocess
from ssdh.features.params import Preprocessing


def measure(
    arch: str, size: int, blocks: int, device: torch.device, precision: str, workers: int, repeats: int
) -> dict[str, Any]:
    """Images a second of each way."""
    layer = "fc7" if arch.startswith("vgg") or arch == "alexnet" else "penultimate"
    network = build_network(arch, layer, size).eval().to(device).to(memory_format=torch.channels_last)
    plain = build_network(arch, layer, size).eval().to(device)
    count = blocks * BLOCK
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    preprocessing = Preprocessing(size, size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    block = normalise(preprocess(pixels[:BLOCK], preprocessing), preprocessing).to(device)
    block = block.contiguous(memory_format=torch.channels_last)
    low = precision == "bf16"

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def bare() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
            for _ in range(blocks):
                network(block)
        finish()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_array(folder / "images/images.npy", pixels)
        write_csv(folder / "images/manifest.csv", ("row", "path", "sha256"), [])
        source = open_images(folder / "images")

        def ours() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                blocks_of = image_blocks(network, preprocessing, source, device, precision, workers)
                compute_rows(folder / "features.npy", Path(work), count, blocks_of, Rank())

        def usual() -> None:
            resized = preprocess(pixels, preprocessing)
            result = []
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=low):
                for (batch,) in DataLoader(TensorDataset(resized), batch_size=BLOCK):
                    result.append(plain(normalise(batch.to(device), preprocessing)).float().cpu())
            np.save(folder / "usual.npy", torch.cat(result).numpy())

        bare()
        seconds = best_seconds({"bare": bare, "usual": usual, "ours": ours}, repeats)
    return {
        "arch": arch,
        "size": size,
        "precision": precision,
        "images": count,
        "bare_images_s": count / seconds["bare"],
        "usual_images_s": count / seconds["usual"],
        "ours_images_s": count / seconds["ours"],
        "of_bare": seconds["bare"] / seconds["ours"],
        "of_usual": seconds["usual"] / seconds["ours"],
    }


def main() -> None:
    """Print the table and write `benchmarks/results/extraction.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--arch", default="vgg16")
    parser.add_argument("--size", type=int, help="pixels; default 224 on a GPU, 64 on the CPU")
    parser.add_argument("--blocks", type=int, help=f"blocks of {BLOCK} images; default 400 on a GPU, 16 on the CPU")
    parser.add_argument("--workers", type=int, default=num_cores(), help="processes that read and resize")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    configure_logging("WARNING")
    device = use_device(chosen.device, deterministic=True)  # the default of `runtime.deterministic`
    fast = device.type == "cuda"
    size, blocks = chosen.size or (224 if fast else 64), chosen.blocks or (400 if fast else 16)
    rows = [
        measure(chosen.arch, size, blocks, device, precision, chosen.workers, chosen.repeats)
        for precision in ("fp32", "bf16")
    ]
    print(f"{device_name(device)}, {torch.get_num_threads()} threads, {chosen.workers} workers")
    print(table(rows))
    print(write_results("extraction", {"device": device_name(device), "workers": chosen.workers, "rows": rows}))


if __name__ == "__main__":
    main()
