"""What is measured where, and how large: the sizes for a card, and tiny ones to see on a CPU that all of it runs."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What every part is told.

    out: where the JSON goes; work: where workspaces lie, several GB; cifar: the folder of `cifar-10-batches-py/`, None
    for the embedded digits; weights: VGG16's convolutions, None for random ones.
    """

    device: str
    out: Path
    work: Path
    cifar: Path | None
    weights: Path | None
    small: bool

    @property
    def size(self) -> int:
        """Pixels of an image."""
        return 32 if self.small else 224

    @property
    def backbones(self) -> list[str]:
        """Networks whose features are extracted."""
        return ["mobilenet_v3_small", "resnet18"] if self.small else ["vgg16", "resnet50", "vit_b_16"]

    @property
    def trained(self) -> str:
        """The network that is trained whole."""
        return "mobilenet_v3_small" if self.small else "vgg16"

    @property
    def steps(self) -> dict[int, int]:
        """Batch sizes, and the steps of each that are measured at once."""
        return {8: 2} if self.small else {24: 50, 256: 10}

    @property
    def extraction_seconds(self) -> float:
        """About how long one measured extraction takes."""
        return 0.2 if self.small else 2.0

    @property
    def epochs(self) -> int:
        """Of whole-network training, at most."""
        return 1 if self.small else 50

    @property
    def training_seconds(self) -> float:
        """What one whole-network training may take: it gets as many epochs as fit."""
        return 100.0

    def arguments(self) -> list[str]:
        """The command line that says the same."""
        given = ["--device", self.device, "--out", str(self.out), "--work", str(self.work)]
        given += ["--cifar", str(self.cifar)] if self.cifar else []
        given += ["--weights", str(self.weights)] if self.weights else []
        return given + (["--small"] if self.small else [])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command line."""
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results, as JSON")
    parser.add_argument("--work", type=Path, help="a fast disk's folder for the workspaces; by default a temporary one")
    parser.add_argument("--cifar", type=Path, help="the folder of cifar-10-batches-py/; without it the embedded digits")
    parser.add_argument("--weights", type=Path, help="VGG16's convolutions; without them random weights")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to see on a CPU that all of it runs")


def options_of(chosen: argparse.Namespace) -> Options:
    """The options that were chosen; paths are absolute, since stages run in other folders."""
    cifar, weights = (path.resolve() if path else None for path in (chosen.cifar, chosen.weights))
    return Options(chosen.device, chosen.out.resolve(), chosen.work.resolve(), cifar, weights, chosen.small)
