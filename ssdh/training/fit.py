"""From a stage's inputs to a trained network: the hash layer on cached features, or the whole network on images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssdh.core.arrays import Rows
from ssdh.core.device import memory_for
from ssdh.core.files import take_rows
from ssdh.core.split import Split
from ssdh.features.augment import CROPS
from ssdh.features.backbone import load_backbone
from ssdh.features.forward import image_blocks
from ssdh.features.images import ImageSource
from ssdh.features.params import AugmentParams, BackboneParams, ImageParams, Preprocessing
from ssdh.hashing.encoder import feature_blocks
from ssdh.hashing.network import HashNet, centre
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.collapse import WaysOut, examine_training
from ssdh.training.head import train_head
from ssdh.training.init_file import check_for_embeddings, check_same_backbone, initial_hashnet
from ssdh.training.loop import Progress, Run, Trainer
from ssdh.training.params import TrainParams
from ssdh.training.validation import draw_validation, validation_map


@dataclass(frozen=True)
class Inputs:
    """What training reads: features (N, D) and images by manifest row, the split, pseudo-labels of its train rows.

    views: (V, n, D) features of random views of the train images, V = 0 where the recipe takes none; augment: how views
    are drawn where the whole network is trained. labels (N, C) are read for the validation curve alone; C = 0 where
    there are none. images: None of embeddings.
    """

    features: NDArray[Any]
    images: ImageSource | None
    split: Split
    pair_labels: PairLabels
    labels: NDArray[np.uint8]
    views: NDArray[np.floating[Any]]
    augment: AugmentParams


@dataclass(frozen=True)
class Outputs:
    """What a network says of images by manifest row: from their features, or, with preprocessing, from the images."""

    inputs: Inputs
    run: Run
    preprocessing: Preprocessing | None = None

    def __call__(self, model: HashNet, rows: Rows) -> NDArray[np.float32]:
        """Outputs (len(rows), K)."""
        run = self.run
        if self.preprocessing is None or self.inputs.images is None:
            blocks = feature_blocks(model, self.inputs.features, run.device)
        else:
            blocks = image_blocks(
                model, self.preprocessing, self.inputs.images, run.device, run.params.precision, run.workers
            )
        return np.concatenate(list(blocks(rows)))

    def validation(self) -> Callable[[HashNet], float] | None:
        """The function from a network to its validation mAP; None without labels or without queries."""
        labels = self.inputs.labels
        queries, database = draw_validation(self.inputs.split, self.run.seed)
        if not labels.shape[1] or not len(queries):
            return None
        return lambda model: validation_map(lambda rows: self(model, rows), labels, queries, database)


def fit(
    inputs: Inputs, run: Run, backbone: BackboneParams, images: ImageParams | None
) -> tuple[HashNet, Progress, dict[str, int]]:
    """Train as `run` says; returns the network, its curves and, on rank 0, statistics of the train images' codes.

    No epochs leave the network of `train.init_file` as it is.

    Raises DataError where `train.init_file`, ParameterError where the views do not fit.
    """
    params = run.params
    if not params.starts_afresh:
        if images is None:
            check_for_embeddings(Path(params.init_file))
        else:
            check_same_backbone(Path(params.init_file), backbone, images)
    others = "train.precision bf16 or more runtime.processes" if params.finetune else "runtime.device cpu"
    way_out = f"try {max(2, params.batch_size // 2)}, {others} (params.yaml: train.batch_size)"
    with memory_for(f"train.batch_size {params.batch_size}", run.device, way_out):
        if params.finetune:
            assert images is not None  # `check` refuses embeddings
            trainer, outputs = _network_trainer(inputs, run, backbone, images)
            model, progress = trainer.model, trainer.train()
        else:
            outputs = Outputs(inputs, run)
            features = np.asarray(take_rows(inputs.features, inputs.split.train), np.float32)
            model, progress = train_head(
                features, inputs.pair_labels, run, views=inputs.views, validate=outputs.validation()
            )
    if not run.rank.first:
        return model, progress, {}
    statistics = examine_training(run, progress, outputs(model, inputs.split.train), _ways_out(params))
    return model, progress, statistics


def _ways_out(params: TrainParams) -> WaysOut:
    if params.finetune:
        collapse = "lower train.lr_backbone or train.lr"
    elif not params.centre:
        collapse = "features may share a large mean: set train.centre to true or choose another recipe"
    else:
        collapse = "lower train.lr or choose another recipe"
    return WaysOut(
        saturation="lower train.lr (params.yaml: train.lr)",
        no_learning="lower train.weight_decay, change train.lr or choose another recipe (params.yaml: train)",
        collapse=collapse,
    )


def _network_trainer(
    inputs: Inputs, run: Run, backbone: BackboneParams, images: ImageParams
) -> tuple[Trainer, Outputs]:
    from ssdh.training.finetune import (  # imports torchvision, which the hash layer needs not
        AugmentedImages,
        NetworkTrainer,
    )

    assert inputs.images is not None
    params, rows = run.params, inputs.split.train
    taken = run.method.views_taken(len(inputs.views))
    frozen = load_backbone(backbone, images)
    outputs = Outputs(inputs, run, frozen.preprocessing)
    features = take_rows(inputs.features, rows)
    model = initial_hashnet(frozen.dim, run.bits, run.seed, params, frozen.module)
    if params.centre and params.starts_afresh:
        centre(model, torch.from_numpy(features))
    crops = AugmentedImages(
        inputs.images,
        frozen.preprocessing,
        rows,
        seed=run.seed,
        device=run.device,
        workers=run.workers,
        rank=run.rank,
        views=max(1, taken),
        augment=inputs.augment if taken else CROPS,
    )
    return NetworkTrainer(run, model, crops, features, inputs.pair_labels, outputs.validation()), outputs
