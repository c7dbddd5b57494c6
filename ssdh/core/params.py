"""The strict loader of `params.yaml`: typed, no unknown keys, one clear line for every mistake.

Each step's parameter class derives from `Params` and lives in the step's own module; this module knows none of them.
A stage reads its part so:

    params = read_params()
    bits = section(params, "bits", PositiveInt)
    structure = section(params, "structure", StructureParams)   # the recipe's values, overridden by top-level ones

A recipe is `ssdh/methods/NAME.yaml`, complete values of a method, beside `NAME.py`. Stages run as `python -m` in the
pipeline's folder, so they read that folder's recipes; an installed library reads its own.
"""

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ssdh.core.errors import ParameterError
from ssdh.core.package import PACKAGE, is_initialised, no_pipeline
from ssdh.core.yaml_text import parse_yaml

PARAMS_FILE = Path("params.yaml")
RECIPE_SECTIONS = ("structure", "train", "views")
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


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read a YAML mapping; raises ParameterError where the file is missing, is not YAML or is not a mapping."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ParameterError(f"{path} does not exist: {no_pipeline()}") from None
    return _parse_mapping(text, str(path))


def read_text(path: Path) -> str:
    """A file of parameters; raises ParameterError where it cannot be read or is not in UTF-8, unless it is missing."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ParameterError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ParameterError(
            f"{path} is not in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None


def _parse_mapping(text: str, name: str) -> dict[str, Any]:
    try:
        raw = parse_yaml(text)
    except ValueError as error:
        raise ParameterError(f"{name} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParameterError(f"{name} must hold a mapping of parameters, got {type(raw).__name__}")
    return raw


def parse_value(text: str) -> Any:
    """The value that `text` stands for in params.yaml; raises ParameterError where it is not YAML."""
    try:
        return parse_yaml(text)
    except ValueError:
        raise ParameterError(f"{text!r} is not a YAML value") from None


def section(params: dict[str, Any], name: str, kind: type[T] | Any) -> T:
    """Return the part of `params` at the dotted `name`, validated as `kind` (a `Params` class or any typed annotation).

    `structure`, `train` and `views` are effective values: those of the chosen recipe, overridden by every top-level one
    that is not null. Raises ParameterError with one line for each mistake, naming the parameter and the value found.
    """
    value = effective(params, name) if name in RECIPE_SECTIONS else lookup(params, name)
    validated: T = validate(kind, value, name)
    return validated


def validate(kind: type[T] | Any, value: Any, name: str, file: str = "params.yaml") -> T:
    """Validate `value` as `kind`; `name` is the dotted parameter name that error lines begin with, `file` where it is.

    Raises ParameterError with one line for each mistake.
    """
    try:
        validated: T = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ParameterError("\n".join(_describe(name, value, item, file) for item in error.errors())) from None
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
    """Return the recipe's values of section `name`, overridden by every top-level one that is not null.

    A mapping inside the section (`train.loss`) is overridden key by key.

    Raises ParameterError for an unknown or broken recipe, and for a block that is no mapping.
    """
    top = lookup(params, name)
    if not isinstance(top, dict):
        raise ParameterError(f"{name} must be a mapping, got {top!r} (params.yaml: {name})")
    recipe = read_recipe(lookup(params, "recipe"))
    return overridden(recipe[name], {key: value for key, value in top.items() if value is not None})


def overridden(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's `own` values of a section with those `given`; a mapping (`loss`) is overridden key by key."""
    return own | {
        key: own[key] | value if isinstance(value, dict) and isinstance(own.get(key), dict) else value
        for key, value in given.items()
    }


def recipes_folder() -> Path:
    """Where the recipes lie: `methods/` of a pipeline that `ssdh init` made, else `ssdh/methods` of the package."""
    return Path("methods") if is_initialised() else PACKAGE / "methods"


def recipe_names() -> list[str]:
    """The recipes that exist: names of `ssdh/methods/*.yaml`."""
    names = [file.name for file in recipes_folder().iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def recipe_file(recipe: str, suffix: str = "yaml") -> str:
    """The recipe's file of values, or with suffix `py` of its method, as dvc.yaml and error lines name it."""
    return f"{'' if is_initialised() else 'ssdh/'}methods/{recipe}.{suffix}"


def read_recipe(recipe: str) -> dict[str, dict[str, Any]]:
    """Read `ssdh/methods/RECIPE.yaml`: mappings `structure`, `train` and `views`.

    Raises ParameterError where there is no such recipe or its file does not hold these sections.
    """
    if recipe not in recipe_names():
        known = ", ".join(recipe_names())
        raise ParameterError(f"recipe must be one of {known}, got {recipe!r} (params.yaml: recipe)")
    name = recipe_file(recipe)
    sections = _parse_mapping(read_text(recipes_folder() / f"{recipe}.yaml"), name)
    for section_name in RECIPE_SECTIONS:
        if not isinstance(sections.get(section_name), dict):
            raise ParameterError(f"{name}: {section_name} must be a mapping, got {sections.get(section_name)!r}")
    return sections


def _describe(name: str, value: Any, item: Any, file: str) -> str:
    """One line for one pydantic error: the parameter, what it must be, the value found and a hint."""
    parts = [str(part) for part in item["loc"]]
    # pydantic names the branch of a union in the location; a parameter's path holds real keys only
    result, keys = value, []
    for part in parts:
        if isinstance(result, dict) and part in result:
            result = result[part]
            keys.append(part)
        elif item["type"] in ("missing", "extra_forbidden"):
            keys.append(part)
    path = ".".join([name, *keys])
    if item["type"] == "extra_forbidden":
        return f"{path} is not a parameter: remove it or correct its spelling ({file}: {path})"
    if item["type"] == "missing":
        return f"{path} is missing ({file}: {path})"
    message = item["msg"].removeprefix("Value error, ")
    message = _OF_PYDANTIC.sub("must ", message)
    message = _OF_LENGTHS.sub("", message)
    hint = ""
    if isinstance(result, str) and is_number(result):
        hint = " (a string: write it without quotes)"
    return f"{path} {message}, got {result!r}{hint} ({file}: {path})"


def is_number(text: str) -> bool:
    """Whether a text is a number as Python reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
