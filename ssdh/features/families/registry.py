"""Every family of networks by its name: what the modules of this folder list in their `FAMILIES`.

A network of one's own is a new module here; no list is edited.
"""

from ssdh.core.discovery import listed_in
from ssdh.features import families
from ssdh.features.families.base import Family

BARE = "torchvision"  # the family of names without one

FAMILIES: dict[str, Family] = listed_in(families, "FAMILIES")


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
