"""Read the raw data set, verify it and draw the split: `python -m stages.prepare`."""

import shutil
from pathlib import Path

from ssdh.core.files import write_array, write_json
from ssdh.core.params import Seed, read_params, section
from ssdh.core.runtime import RuntimeParams
from ssdh.core.stage import stage
from ssdh.datasets import registry
from ssdh.datasets.base import DataParams
from ssdh.datasets.prepare import counts, prepare, write_images, write_roles

IMAGES, LABELS, SPLIT = Path("data/images"), Path("data/labels.npy"), Path("data/split")
METRICS = Path("metrics/data.json")


@stage("prepare")
def main() -> None:
    """Write images and labels, which the seed never changes, and the split, which it draws."""
    params = read_params()
    name: str = section(params, "dataset", str)
    dataset = registry.get(name)
    data: DataParams = section(params, f"datasets.{name}.data", dataset.Params)
    prepared = prepare(
        dataset.read(data),
        root=dataset.root(data),
        seed=section(params, "seed", Seed),
        workers=section(params, "runtime", RuntimeParams).num_workers,
        name=name,
        on_bad_image=getattr(data, "on_bad_image", "fail"),
    )
    for folder in (IMAGES, SPLIT):  # nothing of another data set stays behind
        shutil.rmtree(folder, ignore_errors=True)
    write_images(IMAGES, prepared)
    write_array(LABELS, prepared.raw.labels)
    write_roles(SPLIT, prepared)
    write_json(METRICS, counts(prepared, name=name))


if __name__ == "__main__":
    main()
