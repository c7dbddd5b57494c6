"""The parameters of training; apart from `ssdh.training.loop`, so that they can be checked without torch."""

from typing import Literal

from pydantic import Field

from ssdh.core.params import Params


class TrainParams(Params):
    """How the hash layer, or the whole network, is trained; effective values of the recipe and the top level."""

    finetune: bool
    epochs: int = Field(ge=1, le=1_000_000)
    optimizer: Literal["sgd", "adam"]
    lr: float = Field(gt=0)
    lr_backbone: float | None = Field(default=None, gt=0)  # None: lr
    momentum: float = Field(ge=0, lt=1)  # of sgd
    weight_decay: float = Field(ge=0)
    batch_size: int = Field(ge=2, le=65_536)  # of all processes together
    power: float = Field(default=0.0, ge=0, le=4)  # 0: features as they are
    centre: bool
    unknown_weight: float = Field(ge=0)
    target: Literal["ternary", "soft"] = "ternary"
    freeze_until: str | None = None
    eval_interval: int = Field(ge=0)  # iterations; 0: never
    snapshot_interval: int = Field(ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    init_file: str
