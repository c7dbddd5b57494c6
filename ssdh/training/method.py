"""What a method is to the training loop: a subclass of `Method` in `ssdh/methods/NAME.py`, beside its values NAME.yaml.

The loop, the head and the whole network are the same for all methods; a method says what it prepares once and what a
batch loses. `docs/adding.md` shows a new one.
"""

import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssdh.core.errors import ParameterError
from ssdh.core.params import recipe_file, recipes_folder, section
from ssdh.structure.pseudo_labels import PairLabels
from ssdh.training.params import TrainParams

NO_PAIRS = torch.empty(0, 0)


@dataclass(frozen=True)
class Batch:
    """What a step knows of its B train images.

    outputs: the head's (B, K), one for each view (one where a method takes none); rows: (B,) numbers of the images
    among the n train images; features: (B, D) frozen features as the head takes them (power-normalised, centred,
    scaled); views: the same of each view, which are those of the image itself where the whole network is trained;
    targets, weights: (B, B) of the pairs where the method asks for them; cosines: (B, B) of the frozen features as they
    were extracted, where `train.neighbor_weight` asks for them.
    """

    outputs: Sequence[Tensor]
    rows: NDArray[np.int64]
    features: Tensor
    views: Sequence[Tensor] = ()
    targets: Tensor = NO_PAIRS
    weights: Tensor = NO_PAIRS
    cosines: Tensor = NO_PAIRS


class Method(ABC):
    """A loss over the outputs of a batch; one object lives for one training run.

    views: how many views of each image a step takes, 0 or 2 (0: its features as they are). pairs: whether a step gets
    targets and weights of its pairs from the `structure` stage. own_view: whether an image's features as they are count
    as one of its views, the first: without any crops such a method trains on them alone.
    """

    views: ClassVar[int] = 0
    own_view: ClassVar[bool] = False
    pairs: ClassVar[bool] = False

    def __init__(self, params: TrainParams) -> None:
        self.params = params

    @classmethod
    def views_taken(cls, crops: int) -> int:
        """How many views a step takes of each image where there are `crops` of it; 0: its features as they are."""
        return 0 if cls.own_view and not crops else cls.views

    @classmethod
    def check_crops(cls, crops: int, way_out: str = "set views.count so") -> None:
        """Raise ParameterError where a step takes more views than `crops` features of crops and the image's own."""
        if cls.views_taken(crops) > crops + cls.own_view:
            recipe, needed = cls.__module__.rpartition(".")[2], cls.views - cls.own_view
            raise ParameterError(
                f"recipe {recipe} compares features of {needed} or more random crops of each image, here are {crops}: "
                f"{way_out}, or choose another recipe"
            )

    def prepare(self, features: Tensor, views: Sequence[Tensor], pair_labels: PairLabels) -> None:  # noqa: B027
        """Compute once, before training, what the loss needs of all n train images; nothing by default.

        features: (n, D) as in `Batch`; views: (n, D) of random crops, none where the whole network is trained;
        pair_labels: pseudo-labels and affinities of any pairs of the n images.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The scalar that a step makes smaller; differentiable in `batch.outputs`."""


def batch_loss(method: Method, batch: Batch) -> Tensor:
    """The loss of a batch; with `train.nested`, its sum over the codes' first bits of these lengths and all K bits.

    So each prefix is a code of its own (after Kusupati et al.: "Matryoshka Representation Learning", NeurIPS 2022). A
    length changes only the bits that it adds to the length before: the first b bits of a hash layer are learned as if
    the code ended there, whatever follows.
    """
    if not method.params.nested:
        return method.loss(batch)
    losses, learned = [], 0
    for bits in (*method.params.nested, batch.outputs[0].shape[1]):
        prefixes = [torch.cat([each[:, :learned].detach(), each[:, learned:bits]], dim=1) for each in batch.outputs]
        losses.append(method.loss(replace(batch, outputs=prefixes)))
        learned = bits
    return torch.stack(losses).sum()


def chosen_method(params: dict[str, Any]) -> Method:
    """The method that `recipe` of `params` names, with the effective values of `train`."""
    return load_method(section(params, "recipe", str))(section(params, "train", TrainParams))


def load_method(name: str) -> type[Method]:
    """The method in the recipe's `NAME.py`; ParameterError where there is none or it does not define exactly one."""
    file, source = recipe_file(name, "py"), recipes_folder() / f"{name}.py"
    if not source.is_file():
        raise ParameterError(f"recipe {name!r} has no {file}: write its method there (params.yaml: recipe)")
    module = _module(f"ssdh.methods.{name}", source)
    own = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    methods = [item for item in own if issubclass(item, Method)]
    if len(methods) != 1:
        raise ParameterError(f"{file} must define one subclass of Method, found {len(methods)}")
    return methods[0]


def _module(name: str, source: Path) -> ModuleType:
    """The module in a file, which need not lie in the package: a pipeline may have its own recipes."""
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(source.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(name, source.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
