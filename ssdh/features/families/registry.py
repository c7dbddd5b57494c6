"""Every family of networks by its name: what the modules of this folder list in their `FAMILIES`.

A network of one's own is a new module here; no list is edited.
"""

import importlib
import pkgutil

from ssdh.features import families
from ssdh.features.families.base import Family

BARE = "torchvision"  # the family of names without one


def _found() -> dict[str, Family]:
    """The families of all modules beside this one, sorted by name."""
    names = (module.name for module in pkgutil.iter_modules(families.__path__))
    modules = [importlib.import_module(f"{families.__name__}.{name}") for name in names if name != "registry"]
    result: list[Family] = [family for module in modules for family in getattr(module, "FAMILIES", ())]
    return {family.name: family for family in sorted(result, key=lambda family: family.name)}


FAMILIES = _found()


def find(arch: str) -> tuple[Family, str]:
    """Family and network of `backbone.arch`; raises ValueError where there is no such family."""
    name, slash, network = arch.partition("/")
    if not slash:
        name, network = BARE, arch
    if name not in FAMILIES:
        raise ValueError(f"must be a network of torchvision, or FAMILY/NETWORK with one of {', '.join(FAMILIES)}")
    return FAMILIES[name], network


def canonical(arch: str) -> str:
    """The one way of writing it (`torchvision/vgg16` is vgg16); ValueError where there is certainly no such network."""
    family, network = find(arch)
    family.check(network)
    return network if family.name == BARE else f"{family.name}/{network}"
