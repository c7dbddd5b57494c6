"""The parameters of training; apart from `ssdh.training.loop`, so that they can be checked without torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ssdh.core.errors import ParameterError
from ssdh.core.files import is_placeholder
from ssdh.core.params import Bits, Params
from ssdh.hashing.params import HeadName

OF_NEIGHBORS = {"neighbor_weight", "neighbor_temperature", "code_temperature"}  # of the pair loss

# written into a model's file only where they are set
OF_SOME_RECIPES = {"head", "schedule", "lr_drop", "loss", "nested", *OF_NEIGHBORS}


# the least and the most of values that methods' own losses take, by name; other names: any number up to MOST
RANGES = {
    "temperature": (1e-3, 1e3),
    "epsilon": (1e-6, 1e3),
    "clusters": (2, 1e5),
    "neighbors": (0.0, 1.0),  # shares of the images
    "manifold_neighbors": (0.0, 1.0),
    **dict.fromkeys(("alpha", "beta", "contrast", "gamma", "quantisation", "rate", "threshold"), (0.0, 1e3)),
}
MOST = 1e6


class TrainParams(Params):
    """How the hash layer, or the whole network, is trained; effective values of the recipe and the top level."""

    finetune: bool
    epochs: int = Field(ge=0, le=1_000_000)  # 0: the network of `init_file` is kept as it is
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: float = Field(gt=0)
    lr_backbone: float | None = Field(default=None, gt=0)  # None: lr
    momentum: float = Field(ge=0, lt=1)  # of sgd
    weight_decay: float = Field(ge=0, le=1)
    batch_size: int = Field(ge=2, le=65_536)  # of all processes together
    power: float = Field(default=0.0, ge=0, le=4)  # 0: features as they are
    centre: bool
    unknown_weight: float = Field(default=0.0, ge=0, le=100)
    target: Literal["ternary", "soft"] = "ternary"
    neighbor_weight: float = Field(default=0.0, ge=0, le=1)  # 0: same kind; 1: same picture
    neighbor_temperature: float = Field(default=0.25, ge=1e-3, le=1e3)  # in deviations of the features' cosines
    code_temperature: float = Field(default=0.07, ge=1e-3, le=1e3)
    nested: list[Bits] = Field(default_factory=list)  # shorter lengths at which the code's first bits are codes too
    freeze_until: str | None = None
    eval_interval: int = Field(ge=0)  # iterations; 0: never
    snapshot_interval: int = Field(ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    init_file: str
    head: HeadName = "tanh"
    schedule: Literal["constant", "cosine", "drop"] = "constant"
    lr_drop: float = Field(default=0.8, gt=0, lt=1)  # share of the epochs after which schedule drop divides lr by 10
    loss: dict[str, float] = Field(default_factory=dict)  # what the method's own loss takes

    @field_validator("nested")
    @classmethod
    def _ascend(cls, nested: list[int]) -> list[int]:
        if nested != sorted(set(nested)):
            raise ValueError("must be lengths that ascend, each once")
        return nested

    @field_validator("loss")
    @classmethod
    def _in_range(cls, loss: dict[str, float]) -> dict[str, float]:
        for name, value in loss.items():
            least, most = RANGES.get(name, (-MOST, MOST))
            if not least <= value <= most:
                raise ValueError(f"must hold {name} from {least:g} to {most:g}")
        return loss

    @property
    def starts_afresh(self) -> bool:
        """Whether `init_file` is empty or the placeholder: training starts from fresh weights."""
        return not self.init_file or is_placeholder(Path(self.init_file))


def check_train_params(params: TrainParams, bits: int, source: str = "params.yaml") -> None:
    """Raise ParameterError where `nested` does not fit codes of `bits` bits, or `epochs` 0 has no model to keep.

    source: where the values come from, for the message.
    """
    if params.nested and params.nested[-1] >= bits:
        raise ParameterError(
            f"train.nested must hold lengths below bits ({bits}), got {params.nested[-1]}: bits is the longest code "
            f"({source}: train.nested)"
        )
    if not params.epochs and params.starts_afresh:
        raise ParameterError(
            "train.epochs 0 keeps a trained model, but train.init_file names none: name its file, or train at least "
            f"one epoch ({source}: train.init_file)"
        )
