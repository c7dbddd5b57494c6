"""Semantic structure-based unsupervised deep hashing (SSDH, IJCAI 2018): images to compact binary codes.

The library's public names; the rest of the package may move:

    from ssdh import Hasher, Index, Collection, fit_structure, pseudo_labels, mean_average_precision, pack, unpack
    from ssdh import load_hashnet

Each is imported when it is first used (PEP 562), so that `import ssdh` takes no time and needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdh.collection import Collection
    from ssdh.hasher import Hasher
    from ssdh.hashing.codes import pack, unpack
    from ssdh.hashing.model_file import load_hashnet
    from ssdh.hashing.retrieval import mean_average_precision
    from ssdh.search.index import Index
    from ssdh.structure.distances import PairDistances
    from ssdh.structure.fit import fit_structure
    from ssdh.structure.thresholds import Structure, pseudo_labels

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "Hasher",
    "Index",
    "PairDistances",
    "Structure",
    "__version__",
    "fit_structure",
    "load_hashnet",
    "mean_average_precision",
    "pack",
    "pseudo_labels",
    "unpack",
]

_MODULES = {
    "Collection": "ssdh.collection",
    "Hasher": "ssdh.hasher",
    "Index": "ssdh.search.index",
    "PairDistances": "ssdh.structure.distances",
    "Structure": "ssdh.structure.thresholds",
    "fit_structure": "ssdh.structure.fit",
    "load_hashnet": "ssdh.hashing.model_file",
    "mean_average_precision": "ssdh.hashing.retrieval",
    "pack": "ssdh.hashing.codes",
    "pseudo_labels": "ssdh.structure.thresholds",
    "unpack": "ssdh.hashing.codes",
}


def __getattr__(name: str) -> Any:
    """Import a public name; called for those that are not here yet."""
    if name not in _MODULES:
        raise AttributeError(f"module 'ssdh' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
