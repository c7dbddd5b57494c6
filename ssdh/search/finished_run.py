"""The finished run in this folder, as `search`, `export` and `serve` open it: no subcommand itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor

from ssdh.core.device import select_device
from ssdh.core.errors import DataError
from ssdh.core.files import file_sha256, missing_result, read_array
from ssdh.core.params import read_params, section
from ssdh.core.records import hashes_by_path, locked_stages
from ssdh.core.runtime import RuntimeParams
from ssdh.datasets import registry
from ssdh.datasets.base import DataParams
from ssdh.features.images import ImageSource, open_images, read_manifest
from ssdh.features.loader import eval_loader, normalise
from ssdh.hashing.codes import width
from ssdh.hashing.encoder import load_encoder
from ssdh.hashing.model_file import image_precision, model_preprocessing, read_metadata, takes_embeddings
from ssdh.search.engines import CodeTable
from ssdh.search.gallery import Gallery
from ssdh.search.index import Index, Kind
from ssdh.search.photos import PhotoEncoder
from ssdh.search.texts import texts_on_demand

MODEL, CODES = Path("models/hashnet.safetensors"), Path("models/codes.npy")
SMOKE_RUN = "A smoke run: the backbone’s weights are random, so its codes say little about what is seen."
IMAGES, LABELS, COUNTS = Path("data/images"), Path("data/labels.npy"), Path("metrics/data.json")
LOCK = Path("dvc.lock")
FEATURES = Path("features/features.npy")
STAGES = ("prepare", "extract", "train", "encode")  # each reads what those before it wrote
PAIRED = (IMAGES, LABELS, Path("data/split"), FEATURES, MODEL, CODES)


def check_one_run(last: str) -> None:
    """Raise DataError where `dvc.lock` says that what the stages up to `last` read and wrote is of different runs.

    So it is after an interruption or a run in part. Stages run by hand write no lock file: nothing is checked then.
    """
    recorded = locked_stages(LOCK)
    for out in recorded.get("prepare", {}).get("outs", ()):  # the images may be new where what is written after is gone
        if Path(out["path"]) in PAIRED and not Path(out["path"]).exists():
            raise missing_result(Path(out["path"]))
    result = hashes_by_path(recorded.get(stage, {}) for stage in STAGES[: STAGES.index(last) + 1])
    if several := [path for path, hashes in result.items() if Path(path) in PAIRED and len(hashes) > 1]:
        raise DataError(
            f"the results here are of different runs ({LOCK}: {', '.join(several)}), after an interruption or a run in "
            "part: run `dvc repro`"
        )


def open_index(kind: Kind = "flat", *, features: bool = False) -> Index:
    """The codes of all images of the run, searchable, with their names; DataError where parts are of different runs.

    features: also those by which to re-rank, read where they are asked for. Where the whole network was trained there
    are none: what `extract` wrote is of the network before.
    """
    check_one_run("encode")
    metadata = read_metadata(MODEL)
    bits = int(metadata["bits"])
    codes = read_array(CODES)
    names, _ = read_manifest(IMAGES)
    if codes.dtype != np.uint8 or codes.shape != (len(names), width(bits)):
        raise DataError(
            f"{CODES} {codes.dtype} {codes.shape} does not fit {len(names)} images and {bits} bits: run `dvc repro`"
        )
    if kind != "flat":
        logger.info("building the {} index of {} codes", kind, len(codes))
    kept = read_array(FEATURES) if features and not metadata["has_backbone"] else None
    return Index(codes, bits=bits, names=names, features=kept, kind=kind)


def open_table() -> CodeTable:
    """The codes of all images of the run with what other engines store beside them: name, SHA-256 and classes.

    An id is the image's row. Raises DataError where parts are of different runs.
    """
    index = open_index()
    names, digests = read_manifest(IMAGES)
    metadata = {"name": names, "sha256": digests}
    classes, labels = _counts()["classes"], read_array(LABELS)
    if classes:
        metadata["classes"] = [";".join(classes[column] for column in np.flatnonzero(row)) for row in labels]
    return CodeTable(np.array(index.packed), index.bits, range(len(index)), metadata)  # not the index's own memory


def find_row(text: str) -> int | None:
    """The row of this name, else of this number; None where there is none.

    Where the names are row numbers of a file, of which some may be left out, a number is nothing else.
    """
    names, _ = read_manifest(IMAGES)
    if text in names:
        return names.index(text)
    is_row = text.isdecimal() and int(text) < len(names) and not all(name.isdecimal() for name in names)
    return int(text) if is_row else None


def open_files(*, features: bool) -> tuple[CodeTable, NDArray[Any] | None]:
    """The table of all images, and their features by row; DataError where parts are of different runs."""
    return open_table(), read_array(FEATURES) if features else None


def open_encoder() -> PhotoEncoder:
    """The trained network, from photos to codes."""
    runtime: RuntimeParams = section(read_params(), "runtime", RuntimeParams)
    return PhotoEncoder(load_encoder(MODEL), select_device(runtime.device), image_precision(read_metadata(MODEL)))


def dataset_of(params: dict[str, Any]) -> str:
    """The data set of `params.yaml`; DataError where the results here are of another one."""
    name: str = section(params, "dataset", str)
    if (result := _counts()["dataset"]) != name:
        raise DataError(f"dataset is {name!r}, but the results here are of {result!r}: run `dvc repro`")
    return name


def open_source() -> ImageSource:
    """The images of the run; DataError where `params.yaml` names another data set than the results are of."""
    params = read_params()
    name = dataset_of(params)
    dataset = registry.get(name)
    data: DataParams = section(params, f"datasets.{name}.data", dataset.Params)
    return open_images(IMAGES, dataset.root(data))


def is_of_embeddings() -> bool:
    """Whether the run's model takes embeddings: there are no pictures then."""
    return takes_embeddings(read_metadata(MODEL))


def sample_inputs(count: int) -> Tensor:
    """The first images as the network gets them, (n, 3, size, size) float32, or embeddings (n, D); n ≤ count."""
    if is_of_embeddings():
        return torch.from_numpy(np.array(read_array(FEATURES)[:count], np.float32))
    source, preprocessing = open_source(), model_preprocessing(read_metadata(MODEL))
    rows = np.arange(min(count, len(source)))
    return normalise(torch.cat(list(eval_loader(source, preprocessing, rows=rows))), preprocessing)


def open_gallery(kind: Kind = "flat") -> Gallery:
    """Codes, names, images, labels and the encoder of the run in this folder; DataError where it has no images."""
    if is_of_embeddings():
        raise DataError("this run is of embeddings, which have no pictures to show: `python -m ssdh search` finds rows")
    about = _counts()
    random = read_metadata(MODEL).get("weights") == "random"
    return Gallery(
        index=open_index(kind, features=True),
        images=open_source(),
        encode=open_encoder(),
        title=about["dataset"],
        version=file_sha256(IMAGES / "manifest.csv")[:12],
        files=lambda: open_files(features=True),
        texts=texts_on_demand(MODEL),
        classes=about["classes"],
        labels=read_array(LABELS),
        notice=SMOKE_RUN if random else "",
    )


def _counts() -> dict[str, Any]:
    """What `prepare` counted: `dataset` and `classes` among it."""
    try:
        counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{COUNTS} cannot be read ({error}): run `dvc repro`") from None
    if not isinstance(counts, dict) or not {"dataset", "classes"} <= counts.keys():
        raise DataError(f"{COUNTS} has no dataset and classes: run `dvc repro`")
    return counts
