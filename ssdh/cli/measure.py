"""Measure a trained model on the current data and split: what `python -m ssdh evaluate` does, and what it imports."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdh.core.device import use_device
from ssdh.core.errors import DataError
from ssdh.core.files import read_array
from ssdh.core.params import TopK, read_params, section
from ssdh.core.runtime import RuntimeParams
from ssdh.core.split import read_split
from ssdh.datasets import registry
from ssdh.evaluation.manifold_recall import manifold_recall
from ssdh.evaluation.metrics import evaluate
from ssdh.evaluation.params import EvaluateParams
from ssdh.features.forward import image_blocks
from ssdh.features.images import open_images
from ssdh.features.params import BackboneParams, image_params
from ssdh.features.weights import read_weights
from ssdh.hashing.codes import pack, sign_codes
from ssdh.hashing.encoder import Blocks, feature_blocks, load_encoder, outputs_of
from ssdh.hashing.model_file import describe_input, image_precision, load_hashnet, read_metadata
from ssdh.search.finished_run import MODEL, check_one_run, dataset_of


def measure(path: Path, weights_file: Path | None = None) -> dict[str, Any]:
    """The metrics of `metrics/metrics.json` for the model at `path` on the data set of `params.yaml`.

    Raises DataError where the model or the outs of `prepare` and `extract` are missing, of another data set or of
    different runs.
    """
    check_one_run("train" if path == MODEL else "extract")
    params = read_params()
    dataset = dataset_of(params)
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    device = use_device(runtime.device, deterministic=runtime.deterministic)
    metadata = read_metadata(path)
    features = read_array(Path("features/features.npy"))
    if weights_file is not None:
        read_weights(str(weights_file), "--weights-file")  # later errors would call it by the parameter's name
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    images = image_params(params, dataset)
    layer_alone = not metadata["has_backbone"] and weights_file is None
    if layer_alone and describe_input(backbone, images, features.shape[1]).items() <= metadata.items():
        blocks = feature_blocks(load_hashnet(path), features, device)
    elif images is None:
        raise DataError(f"{path} was not trained on embeddings of {features.shape[1]} values, as they are here")
    else:
        blocks = _blocks_of_images(path, weights_file, params, dataset, runtime, device)
    split = read_split(Path("data/split"))
    codes = pack(sign_codes(outputs_of(blocks)(np.arange(len(features)))))
    result = evaluate(
        codes,
        read_array(Path("data/labels.npy")),
        features,
        split,
        bits=int(metadata["bits"]),
        topk=section(params, f"datasets.{dataset}.topk", TopK),
        params=section(params, "evaluate", EvaluateParams),
        nested=metadata.get("train", {}).get("nested", []),
    )
    if (recall := manifold_recall(codes, features, split, bits=int(metadata["bits"]))) is not None:
        result.metrics["manifold_recall"] = recall
    return {"dataset": dataset, "weights": metadata.get("weights", "none"), "model": str(path), **result.metrics}


def _blocks_of_images(
    path: Path,
    weights_file: Path | None,
    params: dict[str, Any],
    dataset: str,
    runtime: RuntimeParams,
    device: torch.device,
) -> Blocks:
    """The model's outputs of image rows."""
    precision = image_precision(read_metadata(path))
    encoder = load_encoder(path, weights_file)
    root = registry.get(dataset).root(section(params, f"datasets.{dataset}.data", registry.get(dataset).Params))
    source = open_images(Path("data/images"), root)
    return image_blocks(encoder, encoder.preprocessing, source, device, precision, runtime.num_workers)
