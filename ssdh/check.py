"""Everything that can be known to be wrong before a stage runs: parameters, raw data, weights, device."""

import ast
import itertools
from pathlib import Path
from typing import Any

from ssdh.core.cache_dir import check_home
from ssdh.core.device import check_device, check_precision
from ssdh.core.distributed import wanted_processes
from ssdh.core.errors import DataError, ParameterError
from ssdh.core.package import check_package
from ssdh.core.params import (
    RECIPE_SECTIONS,
    Bits,
    Params,
    Seed,
    TopK,
    lookup,
    read_recipe,
    recipe_file,
    recipe_names,
    recipes_folder,
    section,
    validate,
)
from ssdh.core.runtime import RuntimeParams
from ssdh.datasets import registry
from ssdh.evaluation.params import EvaluateParams
from ssdh.features.backbone import ensure_weights, feature_size, image_size, resolve_layer, shape_of_network
from ssdh.features.embeddings import open_embeddings
from ssdh.features.params import BackboneParams, ImageParams, ViewsParams, image_params
from ssdh.structure.params import StructureParams
from ssdh.training.params import OF_NEIGHBORS, TrainParams, check_train_params

KINDS: dict[str, Any] = {
    "bits": Bits,
    "seed": Seed,
    "backbone": BackboneParams,
    "evaluate": EvaluateParams,
    "runtime": RuntimeParams,
}

RECIPE_KINDS: dict[str, type[Params]] = {"structure": StructureParams, "train": TrainParams, "views": ViewsParams}
TOP_LEVEL = {*KINDS, *RECIPE_KINDS, "dataset", "datasets", "recipe"}
OF_PAIRS = ("unknown_weight", "target")  # of the recipes that regress pairs to pseudo-labels, as are OF_NEIGHBORS
FOLLOWED = ("core", "features", "structure", "hashing", "training")  # packages whose edits make `train` run again
OF_NO_RECIPE = {"train": {"init_file": "none"}}  # what `params.yaml` alone has


def check(params: dict[str, Any]) -> None:
    """Validate all of `params.yaml`, then make sure that the raw data set and the weights are there.

    Raises ParameterError with one line for each mistake, of all sections at once; DataError where data or weights are
    missing and cannot be fetched.
    """
    check_package()
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
    train: TrainParams = section(params, "train", TrainParams)
    bits: int = section(params, "bits", Bits)
    check_train_params(train, bits)
    recipe, images = str(lookup(params, "recipe")), image_params(params, name)
    check_views(section(params, "views", ViewsParams), recipe, name, images)
    if images is None:
        data = lookup(params, f"datasets.{name}.data")
        embeddings = open_embeddings(Path(data["features"]), data["keys"]["features"])
        check_training_on_embeddings(train, name, embeddings.shape[1], bits)
        return
    check_precision(runtime.device, [backbone.precision, *([train.precision] if train.finetune else [])])
    ensure_weights(backbone, images)
    check_training(train, backbone, images, bits)


def check_files(params: dict[str, Any]) -> None:
    """Raise DataError where a file that stages depend on does not exist, used or not.

    DVC would find out itself, but only after it had removed the outs of the stage.
    """
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    train: TrainParams = section(params, "train", TrainParams)
    files = {"backbone.weights_file": backbone.weights_file, "train.init_file": train.init_file}
    for key in ("features", "labels", "names", "split"):
        files[f"datasets.embeddings.data.{key}"] = lookup(params, f"datasets.embeddings.data.{key}")
    for name, file in files.items():
        if not Path(file).exists():
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
    _check_recipes(params, attempt, mistakes)
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
        attempt(registry.get(name).Images, f"datasets.{name}.images")
        attempt(TopK, f"datasets.{name}.topk")
        mistakes += [
            f"datasets.{name}.{key} is not a parameter: a data set has data, images and topk"
            for key in (block if isinstance(block, dict) else {})
            if key not in ("data", "images", "topk")
        ]


def _check_recipes(params: dict[str, Any], attempt: Any, mistakes: list[str]) -> None:
    """Every recipe must hold complete, valid values and have its method beside it; then the chosen one's overrides."""
    before = len(mistakes)
    for recipe in recipe_names():
        try:
            check_recipe(recipe)
        except ParameterError as error:
            mistakes += str(error).splitlines()
    if len(mistakes) > before:
        return
    for name, kind in RECIPE_KINDS.items():
        top = params.get(name)
        mistakes += [
            f"{name}.{key} is not a parameter: remove it or correct its spelling (params.yaml: {name}.{key})"
            for key, value in (top.items() if isinstance(top, dict) else ())
            if key not in kind.model_fields and value is None
        ]
        attempt(kind, name)
    _check_unread(params, mistakes)


def _check_unread(params: dict[str, Any], mistakes: list[str]) -> None:
    """Values of the loss that are set although the chosen recipe's method reads none of that name."""
    recipe, top = str(params.get("recipe")), params.get("train")
    if recipe not in recipe_names() or not isinstance(top, dict):
        return
    own = read_recipe(recipe)["train"]
    unread = [key for key in OF_PAIRS if top.get(key) is not None and key not in own]
    if "target" not in own:
        unread += [key for key in sorted(OF_NEIGHBORS) if top.get(key) is not None]
    loss = top.get("loss")
    unread += [f"loss.{key}" for key in (loss if isinstance(loss, dict) else ()) if key not in own.get("loss", {})]
    mistakes += [f"train.{key} is nothing that recipe {recipe} reads (params.yaml: train.{key})" for key in unread]


