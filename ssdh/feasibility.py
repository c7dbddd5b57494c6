"""Whether a data set can be run on this machine: parameters, data, weights, and a GPU where it would take hours."""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

from ssdh.backbones import BackboneParams, ensure_weights
from ssdh.datasets import registry
from ssdh.devices import select_device
from ssdh.errors import DataError, SSDHError
from ssdh.forecast import forward_seconds, in_words, num_images
from ssdh.home import ssdh_home
from ssdh.image_params import ImageParams
from ssdh.params import lookup, section
from ssdh.preflight import check, check_parameters

QUICK = 10_000  # images: fewer are never too many


def why_not(params: dict[str, Any], *, download: bool, max_hours: float) -> str:
    """Why the experiment that `params` describe cannot be run here, in one line, or an empty string.

    Nothing is fetched without `download`. max_hours: of the extraction on the CPU, where there is no GPU.
    """
    try:
        check_parameters(params)
        with contextlib.nullcontext() if download else without_network():
            if not download and (why := _missing(params)):
                return why
            check(params)
    except SSDHError as error:
        return " ".join(str(error).replace(str(ssdh_home()), "$SSDH_HOME").split())
    return _too_long(params, max_hours)


def _missing(params: dict[str, Any]) -> str:
    """What is not here of data and weights."""
    name = str(lookup(params, "dataset"))
    dataset = registry.get(name)
    missing = dataset.find(section(params, f"datasets.{name}.data", dataset.Params)).missing
    if missing:
        more = ", …" if len(missing) > 3 else ""
        return f"no data: {', '.join(missing[:3])}{more} not found (python -m ssdh datasets {name})"
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    images: ImageParams = section(params, f"datasets.{name}.images", ImageParams)
    try:
        ensure_weights(backbone, images)
    except DataError:
        if images.weights == "file":
            raise
        return f"no weights: {images.weights} of {backbone.arch} not found"
    return ""


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """SSDH_OFFLINE=1 inside: what is missing is said, not fetched."""
    before = os.environ.get("SSDH_OFFLINE")
    os.environ["SSDH_OFFLINE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("SSDH_OFFLINE")
        if before is not None:
            os.environ["SSDH_OFFLINE"] = before


def _too_long(params: dict[str, Any], max_hours: float) -> str:
    """No GPU, and one forward pass over all images would take longer than `max_hours`."""
    name = lookup(params, "dataset")
    count = num_images(params)
    if count is None or count <= QUICK or select_device(lookup(params, "runtime.device")).type != "cpu":
        return ""
    images: ImageParams = section(params, f"datasets.{name}.images", ImageParams)
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    seconds = count * forward_seconds(backbone, images.weights, images.size)
    if seconds <= max_hours * 3600:
        return ""
    hours = math.ceil(seconds / 3600)
    return f"no GPU: extraction would take {in_words(seconds)} on this CPU (--max-hours {hours} runs it)"
