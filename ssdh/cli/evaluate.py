"""`python -m ssdh evaluate --model FILE`: measure a trained model on the current data and split, without training.

Its codes are computed anew: of a whole network from the images; of a hash layer alone from `features/features.npy` if
its frozen network is the one of `params.yaml`, else from the images too. Nothing of the pipeline is overwritten.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssdh.core.errors import DataError

OWN = Path("models/hashnet.safetensors")


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand's parser."""
    parser = subparsers.add_parser("evaluate", help="measure a model without training", description=__doc__)
    parser.add_argument("--model", type=Path, default=OWN, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--weights-file", type=Path, metavar="FILE", help="weights of the model's frozen network")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every metric to this file too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the metrics, one a line; raises DataError where --model does not exist or --json cannot be written."""
    from ssdh.core.files import check_writable, write_json

    if options.model != OWN and not options.model.exists():
        raise DataError(f"{options.model} does not exist: --model wants a .safetensors of this pipeline, such as {OWN}")
    if options.json:
        check_writable(options.json)
    metrics = measure(options.model, options.weights_file)
    for name, value in _flat(metrics):
        print(f"{name:<28} {value:.4f}" if isinstance(value, float) else f"{name:<28} {value}")
    if options.json:
        write_json(options.json, metrics)
    return 0


def _flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each metric."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def measure(path: Path, weights_file: Path | None = None) -> dict[str, Any]:
    """The metrics of `metrics/metrics.json` for the model at `path` on the data set of `params.yaml`.

    Raises DataError where the model or the outs of `prepare` and `extract` are missing, of another data set or of
    different runs.
    """
    import numpy as np

    from ssdh.core.device import use_device
    from ssdh.core.files import read_array
    from ssdh.core.params import TopK, read_params, section
    from ssdh.core.runtime import RuntimeParams
    from ssdh.core.split import read_split
    from ssdh.evaluation.manifold_recall import manifold_recall
    from ssdh.evaluation.metrics import evaluate
    from ssdh.evaluation.params import EvaluateParams
    from ssdh.features.params import BackboneParams, ImageParams
    from ssdh.features.weights import read_weights
    from ssdh.hashing.codes import pack, sign_codes
    from ssdh.hashing.encoder import feature_blocks, outputs_of
    from ssdh.hashing.model_file import describe_backbone, load_hashnet, read_metadata
    from ssdh.search.finished_run import check_one_run, dataset_of

    check_one_run("train" if path == OWN else "extract")
    params = read_params()
    dataset = dataset_of(params)
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    device = use_device(runtime.device, deterministic=runtime.deterministic)
    metadata = read_metadata(path)
    features = read_array(Path("features/features.npy"))
    if weights_file is not None:
        read_weights(str(weights_file), "--weights-file")  # later errors would call it by the parameter's name
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    images: ImageParams = section(params, f"datasets.{dataset}.images", ImageParams)
    layer_alone = not metadata["has_backbone"] and weights_file is None
    if layer_alone and describe_backbone(backbone, images).items() <= metadata.items():
        blocks = feature_blocks(load_hashnet(path), features, device)
    else:
        blocks = _blocks_of_images(path, weights_file, params, dataset, runtime, device)
    split = read_split(Path("data/split"))
    codes = pack(sign_codes(outputs_of(blocks)(np.arange(len(features)))))
    found = evaluate(
        codes,
        read_array(Path("data/labels.npy")),
        features,
        split,
        bits=int(metadata["bits"]),
        topk=section(params, f"datasets.{dataset}.topk", TopK),
        params=section(params, "evaluate", EvaluateParams),
    )
    if (recall := manifold_recall(codes, features, split, bits=int(metadata["bits"]))) is not None:
        found.metrics["manifold_recall"] = recall
    return {"dataset": dataset, "weights": metadata["weights"], "model": str(path), **found.metrics}


def _blocks_of_images(
    path: Path, weights_file: Path | None, params: dict[str, Any], dataset: str, runtime: Any, device: Any
) -> Any:
    """The model's outputs of image rows."""
    from ssdh.core.params import section
    from ssdh.datasets import registry
    from ssdh.features.forward import image_blocks
    from ssdh.features.images import open_images
    from ssdh.hashing.encoder import load_encoder
    from ssdh.hashing.model_file import image_precision, read_metadata

    precision = image_precision(read_metadata(path))
    encoder = load_encoder(path, weights_file)
    root = registry.get(dataset).root(section(params, f"datasets.{dataset}.data", registry.get(dataset).Params))
    source = open_images(Path("data/images"), root)
    return image_blocks(encoder, encoder.preprocessing, source, device, precision, runtime.num_workers)
