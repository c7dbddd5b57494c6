"""The file of a trained hash network: weights, and metadata by which its backbone is built again."""

import json
import struct
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ssdh import __version__
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import atomic_path, missing_result
from ssdh.core.params import Bits, Params, validate
from ssdh.features.backbone import network_to_fill, resolve_layer, resolve_preprocessing
from ssdh.features.params import BackboneParams, ImageParams, Preprocessing
from ssdh.hashing.network import HashNet
from ssdh.hashing.params import HeadName

EMBEDDINGS = "embeddings"  # what the metadata `input` says of a model that takes them


class Metadata(Params):
    """What a model's file may say of it; further entries are as they are."""

    model_config = ConfigDict(extra="allow")

    bits: Bits
    dim: int = Field(default=1, ge=1)
    power: float = Field(default=0.0, ge=0)
    head: HeadName = "tanh"
    arch: str = ""
    layer: str = ""
    size: int = Field(default=8, ge=8, le=2048)
    resize: int = Field(default=8, ge=8, le=4096)
    mean: list[float] = Field(default_factory=list)
    std: list[float] = Field(default_factory=list)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    precision: Literal["fp32", "bf16"] = "fp32"
    backbone_precision: Literal["fp32", "bf16"] = "fp32"
    train: dict[str, Any] = Field(default_factory=dict)
    hasher: dict[str, Any] = Field(default_factory=dict)


# --- the file -------------------------------------------------------------------------------------------------------


def save_hashnet(path: Path, model: HashNet, metadata: dict[str, Any]) -> None:
    """Write the weights as `.safetensors` with metadata (values as JSON text), atomically, the same bytes each time.

    Raises DataError where the file cannot be written.
    """
    metadata = metadata | {"ssdh_version": __version__}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if model.power:
        metadata = metadata | {"power": model.power}
    if model.head_name != "tanh":
        metadata = metadata | {"head": model.head_name}
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors leaves files that only their owner may read
        try:
            save_file(state, temporary, text)
        except SafetensorError as error:
            raise DataError(f"{path} could not be written: {error}") from None
        temporary.chmod(mode)
        _sort_header(temporary)


def _sort_header(path: Path) -> None:
    """Sort the header's JSON in place: safetensors writes metadata in random order, and outs must be bit-identical."""
    with path.open("rb+") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.dumps(json.loads(file.read(length)), separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        encoded = header.encode()
        if len(encoded) > length:
            raise DataError(f"{path}: the header of {length} bytes grew to {len(encoded)}")
        file.seek(8)
        file.write(encoded.ljust(length))


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a model file, values parsed from JSON where they are; DataError where it is not a model."""
    try:
        with safe_open(path, "pt") as file:
            text: dict[str, str] = file.metadata() or {}
            names = set(file.keys())
            bits = file.get_slice("hash.weight").get_shape()[0] if "hash.weight" in names else 0
    except FileNotFoundError:
        raise missing_result(path) from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a whole model file ({error}): train it anew") from None
    if not {"hash.weight", "hash.bias", "center"} <= names:
        raise DataError(f"{path} is not a hash network: it has no hash.weight, hash.bias and center")
    result = {"bits": bits} | {name: _parsed(value) for name, value in text.items()}
    try:
        validate(Metadata, result, "metadata", str(path))
    except ParameterError as error:
        raise DataError(f"{path} is not a whole model file ({str(error).splitlines()[0]}): train it anew") from None
    if result["bits"] != bits:
        raise DataError(f"{path} says bits {result['bits']} and has {bits}: train it anew")
    return result | {"has_backbone": any("backbone." in name for name in names)}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def load_hashnet(path: str | Path) -> HashNet:
    """Read a trained network in evaluation mode.

    It takes features (n, D), and preprocessed images too where the whole network was trained. Raises DataError where
    the file is missing, broken or not a hash network.
    """
    path = Path(path)
    metadata = read_metadata(path)
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    bits, dim = len(state["hash.weight"]), len(state["center"])
    backbone = None
    if metadata["has_backbone"]:
        arch, layer, size = str(metadata["arch"]), str(metadata["layer"]), int(metadata["size"])
        backbone = network_to_fill(arch, layer, size, str(metadata.get("weights")))
    with torch.device("meta"):
        model = HashNet(dim, bits, backbone, float(metadata.get("power", 0.0)), str(metadata.get("head", "tanh")))
    state.setdefault("scale", torch.ones(()))
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit its own metadata: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


# --- what its metadata say ------------------------------------------------------------------------------------------


def takes_embeddings(metadata: dict[str, Any]) -> bool:
    """Whether a model was trained on embeddings: there is no network below it."""
    return metadata.get("input") == EMBEDDINGS


def describe_input(backbone: BackboneParams, images: ImageParams | None, dim: int) -> dict[str, Any]:
    """The metadata that say what a model takes: images, by its frozen network; embeddings of `dim` values, by none."""
    return {"input": EMBEDDINGS, "dim": dim} if images is None else describe_backbone(backbone, images)


def describe_backbone(backbone: BackboneParams, images: ImageParams) -> dict[str, Any]:
    """The metadata by which the frozen network of a model is built again."""
    preprocessing = resolve_preprocessing(backbone, images)
    described = {
        "arch": backbone.arch,
        "layer": resolve_layer(backbone, images.weights),
        "weights": images.weights,
        "weights_file": backbone.weights_file,
        "backbone_precision": backbone.precision,
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }
    if preprocessing.interpolation != "bicubic":
        described["interpolation"] = preprocessing.interpolation
    return described


def model_preprocessing(metadata: dict[str, Any]) -> Preprocessing:
    """What the images of a model must go through, from its metadata."""
    mean, std = ((float(v[0]), float(v[1]), float(v[2])) for v in (metadata["mean"], metadata["std"]))
    how = str(metadata.get("interpolation", "bicubic"))
    return Preprocessing(int(metadata["resize"]), int(metadata["size"]), mean, std, how)


def image_precision(metadata: dict[str, Any]) -> str:
    """The precision, fp32 or bf16, in which a model encodes images: its own, or that of its frozen network."""
    result: str = metadata["precision"] if metadata["has_backbone"] else metadata["backbone_precision"]
    return result
