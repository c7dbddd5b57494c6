"""Train the hash network: `python -m stages.train` (or `torchrun … -m stages.train` for several machines)."""

from pathlib import Path

import numpy as np
import torch
from loguru import logger

from ssdh.backbones import BackboneParams
from ssdh.datasets.splits import read_split
from ssdh.devices import describe, make_deterministic, process_group, relaunch, select_device, shared_work
from ssdh.errors import ParameterError
from ssdh.head import train_head
from ssdh.images import ImageParams
from ssdh.pair_batches import PairBatches
from ssdh.pair_labels import open_pair_labels
from ssdh.params import Bits, Seed, read_params, section
from ssdh.runs import RuntimeParams, fingerprint, read_array, stage
from ssdh.snapshots import Snapshots
from ssdh.trained import curve_point, describe_backbone, feature_blocks, outputs_of, write_training
from ssdh.training_params import TrainParams
from ssdh.validation import code_statistics, warn_of_collapse

FEATURES, LABELS, SPLIT = Path("features/features.npy"), Path("data/labels.npy"), Path("data/split")
PSEUDO, STRUCTURE = Path("features/pseudo_labels.npy"), Path("features/structure.npz")
MODEL, CURVE, VALIDATION = Path("models/hashnet.safetensors"), Path("metrics/train.csv"), Path("metrics/validation.csv")


@stage("train")
def main() -> None:
    """Write the model and the curves of its training; continues from the last snapshot of an interrupted run."""
    params = read_params()
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    chosen: TrainParams = section(params, "train", TrainParams)
    if chosen.finetune:
        raise ParameterError("train.finetune is true, but only the hash layer can be trained yet: set it to false")
    if relaunch("stages.train", runtime.processes):
        return
    bits, seed = section(params, "bits", Bits), section(params, "seed", Seed)
    images: ImageParams = section(params, f"datasets.{params['dataset']}.images", ImageParams)
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    logger.info("train: bits {}, seed {}, {}", bits, seed, chosen.model_dump())
    device = select_device(runtime.device)
    make_deterministic(device, runtime.deterministic)
    settings = {"bits": bits, "seed": seed, "train": chosen.model_dump(), "precision": chosen.precision}
    settings |= describe_backbone(backbone, images) | {"device": describe(device)}

    def key() -> str:
        inputs = [FEATURES, PSEUDO, STRUCTURE, LABELS, SPLIT, Path(chosen.init_file)]
        return fingerprint(inputs, settings | {"stage": "train", "torch": torch.__version__})

    with process_group(device) as rank, shared_work(rank, key, [MODEL, CURVE, VALIDATION]) as folder:
        if folder is None:
            return
        features, split = read_array(FEATURES), read_split(SPLIT)
        labels = open_pair_labels(STRUCTURE, read_array(PSEUDO, mode="c"), features)
        pairs = PairBatches(labels, device, unknown_weight=chosen.unknown_weight, target=chosen.target)
        rows = np.ascontiguousarray(features[split.train])
        validate = curve_point(lambda model: feature_blocks(model, features, device), read_array(LABELS), split, seed)
        model, progress = train_head(
            *(rows, pairs, chosen),
            **{"bits": bits, "seed": seed, "device": device, "rank": rank},
            snapshots=Snapshots(folder, folder.name, rank),
            validate=validate,
        )
        if rank.first:
            statistics = code_statistics(outputs_of(feature_blocks(model, features, device))(split.train))
            warn_of_collapse(statistics, len(rows), bits)
            write_training(MODEL, CURVE, VALIDATION, model, progress, settings | statistics | {"processes": rank.count})


if __name__ == "__main__":
    main()
