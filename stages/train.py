"""Train the hash network: `python -m stages.train` (or `torchrun … -m stages.train` for several machines)."""

from pathlib import Path

from loguru import logger

from ssdh.core.cache_dir import raw_folder
from ssdh.core.device import device_key, device_name, use_device
from ssdh.core.distributed import process_group, relaunch, shared_work
from ssdh.core.files import read_array, write_csv
from ssdh.core.params import Bits, Seed, lookup, read_params, section
from ssdh.core.resume import fingerprint
from ssdh.core.runtime import RuntimeParams
from ssdh.core.split import read_split
from ssdh.core.stage import stage
from ssdh.features.images import open_images
from ssdh.features.params import BackboneParams, ViewsParams, image_params
from ssdh.hashing.model_file import describe_input, save_hashnet
from ssdh.structure.pseudo_labels import open_pair_labels
from ssdh.training.checkpoint import Snapshots
from ssdh.training.fit import Inputs, fit
from ssdh.training.loop import Run
from ssdh.training.method import chosen_method
from ssdh.training.params import OF_SOME_RECIPES

FEATURES, PSEUDO = Path("features/features.npy"), Path("features/pseudo_labels.npy")
STRUCTURE, IMAGES = Path("features/structure.npz"), Path("data/images")
LABELS, SPLIT = Path("data/labels.npy"), Path("data/split")
VIEWS = Path("features/views.npy")
INPUTS = (FEATURES, VIEWS, PSEUDO, STRUCTURE, IMAGES, LABELS, SPLIT)
OUTS = (Path("metrics/train.csv"), Path("metrics/validation.csv"), Path("models/hashnet.safetensors"))


@stage("train")
def main() -> None:
    """Write the model and the curves of its training; continues from the last snapshot of an interrupted run."""
    params = read_params()
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    if relaunch("stages.train", runtime.processes):
        return
    name: str = section(params, "dataset", str)
    images = image_params(params, name)  # None: the data are embeddings
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    method = chosen_method(params)
    chosen = method.params
    bits: int = section(params, "bits", Bits)
    seed: int = section(params, "seed", Seed)
    logger.info("train: bits {}, seed {}, {}", bits, seed, chosen.model_dump())
    device = use_device(runtime.device, deterministic=runtime.deterministic)
    values = chosen.model_dump(exclude=OF_SOME_RECIPES - chosen.model_fields_set)
    settings = {"bits": bits, "seed": seed, "train": values, "precision": chosen.precision}
    features = read_array(FEATURES)
    settings |= describe_input(backbone, images, features.shape[1]) | {"device": device_name(device)}

    def key() -> str:
        if chosen.finetune:
            import ssdh.training.finetune  # noqa: F401 (its code is part of the fingerprint)
        files = map(Path, (chosen.init_file, backbone.weights_file))
        return fingerprint([*INPUTS, *files], settings | {"stage": "train"} | device_key(device, runtime.deterministic))

    with process_group(device) as rank, shared_work(rank, key) as folder:
        pair_labels = open_pair_labels(STRUCTURE, read_array(PSEUDO, mode="c"), features)
        root = raw_folder(name, lookup(params, f"datasets.{name}.data"))
        source = None if images is None else open_images(IMAGES, root)
        augment: ViewsParams = section(params, "views", ViewsParams)
        split, labels, views = read_split(SPLIT), read_array(LABELS), read_array(VIEWS)
        inputs = Inputs(features, source, split, pair_labels, labels, views, augment)
        snapshots = Snapshots(folder, folder.name, rank)
        run = Run(method, bits, seed, device, rank, runtime.num_workers, snapshots)
        model, curves, statistics = fit(inputs, run, backbone, images)
        if rank.first:
            write_csv(OUTS[0], ("epoch", "iteration", "loss"), curves.epochs)
            write_csv(OUTS[1], ("iteration", "map"), curves.validation)
            save_hashnet(OUTS[2], model, settings | statistics | {"processes": rank.count})


if __name__ == "__main__":
    main()
