"""Features of every image by the frozen network: `python -m stages.extract` (or under torchrun)."""

from pathlib import Path

import numpy as np
from loguru import logger

from ssdh.core.cache_dir import raw_folder
from ssdh.core.device import device_key, use_device
from ssdh.core.distributed import process_group, relaunch, shared_work
from ssdh.core.params import lookup, read_params, section
from ssdh.core.resume import fingerprint
from ssdh.core.runtime import RuntimeParams
from ssdh.core.stage import stage
from ssdh.features.backbone import load_backbone
from ssdh.features.embeddings import open_embeddings, pass_on
from ssdh.features.extract import Pass, compute_features, feature_kind
from ssdh.features.forward import image_blocks
from ssdh.features.images import open_images, read_digests
from ssdh.features.params import BackboneParams, image_params
from ssdh.features.store import FeatureStore

IMAGES, FEATURES = Path("data/images"), Path("features/features.npy")


@stage("extract")
def main() -> None:
    """Write features (N, D) float32, row order = manifest; computes only images that the store has not seen.

    Embeddings are the features: their good rows are passed on in the type of their file.
    """
    params = read_params()
    name: str = section(params, "dataset", str)
    if (images := image_params(params, name)) is None:
        data = lookup(params, f"datasets.{name}.data")
        pass_on(FEATURES, open_embeddings(Path(data["features"]), data["keys"]["features"]), read_digests(IMAGES))
        return
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    if relaunch("stages.extract", runtime.processes):
        return
    chosen: BackboneParams = section(params, "backbone", BackboneParams)
    logger.info("extract: {} {}", chosen.model_dump(), images.model_dump())
    device = use_device(runtime.device, deterministic=runtime.deterministic)
    source = open_images(IMAGES, raw_folder(name, lookup(params, f"datasets.{name}.data")))

    def key() -> str:
        settings = {"backbone": chosen.model_dump(), "images": images.model_dump()}
        kind = {"stage": "extract"} | device_key(device, runtime.deterministic)
        return fingerprint([IMAGES, Path(chosen.weights_file)], settings | kind)

    with process_group(device) as rank, shared_work(rank, key):
        backbone = load_backbone(chosen, images)
        kind = feature_kind(backbone, chosen, images, source, device, deterministic=runtime.deterministic)
        blocks = image_blocks(
            backbone.module, backbone.preprocessing, source, device, chosen.precision, runtime.num_workers
        )
        rows = np.arange(len(source))
        compute_features(FEATURES, rows.shape, rows, read_digests(IMAGES), [Pass(FeatureStore(kind), blocks)], rank)


if __name__ == "__main__":
    main()
