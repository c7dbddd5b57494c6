"""Binary codes of every image by the trained network: `python -m stages.encode` (or under torchrun)."""

from pathlib import Path

import torch
from loguru import logger

from ssdh.devices import Rank, describe, select_device, shared_work
from ssdh.extraction import compute_rows
from ssdh.network import load_hashnet, read_metadata
from ssdh.params import read_params, section
from ssdh.runs import RuntimeParams, fingerprint, read_array, stage
from ssdh.trained import feature_blocks, packed

MODEL, FEATURES, CODES = Path("models/hashnet.safetensors"), Path("features/features.npy"), Path("models/codes.npy")


@stage("encode")
def main() -> None:
    """Write packed codes (N, ⌈K/8⌉) uint8, row order = manifest; continues where an interrupted run stopped."""
    runtime: RuntimeParams = section(read_params(), "runtime", RuntimeParams)
    metadata = read_metadata(MODEL)
    device = select_device(runtime.device)
    logger.info("encode: {} bits", metadata["bits"])

    def key() -> str:
        return fingerprint(
            [MODEL, FEATURES], {"stage": "encode", "device": describe(device), "torch": torch.__version__}
        )

    with shared_work(Rank(), key, [CODES]) as folder:
        if folder is not None:
            features = read_array(FEATURES)
            blocks = packed(feature_blocks(load_hashnet(MODEL), features, device))
            compute_rows(CODES, folder, len(features), blocks, Rank())


if __name__ == "__main__":
    main()
