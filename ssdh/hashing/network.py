"""The hash network z = head((φ − c)·s), on features φ or with the backbone that computes them.

The head of SSDH is tanh(W·φ + b); other methods want hidden layers, batch normalisation or no activation.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssdh.core.errors import DataError

CHUNK = 2**25  # values that are centred at once: in double precision 256 MiB
TINY = 1e-12  # below any feature that means something; keeps gradients of powers and norms finite
WIDTH = 1024  # of the hidden layer of head mlp

# name: the hidden layers of a head on D features, (their width, the layers)
HIDDEN: dict[str, Callable[[int], tuple[int, nn.Module]]] = {
    "mlp": lambda dim: (WIDTH, nn.Sequential(nn.Linear(dim, WIDTH), nn.ReLU())),
    "mlp_bn": lambda dim: (dim, nn.Sequential(nn.Linear(dim, dim), nn.ReLU())),
    "gelu_bn": lambda dim: (dim, nn.Sequential(nn.Linear(dim, dim), nn.GELU())),
}


class HashNet(nn.Module):
    """Relaxed codes of features or images; their signs are the code.

    dim: D of the features; bits: K; backbone: the network from preprocessed images (n, 3, size, size) to features
    (n, D), or None. `power` p > 0: features become sign(φ)·|φ|^p at unit length. `center` (D,) is subtracted from them:
    their train mean, or zeros; `scale` () multiplies what is left.

    head: tanh (one linear layer, outputs in (−1, 1)), linear (the same without tanh), mlp (D-1024-ReLU-K),
    mlp_bn (D-D-ReLU-K, batch normalisation), gelu_bn (D-D-GELU-K, batch normalisation).
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self, dim: int, bits: int, backbone: nn.Module | None = None, power: float = 0.0, head: str = "tanh"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.power = power
        self.head_name = head
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        width, self.hidden = HIDDEN[head](dim) if head in HIDDEN else (dim, nn.Identity())
        self.hash = nn.Linear(width, bits)
        self.norm = nn.BatchNorm1d(bits) if head.endswith("_bn") else nn.Identity()

    @property
    def dim(self) -> int:
        """D, the number of values of a feature."""
        return len(self.center)

    @property
    def bits(self) -> int:
        """K, the length of a code."""
        return self.hash.out_features

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: features (n, D), or images (n, 3, size, size) if there is a backbone; returns (n, K)."""
        features = self.features(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            return self.head(self.prepared(features.to(self.hash.weight.dtype)))

    def head(self, prepared: Tensor) -> Tensor:
        """Outputs (n, K) of prepared features (n, D)."""
        outputs: Tensor = self.norm(self.hash(self.hidden(prepared)))
        return torch.tanh(outputs) if self.head_name == "tanh" else outputs

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the head, without the backbone's."""
        return [value for name, value in self.named_parameters() if not name.startswith("backbone.")]

    def shortened(self, bits: int) -> "HashNet":
        """The network to the first `bits` of the code alone, which shares this one's parameters below the last layer.

        Raises ValueError where the code is not longer than that.
        """
        if not 1 <= bits <= self.bits:
            raise ValueError(f"a code of {self.bits} bits has no first {bits}")
        short = copy.copy(self)
        short._modules = dict(self._modules)
        short.hash = nn.Linear(self.hash.in_features, bits).to(self.hash.weight)
        kept = {name: value[:bits] for name, value in self.hash.state_dict().items()}
        short.hash.load_state_dict(kept)
        if isinstance(self.norm, nn.BatchNorm1d):
            short.norm = nn.BatchNorm1d(bits).to(self.hash.weight)
            short.norm.load_state_dict(
                {name: value[:bits] if value.ndim else value for name, value in self.norm.state_dict().items()}
            )
        return short.train(self.training)

    def prepared(self, features: Tensor) -> Tensor:
        """What the head takes: features (n, D), normalised if `power` asks for it, centred and scaled."""
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


def seeded_hashnet(
    dim: int, bits: int, seed: int, backbone: nn.Module | None = None, power: float = 0.0, head: str = "tanh"
) -> HashNet:
    """A network whose head has PyTorch's usual initial weights, drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HashNet(dim, bits, backbone, power, head)


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
