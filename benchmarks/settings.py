"""The settings that a method is measured with: those of its file, of its authors, or of its best trial."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import STUDIES
from ssdh.core.params import RECIPE_SECTIONS, effective, read_params, read_recipe, recipe_names
from ssdh.evaluation.baselines import registry
from ssdh.training.method import load_method

TRIALS = STUDIES / "rivals.json"


def with_settings(params: dict[str, Any], method: str, settings: str) -> dict[str, Any]:
    """`params` with a recipe and the values that `settings` says, where they are not its file's."""
    params = params | {"recipe": params["recipe"] if method == "default" else method}
    if settings == "trials":
        return with_values(params, best_trials()[params["recipe"]])
    authors: dict[str, Any] = dict(read_recipe(params["recipe"])).get("authors", {}) if settings == "authors" else {}
    return params | {name: params[name] | authors.get(name, {}) for name in RECIPE_SECTIONS}


def with_values(params: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `params` with values by their dotted names, as `dvc exp run -S` sets them."""
    result = copy.deepcopy(params)
    for name, value in values.items():
        *path, key = name.split(".")
        block = result
        for part in path:
            block[part] = block[part] or {}
            block = block[part]
        block[key] = value
    return result


def best_trials() -> dict[str, dict[str, Any]]:
    """The values, by dotted names, of each recipe's best trial in `benchmarks.studies.rivals`."""
    best: dict[str, dict[str, Any]] = json.loads(TRIALS.read_text(encoding="utf-8"))["results"]["best"]
    return best


def runs_of(method: str, settings: Sequence[str]) -> list[str]:
    """The settings that a method is measured with: a baseline's are its authors', a recipe's those it has."""
    if method == "default":
        return ["chosen"]  # what all are compared with
    if method in registry.names() or method == "float":
        return ["authors"]
    has = {"chosen": True, "authors": "authors" in read_recipe(method), "trials": keeps_other_settings(method)}
    return [name for name in settings if has[name]]


def keeps_other_settings(recipe: str) -> bool:
    """Whether a recipe has trials, and its file other values than the best of them."""
    if recipe not in best_trials():
        return False
    own, tried = (with_settings(read_params(), recipe, settings) for settings in ("chosen", "trials"))
    return any(effective(own, name) != effective(tried, name) for name in RECIPE_SECTIONS)


def takes_views(method: str) -> bool:
    """Whether a recipe compares views of its images."""
    return method in recipe_names() and load_method(method).views > 0
