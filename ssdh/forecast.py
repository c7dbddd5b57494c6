"""How long the costly steps may take on this machine's CPU: one short forward pass, times the number of images."""

import time
from typing import Any

from ssdh.backbones import BackboneParams, build_network, resolve_layer, without_storage
from ssdh.datasets import registry
from ssdh.errors import DataError
from ssdh.params import lookup, section

BACKWARD = 3.0  # forward, backward and step against the forward pass alone: 3.1 was measured for VGG16
PROBE = 2  # images of the forward pass that is timed


def forward_seconds(backbone: BackboneParams, weights: str, size: int) -> float:
    """Seconds a CPU forward pass of one image of `size` px takes here, from one batch of two after a warm-up.

    The network's shape is all that matters: it holds constants, no weights are read.
    """
    import torch

    layer = resolve_layer(backbone, weights)
    network = without_storage(lambda: build_network(backbone.arch, layer, size)).eval()
    network.to_empty(device="cpu")
    with torch.inference_mode():
        for value in (*network.parameters(), *network.buffers()):
            value.fill_(1)
        images = torch.zeros(PROBE, 3, size, size)
        network(images)
        started = time.perf_counter()
        network(images)
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
