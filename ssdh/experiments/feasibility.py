"""Whether a data set can be run on this machine: parameters, data, weights, and a GPU where it would take hours."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from typing import Any

from ssdh.check import check, check_parameters
from ssdh.core.cache_dir import ssdh_home
from ssdh.core.device import select_device
from ssdh.core.errors import DataError, SSDHError
from ssdh.core.params import lookup, section
from ssdh.datasets import registry
from ssdh.datasets.base import default_num_query, default_num_train
from ssdh.features.backbone import ensure_weights, image_size, network_to_fill, resolve_layer
from ssdh.features.params import BackboneParams, ImageParams, ViewsParams, image_params

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
    if (images := image_params(params, name)) is None:
        return ""
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
    """No GPU, and a forward pass of all images and of the views of train images would take longer than `max_hours`."""
    name = lookup(params, "dataset")
    count = num_images(params)
    if count is None or count <= QUICK or select_device(lookup(params, "runtime.device")).type != "cpu":
        return ""
    if (images := image_params(params, name)) is None:
        return ""
    backbone: BackboneParams = section(params, "backbone", BackboneParams)
    views: ViewsParams = section(params, "views", ViewsParams)
    if not views.reason_for_none(images):
        count += views.count * num_train(params, count)
    seconds = count * forward_seconds(backbone, images)
    if seconds <= max_hours * 3600:
        return ""
    hours = math.ceil(seconds / 3600)
    return f"no GPU: extraction would take {in_words(seconds)} on this CPU (--max-hours {hours} runs it)"


BACKWARD = 3.0  # forward, backward and step against the forward pass alone: 3.1 was measured for VGG16
PROBE = 2  # images of the forward pass that is timed


def forward_seconds(backbone: BackboneParams, images: ImageParams) -> float:
    """Seconds a CPU forward pass of one image takes here, from one batch of two after a warm-up.

    The network's shape is all that matters: it holds constants, no weights are read.
    """
    import torch

    size = image_size(backbone, images)
    layer = resolve_layer(backbone, images.weights)
    network = network_to_fill(backbone.arch, layer, size, images.weights).eval()
    if any(value.is_meta for value in network.state_dict().values()):
        network.to_empty(device="cpu")
        with torch.no_grad():
            for value in network.state_dict().values():
                value.fill_(1)
    with torch.inference_mode():
        batch = torch.zeros(PROBE, 3, size, size)
        network(batch)
        started = time.perf_counter()
        network(batch)
        return (time.perf_counter() - started) / PROBE


def num_images(params: dict[str, Any]) -> int | None:
    """How many images the chosen data set has: as it states, else as lie in its folder; None without that."""
    name = str(lookup(params, "dataset"))
    dataset = registry.get(name)
    if dataset.num_images is not None:
        return dataset.num_images
    try:
        return len(dataset.read(section(params, f"datasets.{name}.data", dataset.Params)).names)
    except DataError:
        return None


def num_train(params: dict[str, Any], num_images: int) -> int:
    """How many of the chosen set's images train: as many as are asked for, else what the split takes by itself."""
    data = lookup(params, f"datasets.{lookup(params, 'dataset')}.data")
    num_query = data.get("num_query") or default_num_query(num_images)
    return data.get("num_train") or default_num_train(num_images - num_query)


def in_words(seconds: float) -> str:
    """A duration as a person says it.

    >>> in_words(40), in_words(600), in_words(30_000), in_words(400_000)
    ('less than a minute', 'about 10 minutes', 'about 8 hours', 'about 5 days')
    """
    if seconds < 60:
        return "less than a minute"
    for length, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 1.5 * length or unit == "minute":
            count = round(seconds / length)
            return f"about {count} {unit}{'s' if count != 1 else ''}"
    raise AssertionError(seconds)
