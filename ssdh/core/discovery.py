"""The modules of a package, found by looking: to add one is to add a file, no list is edited."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def module_names(package: ModuleType) -> list[str]:
    """The names of the package's modules, sorted; none is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def listed_in(package: ModuleType, attribute: str) -> dict[str, Any]:
    """What the package's modules list under `attribute`, by its `name`, sorted; imports all but `registry`."""
    names = [name for name in module_names(package) if name != "registry"]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    found = [one for module in modules for one in getattr(module, attribute, ())]
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}
