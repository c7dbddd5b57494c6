"""Every data set by its name in `params.yaml`."""

from ssdh.core.errors import ParameterError
from ssdh.datasets.base import AnyDataset
from ssdh.datasets.cifar10 import Cifar10
from ssdh.datasets.digits import Digits
from ssdh.datasets.fashion_mnist import FashionMnist
from ssdh.datasets.flickr25k import Flickr25k
from ssdh.datasets.folder import Folder
from ssdh.datasets.nus_wide import NusWide

DATASETS: dict[str, AnyDataset] = {
    dataset.name: dataset
    for dataset in (
        Digits(),
        Cifar10(),
        FashionMnist(),
        Flickr25k(),
        NusWide(10),
        NusWide(21),
        Folder(),
    )
}


def names() -> list[str]:
    """The names of all data sets, in the order of the documentation."""
    return list(DATASETS)


def get(name: str) -> AnyDataset:
    """The data set called `name`; raises ParameterError naming the known ones."""
    if name not in DATASETS:
        raise ParameterError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r} (params.yaml: dataset)")
    return DATASETS[name]
