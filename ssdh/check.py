"""Everything that can be known to be wrong before a stage runs: parameters, raw data, weights, device."""

from pathlib import Path
from typing import Any

from ssdh.core.cache_dir import check_home
from ssdh.core.device import check_device
from ssdh.core.distributed import wanted_processes
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.files import is_placeholder
from ssdh.core.params import RECIPE_SECTIONS, Bits, Params, Seed, TopK, lookup, section, validate
from ssdh.core.runtime import RuntimeParams
from ssdh.datasets import registry
from ssdh.evaluation.params import EvaluateParams
from ssdh.features.backbone import build_network, ensure_weights, feature_size, resolve_layer, without_storage
from ssdh.features.params import BackboneParams, ImageParams
from ssdh.structure.params import StructureParams
from ssdh.training.params import TrainParams

KINDS: dict[str, Any] = {
    "bits": Bits,
    "seed": Seed,
    "backbone": BackboneParams,
    "evaluate": EvaluateParams,
    "runtime": RuntimeParams,
}


RECIPE_KINDS: dict[str, type[Params]] = {"structure": StructureParams, "train": TrainParams}


TOP_LEVEL = {*KINDS, *RECIPE_SECTIONS, "dataset", "datasets", "recipe", "recipes"}


def check(params: dict[str, Any]) -> None:
    """Validate all of `params.yaml`, then make sure that the raw data set and the weights are there.

    Raises ParameterError with one line for each mistake, of all sections at once; DataError where data or weights are
    missing and cannot be fetched.
    """
    check_parameters(params)
    check_files(params)
    check_home()
    runtime: RuntimeParams = section(params, "runtime", RuntimeParams)
    wanted_processes(runtime.processes)
    check_device(runtime.device)
    name = str(lookup(params, "dataset"))
    dataset = registry.get(name)
    dataset.ensure(section(params, f"datasets.{name}.data", dataset.Params))
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    images: ImageParams = section(params, f"datasets.{name}.images", ImageParams)
    ensure_weights(backbone, images)
    check_training(section(params, "train", TrainParams), backbone, images, section(params, "bits", Bits))


def check_files(params: dict[str, Any]) -> None:
    """Raise DataError where a file that stages depend on does not exist, used or not.

    DVC would find out itself, but only after it had removed the outs of the stage.
    """
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    train: TrainParams = section(params, "train", TrainParams)
    for name, file in (("backbone.weights_file", backbone.weights_file), ("train.init_file", train.init_file)):
        if not Path(file).is_file():
            raise DataError(
                f"{name} {file} does not exist: name a file, or models/pretrained/none.safetensors for none "
                f"(params.yaml: {name})"
            )


def check_parameters(params: dict[str, Any]) -> None:
    """Validate every section; raises one ParameterError that holds a line for each mistake found."""
    mistakes: list[str] = []

    def attempt(kind: Any, name: str) -> None:
        try:
            section(params, name, kind)
        except ParameterError as error:
            mistakes.extend(line for line in str(error).splitlines() if line not in mistakes)

    mistakes += [
        f"{key} is not a parameter: remove it or correct its spelling (params.yaml: {key})"
        for key in params
        if key not in TOP_LEVEL
    ]
    for name, kind in KINDS.items():
        attempt(kind, name)
    _check_datasets(params, attempt, mistakes)
    for name, kind in RECIPE_KINDS.items():
        attempt(kind, name)
    _check_recipes(params, mistakes)
    if mistakes:
        raise ParameterError("\n".join(mistakes))


def _check_datasets(params: dict[str, Any], attempt: Any, mistakes: list[str]) -> None:
    """The chosen data set must be known; every block is validated, chosen or not."""
    try:
        registry.get(str(lookup(params, "dataset")))
    except ParameterError as error:
        mistakes.append(str(error))
    datasets = params.get("datasets") or {}
    if not isinstance(datasets, dict):
        mistakes.append(f"datasets must be a mapping of data sets, got {datasets!r} (params.yaml: datasets)")
        return
    for name, block in datasets.items():
        if name not in registry.names():
            mistakes.append(f"datasets.{name} is not a data set: known are {', '.join(registry.names())}")
            continue
        attempt(registry.get(name).Params, f"datasets.{name}.data")
        attempt(ImageParams, f"datasets.{name}.images")
        attempt(TopK, f"datasets.{name}.topk")
        mistakes += [
            f"datasets.{name}.{key} is not a parameter: a data set has data, images and topk"
            for key in (block if isinstance(block, dict) else {})
            if key not in ("data", "images", "topk")
        ]


def _check_recipes(params: dict[str, Any], mistakes: list[str]) -> None:
    """Every recipe must hold complete, valid values; top-level keys that no recipe has are validated with it."""
    recipes = params.get("recipes") or {}
    if not isinstance(recipes, dict):
        mistakes.append(f"recipes must be a mapping of recipes, got {recipes!r} (params.yaml: recipes)")
        return
    for recipe in recipes:
        for name, kind in RECIPE_KINDS.items():
            try:
                extra, own = (_mapping(params, where) for where in (name, f"recipes.{recipe}.{name}"))
                inherited = {k: v for k, v in extra.items() if v is not None and k in kind.model_fields}
                validate(kind, inherited | own, f"recipes.{recipe}.{name}")
            except ParameterError as error:
                mistakes.extend(line for line in str(error).splitlines() if line not in mistakes)


def _mapping(params: dict[str, Any], where: str) -> dict[str, Any]:
    found = lookup(params, where)
    if not isinstance(found, dict):
        raise ParameterError(f"{where} must be a mapping, got {found!r} (params.yaml: {where})")
    return found


def check_training(params: TrainParams, backbone: BackboneParams, images: ImageParams, bits: int) -> None:
    """Raise ParameterError or DataError where `train.freeze_until` or `train.init_file` does not fit.

    Imports torch only where one of them is set.
    """
    if params.finetune and params.freeze_until is not None:
        from ssdh.training.finetune import freeze

        layer = resolve_layer(backbone, images.weights)
        freeze(without_storage(lambda: build_network(backbone.arch, layer, images.size)), params.freeze_until)
    if not is_placeholder(Path(params.init_file)):
        from ssdh.hashing.model_file import check_same_backbone, initial_hashnet

        check_same_backbone(Path(params.init_file), backbone, images)
        layer = resolve_layer(backbone, images.weights)
        dim = feature_size(backbone.arch, layer, images.size)
        network = without_storage(lambda: build_network(backbone.arch, layer, images.size)) if params.finetune else None
        initial_hashnet(dim, bits, 0, params.init_file, network, params.power)
