"""The hash network z = tanh(W·(φ − c)·s + b), on features φ or with the backbone that computes them, and its file."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssdh.backbones import build_network, transforms_input, without_storage
from ssdh.errors import DataError
from ssdh.files import atomic_path, is_placeholder

CHUNK = 2**25  # values that are centred at once: in double precision 256 MiB
TINY = 1e-12  # below any feature that means something; keeps gradients of powers and norms finite


class HashNet(nn.Module):
    """Relaxed codes of features or images.

    dim: D of the features; bits: K; backbone: the network from preprocessed images (n, 3, size, size) to features
    (n, D), or None. `power` p > 0: features become sign(φ)·|φ|^p at unit length (see `ssdh.normalisation`). `center`
    (D,) is subtracted from them: their train mean, or zeros; `scale` () multiplies what is left.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, dim: int, bits: int, backbone: nn.Module | None = None, power: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.power = power
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.hash = nn.Linear(dim, bits)

    @property
    def bits(self) -> int:
        """K, the length of a code."""
        return self.hash.out_features

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: features (n, D), or images (n, 3, size, size) if there is a backbone; returns (n, K) in (−1, 1)."""
        features = self.features(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            return torch.tanh(self.hash(self.prepared(features.to(self.hash.weight.dtype))))

    def prepared(self, features: Tensor) -> Tensor:
        """What the hash layer takes: features (n, D), normalised if `power` asks for it, centred and scaled."""
        return (self.normalised(features) - self.center) * self.scale

    def normalised(self, features: Tensor) -> Tensor:
        """sign(φ)·|φ|^power at unit length, (n, D); the features themselves for power 0."""
        if self.power == 0:
            return features
        powered = features if self.power == 1 else features.sign() * features.abs().clamp_min(TINY) ** self.power
        unit: Tensor = powered / torch.linalg.vector_norm(powered, dim=1, keepdim=True).clamp_min(TINY)
        return unit

    def features(self, inputs: Tensor) -> Tensor:
        """Features (n, D) of images (n, 3, H, W); features pass through.

        Raises DataError for images where the model is the hash layer alone.
        """
        if inputs.ndim == 2:
            return inputs
        if self.backbone is None:
            raise DataError(
                "this model holds the hash layer alone and takes features (n, D): load_encoder takes images"
            )
        features: Tensor = self.backbone(inputs)
        return features


def seeded_hashnet(dim: int, bits: int, seed: int, backbone: nn.Module | None = None, power: float = 0.0) -> HashNet:
    """A network whose hash layer has PyTorch's usual initial weights, drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HashNet(dim, bits, backbone, power)


@torch.no_grad()
def centre(model: HashNet, features: Tensor) -> None:
    """Subtract the mean of the train features (n, D) and start every hyperplane through it.

    Normalised features (`model.power`) are also scaled to a mean square of 1 a dimension, so that one learning rate
    suits any backbone. A model that has a centre keeps its own. Sums are taken in double precision on the CPU (MPS
    has none), a part of the rows at a time.
    """
    if model.center.any():
        return
    parts = torch.split(features, max(1, CHUNK // features.shape[1]))
    sums = torch.stack([model.normalised(part).cpu().double().sum(0) for part in parts])  # (parts, D)
    model.center.copy_(sums.sum(0) / len(features))
    model.hash.bias.zero_()
    if model.power:
        squares = [(model.normalised(part) - model.center).cpu().double().square().sum() for part in parts]
        model.scale.copy_((torch.stack(squares).sum() / features.numel()).clamp_min(TINY).rsqrt())


# --- the file -------------------------------------------------------------------------------------------------------


def save_hashnet(path: Path, model: HashNet, metadata: dict[str, Any]) -> None:
    """Write the weights as `.safetensors` with metadata (values as JSON text), atomically, the same bytes each time.

    Raises DataError where the file cannot be written.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if model.power:
        metadata = metadata | {"power": model.power}
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
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: run `dvc repro` (or `dvc checkout` for cached results)") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a whole model file ({error}): train it anew") from None
    if not {"hash.weight", "hash.bias", "center"} <= names:
        raise DataError(f"{path} is not a hash network: it has no hash.weight, hash.bias and center")
    return {name: _parsed(value) for name, value in text.items()} | {
        "has_backbone": any("backbone." in n for n in names)
    }


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def load_hashnet(path: Path) -> HashNet:
    """Read a trained network in evaluation mode.

    It takes features (n, D), and preprocessed images too where the whole network was trained. Raises DataError where
    the file is missing, broken or not a hash network.
    """
    metadata = read_metadata(path)
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    bits, dim = state["hash.weight"].shape
    backbone = None
    if metadata["has_backbone"]:
        arch, layer, size = str(metadata["arch"]), str(metadata["layer"]), int(metadata["size"])
        transform_input = transforms_input(arch, str(metadata.get("weights")))
        backbone = without_storage(lambda: build_network(arch, layer, size, transform_input=transform_input))
    with torch.device("meta"):
        model = HashNet(dim, bits, backbone, float(metadata.get("power", 0.0)))
    state.setdefault("scale", torch.ones(()))
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit its own metadata: {str(error).splitlines()[-1].strip()}") from None
    return model.eval()


def starts_afresh(init_file: str) -> bool:
    """Whether `train.init_file` is the placeholder: training starts from fresh weights, not from a given model."""
    return is_placeholder(Path(init_file))


def initial_hashnet(
    dim: int, bits: int, seed: int, init_file: str, backbone: nn.Module | None = None, power: float = 0.0
) -> HashNet:
    """The network that training starts from: fresh from `seed`, or the model in `train.init_file` (placeholder: none).

    Raises DataError where a model from a file does not fit the features, the code length, `power` or the backbone.
    """
    if starts_afresh(init_file):
        return seeded_hashnet(dim, bits, seed, backbone, power)
    path = Path(init_file)
    given = load_hashnet(path)
    if given.hash.weight.shape != (bits, dim):
        raise DataError(
            f"train.init_file {path} has {given.bits} bits on features of {given.hash.in_features} values, wanted "
            f"are {bits} bits on {dim}: set bits and backbone to the file's (params.yaml: train.init_file)"
        )
    if given.power != power:
        raise DataError(
            f"train.init_file {path} was trained with train.power {given.power:g}, wanted is {power:g}: set "
            f"train.power to {given.power:g} (params.yaml: train.init_file)"
        )
    if given.backbone is not None and backbone is None:
        raise DataError(f"train.init_file {path} holds a whole network: set train.finetune to true to train it on")
    if given.backbone is None:
        given.backbone = backbone
    return given.requires_grad_(True)
