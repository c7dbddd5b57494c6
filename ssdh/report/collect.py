"""Bring together what the page shows: metrics, split, codes, pictures, parameters and the record of the stages."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssdh.core.cache_dir import raw_folder
from ssdh.core.errors import DataError
from ssdh.core.files import read_array
from ssdh.core.params import effective, lookup, section
from ssdh.core.split import Split, read_split
from ssdh.features.params import ViewsParams, image_params
from ssdh.hashing.codes import check_packed
from ssdh.report.contents import Report
from ssdh.report.gallery import TYPICAL, WORST, Pictures, show, worst_and_typical
from ssdh.report.inputs import numbers, published_rows, read_results, stage_records

BLOCK = 65_536  # codes unpacked at a time

PUBLISHED = Path(__file__).with_name("published.csv")


def collect(project: Path, params: dict[str, Any]) -> Report:
    """Read a run's files under `project` (`metrics/`, `data/`, `models/codes.npy`, `dvc.lock`).

    params: all of `params.yaml`. Raises DataError where files are missing or of different runs.
    """
    results = read_results(project / "metrics")
    name = str(lookup(params, "dataset"))
    split = read_split(project / "data/split")
    codes = np.asarray(read_array(project / "models/codes.npy"))
    labels = read_array(project / "data/labels.npy")
    bits = int(results.metrics.get("bits", 0))
    check_packed(codes, bits, "models/codes.npy")
    precision = numbers(results.per_query, "ap")
    if len(precision) and results.per_query["row"].tolist() != split.query.tolist():
        raise DataError("metrics/per_query.csv is of another split than data/split: run `dvc repro`")
    weights = str(lookup(params, f"datasets.{name}.images")["weights"])
    root = raw_folder(name, lookup(params, f"datasets.{name}.data")) if weights != "none" else None
    pictures = Pictures(project / "data/images", root)
    worst, typical = worst_and_typical(precision) if len(precision) else ([], _first(split))
    show_queries = partial(
        show,
        query=split.query,
        database=split.database,
        codes=codes,
        labels=labels,
        classes=list(results.data.get("classes", [])),
        average_precision=precision,
        pictures=pictures,
    )
    return Report(
        results=results,
        published=published_rows(PUBLISHED, results),
        stages=stage_records(project / "dvc.lock"),
        parameters=parameters(params),
        weights=weights,
        query_labels=np.asarray(labels[split.query]),
        bit_shares=bit_shares(codes, split.database, bits),
        worst=show_queries(worst),
        typical=show_queries(typical),
        tiny=pictures.tiny,
    )


def parameters(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parameters of a run by group, as they took effect: those of the chosen data set and recipe."""
    name = lookup(params, "dataset")
    block = lookup(params, f"datasets.{name}")
    network = {"images": block["images"], "backbone": params["backbone"]}
    return {
        "run": {key: params[key] for key in ("dataset", "bits", "seed", "recipe")},
        "data": {**block["data"], "topk": block["topk"]},
        **(network if block["images"]["weights"] != "none" else {}),  # no network runs on embeddings
        "structure": effective(params, "structure"),
        "train": effective(params, "train"),
        "views": views_made(params),
        "evaluate": params["evaluate"],
    }


def views_made(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the views, or why there are none although the recipe asks for some."""
    chosen: ViewsParams = section(params, "views", ViewsParams)
    reason = chosen.reason_for_none(image_params(params, str(lookup(params, "dataset"))))
    return {"none": reason} if reason else effective(params, "views")


def bit_shares(codes: NDArray[np.uint8], rows: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """Share of +1 of each bit over `rows` of packed codes (N, ⌈bits/8⌉); float64 (bits,).

    >>> bit_shares(np.array([[128], [192]], np.uint8), np.array([0, 1]), 2).tolist()
    [1.0, 0.5]
    """
    ones = np.zeros(bits, np.int64)
    for start in range(0, len(rows), BLOCK):
        block = codes[rows[start : start + BLOCK]]
        ones += np.unpackbits(block, axis=1, count=bits).sum(axis=0, dtype=np.int64)
    return ones / max(len(rows), 1)


def _first(split: Split) -> list[int]:
    """Without labels no query is better than another: the first ones of the seeded order."""
    return list(range(min(WORST + TYPICAL, len(split.query))))
