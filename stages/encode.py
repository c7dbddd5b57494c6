"""Binary codes of every image by the trained network: `python -m stages.encode` (or under torchrun)."""

from pathlib import Path

from loguru import logger

from ssdh.core.cache_dir import raw_folder
from ssdh.core.device import device_key, use_device
from ssdh.core.distributed import process_group, relaunch, shared_work
from ssdh.core.files import read_array
from ssdh.core.params import lookup, read_params, section
from ssdh.core.resume import fingerprint
from ssdh.core.runtime import RuntimeParams
from ssdh.core.stage import stage
from ssdh.features.blocks import compute_rows
from ssdh.features.forward import image_blocks
from ssdh.features.images import open_images
from ssdh.hashing.encoder import feature_blocks, packed
from ssdh.hashing.model_file import load_hashnet, model_preprocessing, read_metadata

MODEL, FEATURES, IMAGES = Path("models/hashnet.safetensors"), Path("features/features.npy"), Path("data/images")
CODES = Path("models/codes.npy")


@stage("encode")
def main() -> None:
    """Write packed codes (N, ⌈K/8⌉) uint8, row order = manifest; continues where an interrupted run stopped."""
    params = read_params()
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    metadata = read_metadata(MODEL)
    whole = metadata["has_backbone"]  # trained from images: the features of the frozen network are not its own
    if whole and relaunch("stages.encode", runtime.processes):
        return
    device = use_device(runtime.device, deterministic=runtime.deterministic)
    logger.info("encode: {} bits, from {}", metadata["bits"], "images" if whole else "features")

    def key() -> str:
        settings = {"stage": "encode"} | device_key(device, runtime.deterministic)
        return fingerprint([MODEL, IMAGES if whole else FEATURES], settings)

    with process_group(device) as rank, shared_work(rank, key) as folder:
        model = load_hashnet(MODEL)
        if whole:
            name: str = section(params, "dataset", str)
            source = open_images(IMAGES, raw_folder(name, lookup(params, f"datasets.{name}.data")))
            preprocessing = model_preprocessing(metadata)
            count = len(source)
            blocks = image_blocks(model, preprocessing, source, device, metadata["precision"], runtime.num_workers)
        else:
            features = read_array(FEATURES)
            count = len(features)
            blocks = feature_blocks(model, features, device)
        compute_rows(CODES, folder, count, packed(blocks), rank)


if __name__ == "__main__":
    main()
