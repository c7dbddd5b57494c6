"""Every data set by its name in `params.yaml`: what the modules of this folder list in their `DATASETS`.

A new data set is a new module here; no list is edited. A stage that imports this module depends on the whole folder.
"""

import importlib
import pkgutil

from ssdh import datasets
from ssdh.core.errors import ParameterError
from ssdh.datasets.base import AnyDataset


def _found() -> dict[str, AnyDataset]:
    """The data sets of all modules beside this one, sorted by name."""
    names = (module.name for module in pkgutil.iter_modules(datasets.__path__))
    modules = [importlib.import_module(f"{datasets.__name__}.{name}") for name in names if name != "registry"]
    result: list[AnyDataset] = [dataset for module in modules for dataset in getattr(module, "DATASETS", ())]
    return {dataset.name: dataset for dataset in sorted(result, key=lambda dataset: dataset.name)}


DATASETS = _found()


def names() -> list[str]:
    """The names of all data sets, sorted."""
    return list(DATASETS)


def get(name: str) -> AnyDataset:
    """The data set called `name`; raises ParameterError naming the known ones."""
    if name not in DATASETS:
        raise ParameterError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r} (params.yaml: dataset)")
    return DATASETS[name]
