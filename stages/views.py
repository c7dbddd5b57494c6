"""Features of random views of the train images by the frozen network: `python -m stages.views` (or under torchrun)."""

from pathlib import Path

import numpy as np
from loguru import logger

from ssdh.core.cache_dir import raw_folder
from ssdh.core.device import device_key, use_device
from ssdh.core.distributed import process_group, relaunch, shared_work
from ssdh.core.files import read_array, write_array
from ssdh.core.params import lookup, read_params, section
from ssdh.core.resume import fingerprint
from ssdh.core.runtime import RuntimeParams
from ssdh.core.split import read_split
from ssdh.core.stage import stage
from ssdh.features.images import open_images, read_digests
from ssdh.features.params import BackboneParams, ViewsParams, image_params

IMAGES, SPLIT = Path("data/images"), Path("data/split")
FEATURES, VIEWS = Path("features/features.npy"), Path("features/views.npy")


@stage("views")
def main() -> None:
    """Write features (V, n, D) float16 of V views of each of the n train images.

    V = 0 where the recipe asks for none, there are no images, or the network's weights are random and the recipe does
    without.
    """
    params = read_params()
    chosen: ViewsParams = section(params, "views", ViewsParams)
    name: str = section(params, "dataset", str)
    images = image_params(params, name)
    rows = read_split(SPLIT).train
    without = chosen.reason_for_none(images)
    if without:
        recipe = lookup(params, "recipe")
        logger.info("views: none, since {}; recipe {} trains on the features alone, as manifold does", without, recipe)
    if not chosen.count or without or images is None:
        write_array(VIEWS, np.empty((0, len(rows), read_array(FEATURES).shape[1]), np.float16))
        return
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    if relaunch("stages.views", runtime.processes):
        return
    from ssdh.features.backbone import load_backbone  # with torch, which no views need not
    from ssdh.features.extract import compute_features, feature_kind
    from ssdh.features.views import Views

    network: BackboneParams = section(params, "backbone", BackboneParams)
    source = open_images(IMAGES, raw_folder(name, lookup(params, f"datasets.{name}.data")))
    cost = chosen.count * len(rows) / len(source)
    logger.info("views: {}, of {:,} images: {:.2g} times the work of extract", chosen.model_dump(), len(rows), cost)
    device = use_device(runtime.device, deterministic=runtime.deterministic)

    def key() -> str:
        settings = {"views": chosen.model_dump(), "backbone": network.model_dump(), "images": images.model_dump()}
        kind = {"stage": "views"} | device_key(device, runtime.deterministic)
        return fingerprint([IMAGES, SPLIT, Path(network.weights_file)], settings | kind)

    with process_group(device) as rank, shared_work(rank, key):
        backbone = load_backbone(network, images)
        kind = feature_kind(backbone, network, images, source, device, deterministic=runtime.deterministic)
        digests = read_digests(IMAGES)
        views = Views(backbone, source, digests, chosen, device, network.precision, runtime.num_workers)
        shape = (chosen.count, len(rows))
        compute_features(VIEWS, shape, rows, digests[rows], views.passes(kind), rank)


if __name__ == "__main__":
    main()
