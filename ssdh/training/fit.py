"""From a stage's inputs to a trained network: the hash layer on cached features, or the whole network on images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ssdh.core.device import memory_for
from ssdh.core.distributed import Rank
from ssdh.core.split import Split
from ssdh.features.backbone import Backbone, load_backbone
from ssdh.features.forward import image_blocks
from ssdh.features.images import ImageSource
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.hashing.encoder import Blocks, feature_blocks, outputs_of
from ssdh.hashing.model_file import check_same_backbone, initial_hashnet, starts_afresh
from ssdh.hashing.network import HashNet, centre
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.checkpoint import Snapshots
from ssdh.training.head import train_head
from ssdh.training.loop import Progress
from ssdh.training.loss import PairBatches
from ssdh.training.params import TrainParams
from ssdh.training.validation import collapse_statistics, draw_validation, validation_map, warn_of_collapse

BlocksOf = Callable[[HashNet], Blocks]


@dataclass(frozen=True)
class Inputs:
    """What training reads: features (N, D) and images by manifest row, the split, pseudo-labels of its train rows.

    labels (N, C) are read for the validation curve alone; C = 0 where there are none.
    """

    features: NDArray[np.float32]
    images: ImageSource
    split: Split
    pairs: PairLabels
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """Where training runs, and where its snapshots lie."""

    device: torch.device
    rank: Rank
    workers: int = 0
    snapshots: Snapshots | None = None


def fit(
    inputs: Inputs,
    params: TrainParams,
    backbone: BackboneParams,
    images: ImageParams,
    *,
    bits: int,
    seed: int,
    place: Place,
) -> tuple[HashNet, Progress, dict[str, int]]:
    """Train as `params` say; returns the network, its curves and, on rank 0, statistics of the train images' codes.

    Raises DataError where `train.init_file` does not fit.
    """
    if not starts_afresh(params.init_file):
        check_same_backbone(Path(params.init_file), backbone, images)
    others = "train.precision bf16 or more runtime.processes" if params.finetune else "runtime.device cpu"
    way_out = f"try {max(2, params.batch_size // 2)}, {others} (params.yaml: train.batch_size)"
    with memory_for(f"train.batch_size {params.batch_size}", place.device, way_out):
        pairs = PairBatches(inputs.pairs, place.device, unknown_weight=params.unknown_weight, target=params.target)
        if params.finetune:
            model, progress, blocks_of = _fit_network(
                inputs, pairs, params, load_backbone(backbone, images), bits, seed, place
            )
        else:
            model, progress, blocks_of = _fit_head(inputs, pairs, params, bits, seed, place)
    if not place.rank.first:
        return model, progress, {}
    statistics = collapse_statistics(outputs_of(blocks_of(model))(inputs.split.train))
    warn_of_collapse(statistics, len(inputs.split.train), bits, _way_out_of_collapse(params))
    return model, progress, statistics


def _way_out_of_collapse(params: TrainParams) -> str:
    if params.finetune:
        return "lower train.lr_backbone or train.lr"
    if not params.centre:
        return "features may share a large mean: set train.centre to true or choose another recipe"
    return "lower train.lr or choose another recipe"


def _fit_head(
    inputs: Inputs, pairs: PairBatches, params: TrainParams, bits: int, seed: int, place: Place
) -> tuple[HashNet, Progress, BlocksOf]:
    def blocks_of(model: HashNet) -> Blocks:
        return feature_blocks(model, inputs.features, place.device)

    model, progress = train_head(
        np.ascontiguousarray(inputs.features[inputs.split.train]),
        pairs,
        params,
        bits=bits,
        seed=seed,
        device=place.device,
        rank=place.rank,
        snapshots=place.snapshots,
        validate=_validation(blocks_of, inputs, seed),
    )
    return model, progress, blocks_of


def _fit_network(
    inputs: Inputs, pairs: PairBatches, params: TrainParams, frozen: Backbone, bits: int, seed: int, place: Place
) -> tuple[HashNet, Progress, BlocksOf]:
    from ssdh.training.finetune import (  # imports torchvision, which the hash layer needs not
        AugmentedImages,
        train_network,
    )

    def blocks_of(model: HashNet) -> Blocks:
        return image_blocks(model, frozen.preprocessing, inputs.images, place.device, params.precision, place.workers)

    rows = inputs.split.train
    model = initial_hashnet(frozen.dim, bits, seed, params.init_file, frozen.module, params.power)
    if params.centre and starts_afresh(params.init_file):
        centre(model, torch.from_numpy(np.ascontiguousarray(inputs.features[rows])))
    crops = AugmentedImages(
        inputs.images,
        frozen.preprocessing,
        rows,
        seed=seed,
        device=place.device,
        workers=place.workers,
        rank=place.rank,
    )
    model, progress = train_network(
        model,
        crops,
        pairs,
        params,
        seed=seed,
        device=place.device,
        snapshots=place.snapshots,
        validate=_validation(blocks_of, inputs, seed),
    )
    return model, progress, blocks_of


def _validation(blocks_of: BlocksOf, inputs: Inputs, seed: int) -> Callable[[HashNet], float] | None:
    """The function from a model to its validation mAP; None without labels or without queries."""
    queries, database = draw_validation(inputs.split, seed)
    if not inputs.labels.shape[1] or not len(queries):
        return None
    return lambda model: validation_map(outputs_of(blocks_of(model)), inputs.labels, queries, database)
