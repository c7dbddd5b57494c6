"""Every data set by its name in `params.yaml`: what the modules of this folder list in their `DATASETS`.

A new data set is a new module here; no list is edited. A stage that imports this module depends on the whole folder.
"""

from ssdh import datasets
from ssdh.core.discovery import listed_in
from ssdh.core.errors import ParameterError
from ssdh.datasets.base import AnyDataset

DATASETS: dict[str, AnyDataset] = listed_in(datasets, "DATASETS")


def names() -> list[str]:
    """The names of all data sets, sorted."""
    return list(DATASETS)


def get(name: str) -> AnyDataset:
    """The data set called `name`; raises ParameterError naming the known ones."""
    if name not in DATASETS:
        raise ParameterError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r} (params.yaml: dataset)")
    return DATASETS[name]
