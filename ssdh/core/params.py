"""The strict loader of `params.yaml`: typed, no unknown keys, one clear line for every mistake.

Each step's parameter class derives from `Params` and lives in the step's own module; this module knows none of them.
A stage reads its part so:

    params = read_params()
    bits = section(params, "bits", PositiveInt)
    structure = section(params, "structure", StructureParams)   # the recipe's values, overridden by top-level ones
"""

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ssdh.core.errors import ParameterError

PARAMS_FILE = Path("params.yaml")


RECIPE_SECTIONS = ("structure", "train")


Bits = Annotated[int, Field(strict=True, ge=1, le=4096)]


Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


TopK = Annotated[int, Field(strict=True, ge=1)] | None


T = TypeVar("T")


# what pydantic's messages say around the rule itself: "List should have at least 3 items after validation, not 2"
_OF_PYDANTIC = re.compile(r"^(?:Input|List|Tuple|String) should ")


_OF_LENGTHS = re.compile(r" after validation, not \d+$")


class Params(BaseModel):
    """Base of every parameter class: strict types (an int may stand for a float), no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as DVC does: `dvc exp run -S train.lr=1.0e-5` itself writes 1e-05 into the file."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read a YAML mapping; raises ParameterError where the file is missing, is not YAML or is not a mapping."""
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.load(file, _Loader)  # a SafeLoader
    except FileNotFoundError:
        raise ParameterError(f"{path} does not exist: run from the project's root") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ParameterError(f"{path} is not valid YAML: {where}") from None
    if not isinstance(raw, dict):
        raise ParameterError(f"{path} must hold a mapping of parameters, got {type(raw).__name__}")
    return raw


def parse_value(text: str) -> Any:
    """The value that `text` stands for in params.yaml; raises ParameterError where it is not YAML."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        raise ParameterError(f"{text!r} is not a YAML value") from None


def section(params: dict[str, Any], name: str, kind: type[T] | Any) -> T:
    """Return the part of `params` at the dotted `name`, validated as `kind` (a `Params` class or any typed annotation).

    `structure` and `train` are effective values: those of the chosen recipe, overridden by every top-level one that is
    not null. Raises ParameterError with one line for each mistake, naming the parameter and the value found.
    """
    value = effective(params, name) if name in RECIPE_SECTIONS else lookup(params, name)
    validated: T = validate(kind, value, name)
    return validated


def validate(kind: type[T] | Any, value: Any, name: str) -> T:
    """Validate `value` as `kind`; `name` is the dotted parameter name that error lines begin with.

    Raises ParameterError with one line for each mistake.
    """
    try:
        validated: T = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ParameterError("\n".join(_describe(name, value, item) for item in error.errors())) from None
    return validated


def lookup(params: dict[str, Any], name: str) -> Any:
    """Return the value at a dotted name; raises ParameterError naming the keys that exist where it does not."""
    value: Any = params
    walked: list[str] = []
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            here = ".".join(walked) or "the top level"
            known = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise ParameterError(f"{name} is missing in params.yaml: {here} has {known}")
        value = value[key]
        walked.append(key)
    return value


def effective(params: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the recipe's values of section `name`, overridden by every non-null top-level one.

    A null stands for "as the recipe says" where any recipe sets that key, so a recipe may leave out a key that has a
    default; elsewhere it is a value like another.

    Raises ParameterError for an unknown recipe, and for a block that is no mapping.
    """
    recipe = lookup(params, "recipe")
    recipes = lookup(params, "recipes")
    if not isinstance(recipes, dict) or not isinstance(recipe, str) or recipe not in recipes:
        known = ", ".join(map(str, recipes)) if isinstance(recipes, dict) else "nothing"
        raise ParameterError(f"recipe must be one of {known}, got {recipe!r} (params.yaml: recipe)")
    base = lookup(params, f"recipes.{recipe}.{name}")
    top = lookup(params, name)
    for where, value in ((f"recipes.{recipe}.{name}", base), (name, top)):
        if not isinstance(value, dict):
            raise ParameterError(f"{where} must be a mapping, got {value!r} (params.yaml: {where})")
    in_recipes = set(base).union(*(_block(other, name) for other in recipes.values()))
    chosen: dict[str, Any] = base | {k: value for k, value in top.items() if value is not None or k not in in_recipes}
    return chosen


def _block(recipe: Any, name: str) -> dict[str, Any]:
    """A recipe's block for the section `name`; empty where it is no mapping."""
    block = recipe.get(name) if isinstance(recipe, dict) else None
    return block if isinstance(block, dict) else {}


def _describe(name: str, value: Any, item: Any) -> str:
    """One line for one pydantic error: the parameter, what it must be, the value found and a hint."""
    parts = [str(part) for part in item["loc"]]
    # pydantic names the branch of a union in the location; a parameter's path holds real keys only
    found, keys = value, []
    for part in parts:
        if isinstance(found, dict) and part in found:
            found = found[part]
            keys.append(part)
        elif item["type"] in ("missing", "extra_forbidden"):
            keys.append(part)
    path = ".".join([name, *keys])
    if item["type"] == "extra_forbidden":
        return f"{path} is not a parameter: remove it or correct its spelling (params.yaml: {path})"
    if item["type"] == "missing":
        return f"{path} is missing (params.yaml: {path})"
    message = item["msg"].removeprefix("Value error, ")
    message = _OF_PYDANTIC.sub("must ", message)
    message = _OF_LENGTHS.sub("", message)
    hint = ""
    if isinstance(found, str) and _is_number(found):
        hint = " (a string: write it without quotes)"
    return f"{path} {message}, got {found!r}{hint} (params.yaml: {path})"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