def check_recipe(recipe: str) -> None:
    """Raise ParameterError where `ssdh/methods/RECIPE.yaml` or `.py` is missing or broken."""
    sections = read_recipe(recipe)
    read_method(recipe)
    mistakes = [
        f"{recipe_file(recipe)}: {key} is no section: a recipe has {', '.join(RECIPE_SECTIONS)}"
        for key in sections
        if key not in (*RECIPE_SECTIONS, "authors")
    ]
    authors = sections.get("authors", {})
    for name, kind in RECIPE_KINDS.items():
        try:
            own = OF_NO_RECIPE.get(name, {}) | sections[name]
            validate(kind, own, name, recipe_file(recipe))
            validate(kind, own | authors.get(name, {}), f"authors.{name}", recipe_file(recipe))
        except ParameterError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise ParameterError("\n".join(mistakes))


def read_method(recipe: str) -> None:
    """Raise ParameterError where the recipe's Python file is missing, is not Python, or imports what `train` misses.

    torch is not imported for it.
    """
    source = recipes_folder() / f"{recipe}.py"
    name = recipe_file(recipe, "py")
    if not source.is_file():
        raise ParameterError(f"{name} does not exist: the method of {recipe_file(recipe)} belongs there")
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ParameterError(f"{name} is not valid Python: {error.msg} (line {error.lineno})") from None
    except (ValueError, OSError) as error:  # another encoding, a null
        raise ParameterError(f"{name} cannot be read as Python in UTF-8 ({error})") from None
    for module in itertools.chain.from_iterable(map(_imported, ast.walk(tree))):
        if _is_missed(module):
            raise ParameterError(
                f"{name} imports {module}, and an edit there would not train it again: write what it needs into "
                f"{name}, or into ssdh/training, which the stage train follows"
            )


def _imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports, relative ones with their dots."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        return [f"ssdh.{alias.name}" for alias in node.names] if module == "ssdh" else [module]
    return []


def _is_missed(module: str) -> bool:
    """Whether a module is relative, or lies in this folder or the package but in no folder that `train` depends on."""
    top, *below = module.split(".")
    if top == "ssdh":
        return not below or below[0] not in FOLLOWED
    return not top or Path(f"{top}.py").is_file() or any(Path(top).glob("*.py"))


def check_training(params: TrainParams, backbone: BackboneParams, images: ImageParams, bits: int) -> None:
    """Raise ParameterError where `freeze_until` of `train`, DataError where its `init_file` does not fit.

    Imports torch only where one of them is set.
    """
    if params.finetune and params.freeze_until is not None:
        from ssdh.training.finetune import freeze

        layer = resolve_layer(backbone, images.weights)
        freeze(shape_of_network(backbone.arch, layer, image_size(backbone, images)), params.freeze_until)
    if not params.starts_afresh:
        from ssdh.training.init_file import check_same_backbone, initial_hashnet

        check_same_backbone(Path(params.init_file), backbone, images)
        layer = resolve_layer(backbone, images.weights)
        size = image_size(backbone, images)
        dim = feature_size(backbone.arch, layer, size)
        network = shape_of_network(backbone.arch, layer, size) if params.finetune else None
        initial_hashnet(dim, bits, 0, params, network)


def check_views(params: ViewsParams, recipe: str, dataset: str, images: ImageParams | None) -> None:
    """Raise ParameterError where a recipe that compares views would get none, or embeddings are asked for some."""
    own = read_recipe(recipe)["views"]
    required = bool(own.get("count")) and own.get("required", True)
    if required and not params.required:
        raise ParameterError(
            f"views.required must be true for recipe {recipe}, which compares views of images: leave it empty "
            "(params.yaml: views.required)"
        )
    if images is not None:
        return
    if required:
        raise ParameterError(
            f"recipe {recipe} compares views of images, and dataset {dataset} has no images: choose one that can do "
            "without, such as manifold (params.yaml: recipe)"
        )
    if params.count and params.count != own.get("count"):
        raise ParameterError(no_images("views.count", "0", dataset))


def no_images(name: str, expected: str, dataset: str) -> str:
    """The line on a parameter that asks for images where there are none."""
    return (
        f"{name} must be {expected} for dataset {dataset}, which has no images: choose another recipe or set it so "
        f"(params.yaml: {name})"
    )


def check_training_on_embeddings(params: TrainParams, dataset: str, dim: int, bits: int) -> None:
    """Raise ParameterError where the recipe trains on images, DataError where `train.init_file` does not fit `dim`."""
    if params.finetune:
        raise ParameterError(no_images("train.finetune", "false", dataset))
    if not params.starts_afresh:
        from ssdh.training.init_file import check_for_embeddings, initial_hashnet

        check_for_embeddings(Path(params.init_file))
        initial_hashnet(dim, bits, 0, params)
