"""The network that training starts from: fresh weights, or the model in `train.init_file`, which must fit the run."""

from pathlib import Path

from torch import nn

from ssdh.core.errors import DataError
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.hashing.model_file import describe_backbone, load_hashnet, read_metadata, takes_embeddings
from ssdh.hashing.network import HashNet, seeded_hashnet
from ssdh.training.params import TrainParams


def initial_hashnet(dim: int, bits: int, seed: int, params: TrainParams, backbone: nn.Module | None = None) -> HashNet:
    """The network that training starts from: fresh from `seed`, or the model in `train.init_file` (placeholder: none).

    Raises DataError where a model from a file does not fit the features, the code length, `train.power`, `train.head`
    or the backbone.
    """
    if params.starts_afresh:
        return seeded_hashnet(dim, bits, seed, backbone, params.power, params.head)
    path = Path(params.init_file)
    given = load_hashnet(path)
    if (given.bits, given.dim) != (bits, dim):
        raise DataError(
            f"train.init_file {path} has {given.bits} bits on features of {given.dim} values, expected "
            f"are {bits} bits on {dim}: set bits and backbone to the file's (params.yaml: train.init_file)"
        )
    if given.power != params.power:
        raise DataError(
            f"train.init_file {path} was trained with train.power {given.power:g}, expected is {params.power:g}: set "
            f"train.power to {given.power:g} (params.yaml: train.init_file)"
        )
    if given.head_name != params.head:
        raise DataError(
            f"train.init_file {path} has the head {given.head_name}, expected is {params.head}: set train.head to "
            f"{given.head_name} (params.yaml: train.init_file)"
        )
    if given.backbone is not None and backbone is None:
        raise DataError(f"train.init_file {path} holds a whole network: set train.finetune to true to train it on")
    if given.backbone is None:
        given.backbone = backbone
    return given.requires_grad_(True)


def check_same_backbone(path: Path, backbone: BackboneParams, images: ImageParams) -> None:
    """Raise DataError where the model at `path` (`train.init_file`) belongs to another frozen network than the given.

    Of a whole network the preprocessing must be the same too. What the file does not say is not compared.
    """
    metadata = read_metadata(path)
    if takes_embeddings(metadata):
        raise DataError(
            f"train.init_file {path} was trained on embeddings, not on images (params.yaml: train.init_file)"
        )
    expected = describe_backbone(backbone, images)
    places = {"arch": "backbone.arch", "layer": "backbone.layer", "weights": "datasets.<dataset>.images.weights"}
    if metadata["has_backbone"]:
        places |= {name: f"datasets.<dataset>.images.{name}" for name in ("size", "mean", "std")}
    else:
        places["backbone_precision"] = "backbone.precision"  # of the features that it was trained on
    for name, place in places.items():
        if name in metadata and metadata[name] != expected[name]:
            raise DataError(
                f"train.init_file {path} was trained with {name} {metadata[name]}, expected is {expected[name]}: set "
                f"{place} to the file's (params.yaml: train.init_file)"
            )


def check_for_embeddings(path: Path) -> None:
    """Raise DataError where the model at `path` (`train.init_file`) was trained on images."""
    if not takes_embeddings(read_metadata(path)):
        raise DataError(
            f"train.init_file {path} was trained on images, not on embeddings (params.yaml: train.init_file)"
        )
